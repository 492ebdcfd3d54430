"""Say of a name of Lightning's that Holdfast has it not, and what to use. Imports nothing."""

from __future__ import annotations

_PRECISION = "Trainer(precision=...) chooses the kind of numbers."
_LOGGER = "A Logger of your own (holdfast.loggers.Logger) has four things to define."
_LOOPS = "What runs is the trainer's own; hooks of the module and of callbacks are the way in (docs/hooks.md)."
_ACCELERATOR = "Trainer(accelerator='cpu' or 'gpu') says it; torch.cuda tells what is there."
_TUNER = "Try the values in fits of your own, with limit_train_batches= and enable_checkpointing=False."
_CLI = "There is no LightningCLI: read arguments with argparse, and build the Trainer of them."

ABSENT = {
    "lightning.Fabric": "holdfast.Checkpointer saves and resumes a training loop of your own.",
    "lightning.fabric": "holdfast.Checkpointer saves and resumes a training loop of your own.",
    "lightning.fabric.utilities": "",
    "lightning.fabric.utilities.cloud_io": "fsspec.core.url_to_fs(path) gives the file system of a path.",
    "lightning.pytorch.utilities.cloud_io": "fsspec.core.url_to_fs(path) gives the file system of a path.",
    "lightning.pytorch.utilities.upgrade_checkpoint": "Older checkpoints are read as they are.",
    "lightning.app": "",
    "lightning.data": "Import litdata itself.",
    "lightning.pytorch.cli": _CLI,
    "lightning.pytorch.utilities.cli": _CLI,
    "lightning.pytorch.metrics": "Import torchmetrics itself.",
    "lightning.pytorch.tuner": _TUNER,
    "lightning.pytorch.callbacks.batch_size_finder": _TUNER,
    "lightning.pytorch.callbacks.BatchSizeFinder": _TUNER,
    "lightning.pytorch.callbacks.Checkpoint": "Derive from ModelCheckpoint, or from Callback.",
    "lightning.pytorch.callbacks.checkpoint": "Derive from ModelCheckpoint, or from Callback.",
    "lightning.pytorch.callbacks.lr_finder": _TUNER,
    "lightning.pytorch.callbacks.LearningRateFinder": _TUNER,
    "lightning.pytorch.accelerators": _ACCELERATOR,
    "lightning.pytorch.loops": _LOOPS,
    "lightning.pytorch.overrides": _LOOPS,
    "lightning.pytorch.trainer.call": _LOOPS,
    "lightning.pytorch.trainer.connectors": _LOOPS,
    "lightning.pytorch.strategies.launchers": _LOOPS,
    "lightning.pytorch.strategies": "Trainer(strategy=...) takes the names in docs/trainer.md.",
    "lightning.pytorch.plugins": _PRECISION,
    "lightning.pytorch.plugins.environments": "torchrun and Slurm are found by their environment variables.",
    "lightning.pytorch.plugins.layer_sync": "Trainer(sync_batchnorm=True) is what asks for it.",
    "lightning.pytorch.plugins.io": "holdfast.store is what writes checkpoints.",
    "lightning.pytorch.loggers": _LOGGER,
    "lightning.pytorch.serve": "torch.export takes a LightningModule as any module.",
    "lightning.pytorch.utilities.model_summary.LayerSummary": "ModelSummary has lists of what all layers are.",
    "lightning.pytorch.utilities.model_summary.model_summary.LayerSummary": "ModelSummary has lists of what all are.",
}
"""The beginning of a full name, to what to use instead; the longest that fits is taken."""


class NotServedError(ModuleNotFoundError):
    """A module or a name that Lightning has and Holdfast has not."""


def not_served(fullname: str) -> NotServedError:
    """The error for a full name, spelled as below ``lightning``."""
    parts = fullname.split(".")
    beginnings = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    remedy = next((ABSENT[one] for one in beginnings if one in ABSENT), "")
    what = f"Holdfast has no {parts[-1]} ({fullname})."
    # Without its name attribute: with it, `from package import name` would say something else.
    return NotServedError(f"{what} {remedy}".rstrip())
