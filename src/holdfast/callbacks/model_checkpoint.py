"""``ModelCheckpoint``: a table from flags to policies. It decides nothing and writes nothing itself.

The flags are those of "ModelCheckpoint API page" (Lightning 1.5) and "Customize checkpointing behavior" (Lightning 2.x).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Progress, Record
from holdfast.policy.what import full, weights_only
from holdfast.policy.when import When, at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import Best, Which, everything, last, nothing

if TYPE_CHECKING:
    from holdfast.training.saving import FolderView


class ModelCheckpoint(Callback):
    """Save checkpoints by a condition.

    Args:
        dirpath: The folder; by default ``checkpoints`` in the logger's folder, or in ``default_root_dir`` without one.
        filename: Template, such as ``"{epoch:02d}-{val_loss:.2f}"``; by default ``"{epoch}-{step}"``.
        monitor: The metric by which checkpoints are ranked; without one the newest is kept.
        verbose: Accepted; every save writes one line anyway.
        save_last: Whether ``last.ckpt`` is the newest state: moved at every due trigger, at each training epoch's end
            and at fit's end.
        save_top_k: How many of the best are kept; -1 all, 0 none. None is 1.
        save_weights_only: Leave out optimizers and all else that only resuming needs.
        mode: ``"min"`` or ``"max"``.
        auto_insert_metric_name: Whether ``{val_loss}`` becomes ``val_loss=0.3`` in a name.
        every_n_train_steps: Save every so many optimizer steps; 0 never.
        train_time_interval: Save when so much time has passed.
        every_n_epochs: Save every so many epochs; 0 never. Without any of the three it is 1.
        save_on_train_epoch_end: Whether epochs are counted at the training epoch's end or at validation's. By default
            at the training epoch's end, unless validation runs several times an epoch or not in every one.
        policy: Instead of the flags: a policy of your own.

    Raises:
        ConfigError: Flags contradict each other or make no sense; all of it in one error.
    """

    CHECKPOINT_JOIN_CHAR: ClassVar[str] = "-"
    CHECKPOINT_EQUALS_CHAR: ClassVar[str] = "="
    CHECKPOINT_NAME_LAST: ClassVar[str] = "last"
    FILE_EXTENSION: ClassVar[str] = ".ckpt"
    STARTING_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | None = None,
        save_top_k: int | None = 1,
        save_weights_only: bool = False,
        mode: Literal["min", "max"] = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        *,
        policy: Policy | None = None,
    ) -> None:
        self.dirpath = None if dirpath is None else os.path.realpath(os.path.expanduser(dirpath))
        self.filename = filename
        self.monitor = monitor
        self.verbose = verbose
        self.save_last = save_last
        self.save_top_k = 1 if save_top_k is None else save_top_k
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.auto_insert_metric_name = auto_insert_metric_name
        self._steps, self._interval, self._epochs = every_n_train_steps, train_time_interval, every_n_epochs
        self.save_on_train_epoch_end = save_on_train_epoch_end
        self._policy = policy
        self._view: FolderView | None = None
        _check(self, every_n_train_steps, train_time_interval, every_n_epochs)
        if every_n_train_steps is None and train_time_interval is None and every_n_epochs is None:
            self._epochs = 1
        self.which()
        self.where()

    # The table

    def when(self, *, on_train_epoch_end: bool) -> When:
        """When it saves ranked checkpoints."""
        if self._steps:
            return every(steps=self._steps)
        if self._interval is not None:
            return every(seconds=max(self._interval.total_seconds(), 1e-3))
        if self._epochs:
            wanted = self.save_on_train_epoch_end
            at_train_end = on_train_epoch_end if wanted is None else wanted
            return every(epochs=self._epochs, on=Event.TRAIN_EPOCH_END if at_train_end else Event.VALIDATION_END)
        return never()

    def which(self) -> Which:
        """Which of them it keeps."""
        if self.save_top_k == 0:
            return nothing()
        if self.save_top_k == -1:
            return everything()
        if self.monitor is None:
            return last(self.save_top_k)
        return Which((Best(self.save_top_k, self.monitor, self.mode),))

    def where(self) -> Where:
        """Their names."""
        return Where(
            self.filename or "{epoch}-{step}",
            auto_insert_metric_name=self.auto_insert_metric_name,
            join=self.CHECKPOINT_JOIN_CHAR,
            equals=self.CHECKPOINT_EQUALS_CHAR,
            extension=self.FILE_EXTENSION,
            starting_version=self.STARTING_VERSION,
        )

    def policies(self, name: str, *, on_train_epoch_end: bool) -> tuple[Policy, ...]:
        """What it registers: ranked checkpoints, and the alias if it is wanted."""
        if self._policy is not None:
            return (self._policy,)
        what = weights_only if self.save_weights_only else full
        when = self.when(on_train_epoch_end=on_train_epoch_end)
        ranked = Policy(name, when, self.which(), what, self.where())
        if not self.save_last:
            return (ranked,)
        ends = when | at(Event.TRAIN_EPOCH_END, Event.FIT_END)
        alias = Where(None, alias=self.CHECKPOINT_NAME_LAST, extension=self.FILE_EXTENSION)
        return (ranked, Policy(f"{name} last", ends, last(1), what, alias))

    @property
    def every_n_epochs(self) -> int | None:
        """The interval in epochs."""
        return self._epochs

    # Hooks: thin, but real: one that a subclass overrides without calling these saves nothing at that event

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the policies look at this batch's end."""
        trainer.saving.note(self, Event.BATCH_END)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Let them look at this epoch's end."""
        trainer.saving.note(self, Event.TRAIN_EPOCH_END)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Let them look at this validation's end."""
        trainer.saving.note(self, Event.VALIDATION_END)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let them look at the end of fit."""
        trainer.saving.note(self, Event.FIT_END)

    # What it has

    def attach(self, view: FolderView) -> None:
        """Told where its checkpoints are, when fit begins."""
        self._view = view
        self.dirpath = view.root

    @property
    def best_model_path(self) -> str:
        """Path of the best, or of the newest without ``monitor``; empty before there is one. Waits until it is durable."""
        best = self._best()
        return "" if best is None or self._view is None else self._view.path(best)

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """Its score; None without ``monitor``."""
        return self._score(self._best())

    @property
    def current_score(self) -> torch.Tensor | None:
        """The score of the newest."""
        return self._score(self._records()[-1] if self._records() else None)

    @property
    def best_k_models(self) -> dict[str, torch.Tensor]:
        """Path to score of each that is kept for its rank."""
        if self._view is None or self.monitor is None:
            return {}
        kept = self.which().keep(self._records())
        found = {self._view.path(r): self._score(r) for r in self._records() if r.id in kept}
        return {path: score for path, score in found.items() if score is not None}

    @property
    def kth_best_model_path(self) -> str:
        """Path of the worst of the ``best_k_models``, the next to go."""
        return self._worst()[0]

    @property
    def kth_value(self) -> torch.Tensor | None:
        """Its score."""
        return self._worst()[1]

    @property
    def last_model_path(self) -> str:
        """Path that ``save_last`` keeps; empty before there is one."""
        if self._view is None or not self.save_last:
            return ""
        newest = self._view.records(f"{self._view.name} last")
        return self._view.alias_path(newest[-1]) if newest else ""

    def format_checkpoint_name(
        self, metrics: Mapping[str, Any], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """The name for these metrics, as the template makes it; a metric that is missing counts as 0."""
        where = self.where() if filename is None else _renamed(self.where(), filename)
        values = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
        epoch, step = int(values.pop("epoch", 0)), int(values.pop("step", 0))
        name = where.name(Progress(epoch=epoch, steps=step), values, missing=0)
        stem = name.removesuffix(self.FILE_EXTENSION)
        if prefix:
            stem = f"{prefix}{self.CHECKPOINT_JOIN_CHAR}{stem}"
        if ver is not None:
            stem = f"{stem}{self.CHECKPOINT_JOIN_CHAR}v{ver}"
        return os.path.join(self.dirpath, stem + self.FILE_EXTENSION) if self.dirpath else stem + self.FILE_EXTENSION

    def _records(self) -> list[Record]:
        return [] if self._view is None else self._view.records(self._view.name)

    def _best(self) -> Record | None:
        return self.which().best_of(self._records())

    def _score(self, record: Record | None) -> torch.Tensor | None:
        if record is None or self.monitor is None or self.monitor not in record.scores:
            return None
        return torch.tensor(record.scores[self.monitor])

    def _worst(self) -> tuple[str, torch.Tensor | None]:
        models = self.best_k_models
        if not models:
            return "", None
        pick = max if self.mode == "min" else min
        return pick(models.items(), key=lambda item: item[1].item())


def _renamed(where: Where, template: str) -> Where:
    from dataclasses import replace

    return replace(where, template=template)


def _check(
    callback: ModelCheckpoint, steps: int | None, interval: timedelta | None, epochs: int | None
) -> None:
    problems = []
    if not isinstance(callback.save_top_k, int) or callback.save_top_k < -1:
        problems.append(f"save_top_k={callback.save_top_k!r} is no number of checkpoints (-1 is all, 0 is none)")
    elif callback.monitor is None and callback.save_top_k not in (-1, 0, 1):
        problems.append(f"save_top_k={callback.save_top_k} of the best needs monitor=, the metric to rank by")
    if callback.mode not in ("min", "max"):
        problems.append(f"mode is 'min' or 'max', not {callback.mode!r}")
    for name, number in (("every_n_train_steps", steps), ("every_n_epochs", epochs)):
        if number is not None and (not isinstance(number, int) or number < 0):
            problems.append(f"{name} is a whole number of 0 or more, not {number!r}")
    if interval is not None and (not isinstance(interval, timedelta) or not math.isfinite(interval.total_seconds())):
        problems.append(f"train_time_interval is a timedelta, not {interval!r}")
    given = [n for n, v in (("every_n_train_steps", steps), ("every_n_epochs", epochs)) if v]
    given += ["train_time_interval"] if interval is not None else []
    if len(given) > 1:
        problems.append(f"{' and '.join(given)} exclude each other: use a ModelCheckpoint for each")
    if callback.save_last not in (None, True, False):
        problems.append(f"save_last is True, False or None, not {callback.save_last!r}")
    if problems:
        raise ConfigError(f"ModelCheckpoint: {'; '.join(problems)}.")


def default_folder(root: Path, log_dir: Path | None) -> Path:
    """Where checkpoints go that nobody placed: beside the logs, or under the root without any."""
    return (log_dir or root) / "checkpoints"
