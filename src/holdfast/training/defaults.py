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
    problems = []
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        problems.append(f"accelerator is 'auto', 'cpu' or 'gpu', not {accelerator!r}")
    if devices not in ("auto", 1, "1", -1, [0], (0,)) or devices is True:
        problems.append(f"devices={devices!r}: this version trains on one device, leave devices= out")
    if problems:
        raise ConfigError("; ".join(problems))
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
    loggers = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [type(one).__name__ for one in loggers if not callable(getattr(one, "log_metrics", None))]
    if wrong:
        raise ConfigError(f"logger= takes True, False or Loggers, not {', '.join(wrong)}.")
    return loggers


def default_callbacks(given: Sequence[Callback], bar: bool | None, summary: bool | None) -> list[Callback]:
    """The progress bar and the summary, where they are wanted and nobody brought one."""
    from holdfast.callbacks.progress import ProgressBar, RichProgressBar
    from holdfast.callbacks.summary import ModelSummary

    added: list[Callback] = []
    for kind, default, wanted in ((ProgressBar, RichProgressBar, bar), (ModelSummary, ModelSummary, summary)):
        brought = any(isinstance(c, kind) for c in given)
        flag = "enable_progress_bar" if kind is ProgressBar else "enable_model_summary"
        if wanted is False and brought:
            raise ConfigError(f"{flag}=False contradicts the {kind.__name__} among the callbacks.")
        if wanted is not False and not brought:
            added.append(default())
    return added


def all_callbacks(
    given: Any, *, bar: bool | None, summary: bool | None, checkpointing: bool | None, fast: bool
) -> list[Callback]:
    """The callbacks, with a bar, a summary and a ``ModelCheckpoint`` where wanted; those that save come last."""
    callbacks = checked_callbacks([] if given is None else given, "callbacks= takes")
    savers = [c for c in callbacks if isinstance(c, ModelCheckpoint)]
    if checkpointing is False and savers:
        raise ConfigError("enable_checkpointing=False contradicts the ModelCheckpoint among the callbacks.")
    callbacks += default_callbacks(callbacks, bar, summary)
    if checkpointing is not False and not savers and not fast:
        callbacks.append(ModelCheckpoint())
    return savers_last(callbacks)


def checked_callbacks(given: Any, what: str) -> list[Callback]:
    """Callbacks in a list; raises ``ConfigError`` for anything else."""
    callbacks = [given] if isinstance(given, Callback) else given
    if not isinstance(callbacks, (list, tuple)):
        raise ConfigError(f"{what} a Callback or a list of them, not a {type(given).__name__}.")
    wrong = [
        f"the class {c.__name__} (make one: {c.__name__}())" if isinstance(c, type) else type(c).__name__
        for c in callbacks
        if not isinstance(c, Callback)
    ]
    if wrong:
        raise ConfigError(f"{what} Callbacks, not {', '.join(wrong)}.")
    return list(callbacks)


def savers_last(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks, those that save last."""
    return sorted(callbacks, key=lambda c: isinstance(c, ModelCheckpoint))
