"""What a trainer has that nobody asked for: device, loggers, progress bar, checkpoints; and the order of callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.training.evaluate import Evaluation


def sizes_of(evaluation: Evaluation) -> list[float]:
    """Batches of each loader; infinite where one does not say."""
    return [float("inf") if loader.size is None else loader.size for loader in evaluation.loaders]


def loggers_of(given: Any, root: str, fast: bool) -> list[Any]:
    """The loggers: by default TensorBoard's in the root where it is installed, else a CSV file there."""
    if given is False:
        return []
    if fast:
        from holdfast.loggers.dummy import DummyLogger

        return [DummyLogger()]  # what a module does with its logger is tried too
    if given is None or given is True:
        return [_default_logger(root)]
    several = isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "log_metrics")
    loggers = list(given) if several else [given]
    wrong = [type(one).__name__ for one in loggers if not callable(getattr(one, "log_metrics", None))]
    if wrong:
        raise ConfigError(f"logger= takes True, False or Loggers, not {', '.join(wrong)}.")
    return loggers


def _default_logger(root: str) -> Any:
    from holdfast.loggers.params import installed

    if installed("tensorboard"):
        from holdfast.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(root)
    from holdfast.loggers.csv_logs import CSVLogger

    return CSVLogger(root)


def version_of(logger: Any) -> int | str | None:
    """The version of a logger, which begins for that where it knows no version before."""
    if logger.version is None:
        _ = logger.experiment
    version: int | str | None = logger.version
    return version


def default_folder(loggers: Sequence[Any], root: Path, *, instead: str | None = None) -> Path:
    """Where checkpoints go that nobody placed: beside what the first logger keeps of this run, else in the root.

    Args:
        loggers: All of them.
        root: The trainer's.
        instead: Another root, for checkpoints alone: the old ``weights_save_path``.
    """
    root = root if instead is None else Path(instead)
    if not loggers:
        return root / "checkpoints"
    first = loggers[0]
    name, version = first.name, version_of(first)
    if version is None or version == "":
        return root / "checkpoints"
    folder = version if isinstance(version, str) else f"version_{version}"
    own = None if instead is not None else getattr(first, "root_dir", None)
    home = own or Path((None if instead is not None else first.save_dir) or root) / str(name or "")
    return Path(home) / folder / "checkpoints"


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
