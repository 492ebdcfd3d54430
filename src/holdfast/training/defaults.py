"""What a trainer has that nobody asked for: device, loggers, progress bar, checkpoints; and the order of callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.training.evaluate import Evaluation


def device_of(accelerator: str, devices: int | str | Sequence[int]) -> torch.device:
    """The device; raises ``ConfigError`` for one that is not there."""
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ConfigError(f"accelerator is 'auto', 'cpu' or 'gpu', not {accelerator!r}.")
    if devices not in ("auto", 1, "1", -1, [0], (0,)):
        raise ConfigError(f"devices={devices!r}: this version trains on one device.", remedy="Leave devices= out.")
    if accelerator == "cpu" or not torch.cuda.is_available():
        if accelerator in ("gpu", "cuda"):
            raise ConfigError("accelerator='gpu' was asked for, and torch sees none.")
        return torch.device("cpu")
    return torch.device("cuda", 0)


def sizes_of(evaluation: Evaluation) -> list[float]:
    """Batches of each loader; infinite where one does not say."""
    return [float("inf") if loader.size is None else loader.size for loader in evaluation.loaders]


def loggers_of(given: Any, root: str, fast: bool) -> list[Any]:
    """The loggers: by default a CSV file in the root."""
    if given is False or fast:
        return []
    if given is None or given is True:
        from holdfast.loggers.csv_logs import CSVLogger

        return [CSVLogger(root)]
    return list(given) if isinstance(given, (list, tuple)) else [given]


def default_callbacks(given: Sequence[Callback], bar: bool | None, summary: bool | None) -> list[Callback]:
    """The progress bar and the summary, where they are wanted and nobody brought one."""
    from holdfast.callbacks.progress import ProgressBar, RichProgressBar
    from holdfast.callbacks.summary import ModelSummary

    added: list[Callback] = []
    for kind, default, wanted in ((ProgressBar, RichProgressBar, bar), (ModelSummary, ModelSummary, summary)):
        brought = any(isinstance(c, kind) for c in given)
        if wanted is False and brought:
            raise ConfigError(
                f"enable_{'progress_bar' if kind is ProgressBar else 'model_summary'}=False contradicts the {kind.__name__} among the callbacks."
            )
        if wanted is not False and not brought:
            added.append(default())
    return added


def in_order(callbacks: Iterable[Callback], enable: bool | None, fast: bool) -> list[Callback]:
    """The callbacks, checked, with a ``ModelCheckpoint`` where checkpoints are on; those that save come last."""
    given = list(callbacks)
    wrong = [type(c).__name__ for c in given if not isinstance(c, Callback)]
    if wrong:
        raise ConfigError(f"callbacks= takes Callbacks, not {', '.join(wrong)}.")
    savers = [c for c in given if isinstance(c, ModelCheckpoint)]
    if enable is False and savers:
        raise ConfigError("enable_checkpointing=False contradicts the ModelCheckpoint among the callbacks.")
    if enable is not False and not savers and not fast:
        given.append(ModelCheckpoint())
    return savers_last(given)


def savers_last(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks, those that save last."""
    return sorted(callbacks, key=lambda c: isinstance(c, ModelCheckpoint))
