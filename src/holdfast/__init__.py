"""Holdfast: PyTorch training whose every saved step is complete, verified, and resumed exactly.

Names are loaded when they are first used: ``import holdfast`` by itself does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdfast._version import __version__

if TYPE_CHECKING:
    from holdfast.callbacks.callback import Callback
    from holdfast.checkpointer import Checkpointer
    from holdfast.engine.engine import SaveFailedWarning
    from holdfast.engine.job import OpaqueStateWarning
    from holdfast.errors import (
        CheckpointError,
        ConfigError,
        Corrupt,
        Foreign,
        HoldfastError,
        Incompatible,
        NotFound,
        RankError,
        SaveFailed,
        StoreError,
        Unreadable,
    )
    from holdfast.policy.values import Event, Progress
    from holdfast.policy.what import full, trainable_only, weights_only
    from holdfast.policy.when import at, every, never
    from holdfast.policy.which import best, everything, last, nothing, pinned
    from holdfast.seed import seed_everything
    from holdfast.store import MemoryStore
    from holdfast.training.datamodule import LightningDataModule
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

_HOMES = {
    "holdfast.training.trainer": ("Trainer",),
    "holdfast.training.module": ("LightningModule",),
    "holdfast.training.datamodule": ("LightningDataModule",),
    "holdfast.callbacks.callback": ("Callback",),
    "holdfast.seed": ("seed_everything",),
    "holdfast.checkpointer": ("Checkpointer",),
    "holdfast.policy.when": ("every", "at", "never"),
    "holdfast.policy.which": ("best", "last", "everything", "nothing", "pinned"),
    "holdfast.policy.what": ("full", "weights_only", "trainable_only"),
    "holdfast.policy.values": ("Event", "Progress"),
    "holdfast.store": ("MemoryStore",),
    "holdfast.engine.engine": ("SaveFailedWarning",),
    "holdfast.engine.job": ("OpaqueStateWarning",),
    "holdfast.errors": (
        "HoldfastError",
        "ConfigError",
        "CheckpointError",
        "NotFound",
        "Corrupt",
        "Unreadable",
        "Foreign",
        "Incompatible",
        "SaveFailed",
        "StoreError",
        "RankError",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Checkpointer",
    "Trainer", "LightningModule", "LightningDataModule", "Callback", "seed_everything",
    "every", "at", "never",
    "best", "last", "everything", "nothing", "pinned",
    "full", "weights_only", "trainable_only",
    "Event", "Progress",
    "MemoryStore",
    "HoldfastError", "ConfigError", "CheckpointError", "NotFound", "Corrupt", "Unreadable", "Foreign",
    "Incompatible", "SaveFailed", "StoreError", "RankError", "SaveFailedWarning", "OpaqueStateWarning",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
