"""``ModelCheckpoint``: a table from flags to policies. It decides nothing and writes nothing itself.

The flags are those of "ModelCheckpoint API page" (Lightning 1.5) and of "Customize checkpointing behavior" (2.x).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from holdfast.callbacks import checkpoint_flags
from holdfast.callbacks.callback import Callback
from holdfast.callbacks.elsewhere import Elsewhere
from holdfast.callbacks.own_names import OwnNames, renamed
from holdfast.errors import ConfigError
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Progress, Record
from holdfast.policy.what import full, weights_only
from holdfast.policy.when import When, at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import Best, Which, everything, last, nothing

if TYPE_CHECKING:
    from holdfast.training.places import FolderView

_DEFAULTS: dict[str, Any] = {
    "filename": None, "monitor": None, "save_last": None, "save_top_k": 1, "save_weights_only": False, "mode": "min",
    "auto_insert_metric_name": True, "every_n_train_steps": None, "train_time_interval": None, "every_n_epochs": None,
    "save_on_train_epoch_end": None, "save_on_exception": False, "enable_version_counter": True,
}  # fmt: skip


class ModelCheckpoint(Callback):
    """Save checkpoints by a condition.

    Args:
        dirpath: The folder; by default ``checkpoints`` in the logger's folder, or in ``default_root_dir`` without one.
        filename: Template, such as ``"{epoch:02d}-{val_loss:.2f}"``; by default ``"{epoch}-{step}"``.
        monitor: The metric by which checkpoints are ranked; without one the newest is kept.
        verbose: Accepted; every save writes one line anyway.
        save_last: Whether ``last.ckpt`` is the newest state: moved at every due trigger, at each training epoch's end
            and at fit's end. None and False never do that. It is a second name of the newest checkpoint and no copy
            where the folder's file system has hard links, so ``"link"`` is the same as True.
        save_top_k: How many of the best are kept; -1 all, 0 none. None is 1.
        save_weights_only: Leave out optimizers and all else that only resuming needs.
        mode: ``"min"`` or ``"max"``.
        auto_insert_metric_name: Whether ``{val_loss}`` becomes ``val_loss=0.3`` in a name.
        every_n_train_steps: Save every so many optimizer steps; 0 never.
        train_time_interval: Save when so much time has passed; zero is at every batch.
        every_n_epochs: Save every so many epochs; 0 never. Without any of the three it is 1.
        save_on_train_epoch_end: Whether epochs are counted at the training epoch's end or at validation's. By default
            at the training epoch's end, unless validation runs several times an epoch or not in every one.
        every_n_val_epochs: The old name of ``every_n_epochs``.
        period: An older one.
        save_on_exception: Whether what an error leaves is named as this callback names its files, and stays. By
            default it is a rescue, which goes after the next clean end.
        enable_version_counter: Whether a name that is taken gets a version. Otherwise the newest has it, and what
            had it before gets the version, if it stays.
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
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int | None = 1,
        save_weights_only: bool = False,
        mode: Literal["min", "max"] = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        every_n_val_epochs: int | None = None,
        *,
        period: int | None = None,
        save_on_exception: bool = False,
        enable_version_counter: bool = True,
        policy: Policy | None = None,
    ) -> None:
        self.dirpath = None if dirpath is None else os.path.realpath(Path(dirpath).expanduser())
        self.filename, self.monitor, self.mode = filename, monitor, mode
        self.verbose = verbose
        self.save_last = save_last
        self.save_top_k = 1 if save_top_k is None else save_top_k
        self.save_weights_only = save_weights_only
        self.auto_insert_metric_name = auto_insert_metric_name
        self.every_n_train_steps, self.train_time_interval = every_n_train_steps, train_time_interval
        self.every_n_epochs = checkpoint_flags.epochs(every_n_epochs, every_n_val_epochs, period)
        self.save_on_train_epoch_end = save_on_train_epoch_end
        self.save_on_exception, self.enable_version_counter = save_on_exception, enable_version_counter
        self._policy = policy
        self._elsewhere = Elsewhere()
        self._view: FolderView | None = None
        self._trainer: Any = None
        flags = {**vars(self), "last_name": self.CHECKPOINT_NAME_LAST}
        if policy is not None:
            checkpoint_flags.without_policy(flags, _DEFAULTS)
            ranking = next((rule for rule in policy.which.rules if isinstance(rule, Best)), None)
            self.monitor, self.mode = (ranking.metric, ranking.mode) if ranking else (None, "min")
        checkpoint_flags.check(flags)
        if every_n_train_steps is None and train_time_interval is None and self.every_n_epochs is None:
            self.every_n_epochs = 1
        self.where()

    # The table

    def when(self, *, on_train_epoch_end: bool) -> When:
        """When it saves ranked checkpoints."""
        if self._policy is not None:
            return self._policy.when
        if self.every_n_train_steps:
            return every(steps=self.every_n_train_steps)
        if self.train_time_interval is not None:
            seconds = self.train_time_interval.total_seconds()
            return every(seconds=seconds) if seconds else at(Event.BATCH_END)
        if self.every_n_epochs:
            wanted = self.save_on_train_epoch_end
            at_train_end = on_train_epoch_end if wanted is None else wanted
            return every(epochs=self.every_n_epochs, on=Event.TRAIN_EPOCH_END if at_train_end else Event.VALIDATION_END)
        return never()

    def which(self) -> Which:
        """Which of them it keeps."""
        if self._policy is not None:
            return self._policy.which
        if self.save_top_k == 0:
            return nothing()
        if self.save_top_k == -1:
            return everything()
        if self.monitor is None:
            return last(self.save_top_k)
        return Which((Best(self.save_top_k, self.monitor, self.mode, tuple(self._elsewhere.scores.values())),))

    def where(self) -> Where:
        """Their names."""
        if self._policy is not None:
            return self._policy.where
        return Where(self.filename or "{epoch}-{step}", **self._affixes())

    def policies(self, name: str, *, on_train_epoch_end: bool) -> tuple[Policy, ...]:
        """What it registers: ranked checkpoints, and the alias if it is wanted."""
        if self._policy is not None:
            return (self._policy,)
        what = weights_only if self.save_weights_only else full
        when = self.when(on_train_epoch_end=on_train_epoch_end)
        ranked = Policy(name, when, self.which(), what, self.names())
        if not self.save_last:
            return (ranked,)
        ends = when | at(Event.TRAIN_EPOCH_END, Event.FIT_END)
        alias = Where(None, alias=self.CHECKPOINT_NAME_LAST, **self._affixes())
        return (ranked, Policy(f"{name} last", ends, last(1), what, alias))

    def _affixes(self) -> dict[str, Any]:
        return {
            "auto_insert_metric_name": self.auto_insert_metric_name,
            "join": self.CHECKPOINT_JOIN_CHAR,
            "equals": self.CHECKPOINT_EQUALS_CHAR,
            "extension": self.FILE_EXTENSION,
            "starting_version": self.STARTING_VERSION,
            "version_counter": self.enable_version_counter,
        }

    def names(self) -> Where:
        """Their names, or the methods of a subclass that names its files itself."""
        own = type(self)
        names = own.format_checkpoint_name is not ModelCheckpoint.format_checkpoint_name
        exists = own.file_exists is not ModelCheckpoint.file_exists
        if not names and not exists:
            return self.where()
        return OwnNames(
            **vars(self.where()),
            folder=self.dirpath or "",
            names=self.format_checkpoint_name if names else None,
            exists=(lambda path: self.file_exists(path, self._trainer)) if exists else None,
        )

    @property
    def state_key(self) -> str:
        """Tells it from others of its class by what they watch and when."""
        told = {
            "monitor": self.monitor,
            "mode": self.mode,
            "every_n_train_steps": self.every_n_train_steps or 0,
            "every_n_epochs": self.every_n_epochs or 0,
            "train_time_interval": self.train_time_interval,
        }
        return f"{type(self).__qualname__}{told}"

    def state_dict(self) -> dict[str, Any]:
        """What Lightning's callback of this name remembers, for readers of this family of files.

        Here a folder's checkpoints tell all of it; of what is read back, only checkpoints elsewhere count.
        """
        if self._view is None:
            return {}
        records = self._records()
        best, models = self._leading(records), self._models(records)
        worst = self._worst(models)
        return {
            "monitor": self.monitor,
            "best_model_score": best[1],
            "best_model_path": best[0],
            "current_score": self._score(records[-1] if records else None),
            "dirpath": self._view.root,
            "best_k_models": models,
            "kth_best_model_path": worst[0],
            "kth_value": worst[1],
            "last_model_path": self.last_model_path,
            **self._elsewhere.to_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rank beside the checkpoints of another program that the run went on from, where it went on from one."""
        if state_dict.get("monitor", self.monitor) == self.monitor:
            self._elsewhere = Elsewhere.from_state(state_dict, there=os.path.exists)

    # Hooks: thin, but real: one that a subclass overrides without calling these saves nothing at that event

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Know the trainer, for ``file_exists``."""
        self._trainer = trainer

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the policies look at this batch's end."""
        trainer.saving.note(self, Event.BATCH_END)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Let them look at this epoch's end."""
        trainer.saving.note(self, Event.TRAIN_EPOCH_END)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Let them look at this validation's end, if it is one of a fit."""
        if trainer.saving is not None:
            trainer.saving.note(self, Event.VALIDATION_END)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let them look at the end of fit."""
        trainer.saving.note(self, Event.FIT_END)

    def save_checkpoint(self, trainer: Any) -> None:
        """Save this very step now, by the rules of this callback: what they do not keep is not saved.

        Call it from a hook of a fit. Where the rules rank by a metric that was not measured at this step, the next
        validation decides.

        Raises:
            ConfigError: The trainer cannot save, or runs no fit.
        """
        if getattr(trainer, "save_checkpoint", None) is None:
            raise ConfigError(f"ModelCheckpoint saves through a Trainer, which {type(trainer).__name__} is not.")
        if trainer.saving is None:
            raise ConfigError("ModelCheckpoint.save_checkpoint() is for a fit, and none runs.")
        trainer.saving.save_now(self)

    # What it has

    def attach(self, view: FolderView) -> None:
        """Told where its checkpoints are, when fit begins."""
        self._view = view
        self.dirpath = view.root

    @property
    def best_model_path(self) -> str:
        """Path of the best, or of the newest without ``monitor``; empty before there is one. Waits for its bytes."""
        return self._leading(self._records())[0]

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """Its score; None without ``monitor``."""
        return self._leading(self._records())[1]

    @property
    def current_score(self) -> torch.Tensor | None:
        """The score of the newest that was kept."""
        records = self._records()
        return self._score(records[-1] if records else None)

    @property
    def best_k_models(self) -> dict[str, torch.Tensor]:
        """Path to score of each that is kept for its rank."""
        return self._models(self._records())

    @property
    def kth_best_model_path(self) -> str:
        """Path of the worst of ``save_top_k`` models, the next to go; empty while there are fewer."""
        return self._worst(self.best_k_models)[0]

    @property
    def kth_value(self) -> torch.Tensor | None:
        """Its score."""
        return self._worst(self.best_k_models)[1]

    @property
    def last_model_path(self) -> str:
        """Path that ``save_last`` keeps; empty before there is one."""
        return self._view.alias() if self._view is not None else ""

    def format_checkpoint_name(
        self, metrics: Mapping[str, Any], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """The name for these metrics, as the template makes it; a metric that is missing counts as 0."""
        where = self.where() if filename is None else renamed(self.where(), filename)
        values = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
        epoch, step = int(values.pop("epoch", 0)), int(values.pop("step", 0))
        name = where.name(Progress(epoch=epoch, steps=step), values, missing=0)
        stem = name.removesuffix(self.FILE_EXTENSION)
        if prefix:
            stem = f"{prefix}{self.CHECKPOINT_JOIN_CHAR}{stem}"
        if ver is not None:
            stem = f"{stem}{self.CHECKPOINT_JOIN_CHAR}v{ver}"
        return str(Path(self.dirpath or "") / (stem + self.FILE_EXTENSION))

    def file_exists(self, filepath: str | os.PathLike[str], trainer: Any) -> bool:
        """Whether there is such a file. A subclass may call more names taken; what is there is never overwritten."""
        return Path(filepath).exists()

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write ``best_k_models`` as YAML, by default to ``best_k_models.yaml`` in the folder."""
        from holdfast.loggers.yaml_text import yaml_text

        target = Path(filepath) if filepath is not None else Path(self.dirpath or "") / "best_k_models.yaml"
        target.write_text(yaml_text({path: score.item() for path, score in self.best_k_models.items()}))

    def _records(self) -> list[Record]:
        return [] if self._view is None else self._view.records()

    def ranking(self) -> Which:
        """The rules by which one of them is the best, also where all are kept."""
        which = self.which()
        if self.save_top_k in (-1, 0) and self.monitor is not None and self._policy is None:
            return Which((Best(1, self.monitor, self.mode), *which.rules))
        return which

    def _leading(self, records: list[Record]) -> tuple[str, torch.Tensor | None]:
        """Path and score of the best; of those elsewhere where that is better, or where this run has none."""
        best, value = self.ranking().best_of(records), None
        if best is not None and self.monitor is not None:
            value = best.scores.get(self.monitor)
        path = "" if best is None or self._view is None else self._view.path(best)
        path, value = self._elsewhere.first(path, value, self.mode)
        return path, None if value is None else torch.tensor(value)

    def _models(self, records: list[Record]) -> dict[str, torch.Tensor]:
        """Path to score of those that are kept for their rank, those elsewhere among them."""
        if self.monitor is None:
            return {}
        kept = self.which().keep(records) if self._view is not None else {}
        own = {self._view.path(r): r.scores[self.monitor] for r in records if self._view and self._scored(r, kept)}
        models = self._elsewhere.among(own, self.save_top_k, self.mode)
        return {path: torch.tensor(score) for path, score in models.items()}

    def _scored(self, record: Record, kept: Mapping[str, str]) -> bool:
        return record.id in kept and self.monitor in record.scores

    def _score(self, record: Record | None) -> torch.Tensor | None:
        if record is None or self.monitor is None or self.monitor not in record.scores:
            return None
        return torch.tensor(record.scores[self.monitor])

    def _worst(self, models: Mapping[str, torch.Tensor]) -> tuple[str, torch.Tensor | None]:
        if not models or len(models) != self.save_top_k:
            return "", None
        pick = max if self.mode == "min" else min
        return pick(models.items(), key=lambda item: item[1].item())
