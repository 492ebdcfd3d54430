"""Puts together what a fit, a validation or a test needs: hooks, loaders, loops, loggers, savers. Runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.early_stopping import EarlyStopping
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.state.signals import Signals
from holdfast.training.defaults import checked_callbacks, default_folder, savers_last, version_of
from holdfast.training.facts import Facts
from holdfast.training.hooks import Hooks, overrides
from holdfast.training.metrics import MetricLog, SilentLog, numbers
from holdfast.training.module import LightningModule
from holdfast.training.ranks import any_rank, union

if TYPE_CHECKING:
    from holdfast.engine.job import Captured
    from holdfast.policy.what import What
    from holdfast.strategies.base import TrainingStrategy
    from holdfast.training.agreement import Agreement
    from holdfast.training.checkpoint_io import CheckpointIO
    from holdfast.training.data import Batches, Transfer
    from holdfast.training.evaluate import Evaluation, Stage
    from holdfast.training.fit import FitLoop
    from holdfast.training.saving import Saving
    from holdfast.training.states import TrainerFn
    from holdfast.training.trainer import Trainer

LOADERS: dict[Stage, str] = {"validation": "val", "test": "test", "predict": "predict"}
"""What the loaders of a stage are called by."""


class Assembly(Facts):
    """The side of ``Trainer`` that makes the parts of a run and gives each the values that it needs."""

    checkpoint_io: CheckpointIO | None = None
    """A user's own way to write checkpoints; None for Holdfast's."""
    _shared: Sequence[int] = ()
    """How many batches of each validation loader every rank has: at those, all can be asked something."""
    _log_hparams: bool
    _samples: bool

    def _check_model(self, model: Any) -> None:
        if not isinstance(model, LightningModule):
            raise ConfigError(f"A Trainer runs a LightningModule, not a {type(model).__name__}.")

    def _attach(self, model: LightningModule, datamodule: Any) -> None:
        self._module, self._datamodule = model, datamodule
        self._train_batches = self._validation = self._test = self._prediction = None
        model.trainer = cast("Trainer", self)
        if datamodule is not None:
            datamodule.trainer = self
        added = model.configure_callbacks()
        fresh = checked_callbacks([added] if isinstance(added, Callback) else added, "configure_callbacks() returns")
        kept = [c for c in self.callbacks if not any(type(c) is type(f) for f in fresh)]
        self.callbacks = savers_last([*kept, *fresh])
        for callback in self.callbacks:
            callback._logs_by = model
        self.metric_log = SilentLog() if self.config.barebones else MetricLog()
        self.metric_log.module = model
        self.metric_log.reduce = self.strategy.reduce if self.world_size > 1 else None
        self.metric_log.union = partial(union, self.strategy.group) if self.world_size > 1 else None
        self.should_stop = self.sanity_checking = False
        self.hooks = self._hooks(model)

    def _hooks(self, model: LightningModule) -> Hooks:
        if self._profiler is None:
            return Hooks(self, model, LightningModule, self.callbacks, self.hook_context)
        from holdfast.profilers.watching import WatchedHooks

        return WatchedHooks(self._profiler, self, model, LightningModule, self.callbacks, self.hook_context)

    def _computing(self) -> TrainingStrategy:
        """The strategy as loops call it."""
        if self._profiler is None:
            return self.strategy
        from holdfast.profilers.watching import WatchedStrategy

        return cast("TrainingStrategy", WatchedStrategy(self._profiler, self.strategy))

    def _read(self, batches: Batches, action: str) -> Batches:
        """Batches as loops read them."""
        if self._profiler is None:
            return batches
        from holdfast.profilers.watching import WatchedBatches

        return cast("Batches", WatchedBatches(self._profiler, batches, action))

    def _agree_on_versions(self) -> None:
        """Every rank knows the version that rank 0 took for a logger: folders follow from it."""
        from holdfast.loggers.base import Logger

        ours = [one for one in self.loggers if isinstance(one, Logger)]
        taken = [version_of(one) for one in ours] if self.is_global_zero else None
        for one, version in zip(ours, self.strategy.group.broadcast(taken, phase="versions of loggers"), strict=True):
            if version is not None:
                one.go_on_in(version)

    def _setup(self, stage: TrainerFn) -> None:
        model, datamodule = self.lightning_module, self._datamodule
        if self.world_size > 1:
            self._agree_on_versions()
        if self._profiler is not None:
            self._profiler.setup(stage, self.local_rank if self.world_size > 1 else None, self.log_dir)
        for owner in (datamodule, model):  # once a host, where what is prepared lies on its disk
            if owner is not None and (self.local_rank if owner.prepare_data_per_node else self.global_rank) == 0:
                owner.prepare_data()
        self.strategy.group.barrier(phase="prepare_data")
        if datamodule is not None:
            datamodule.setup(stage=stage)
        self.hooks.call_stage("setup", stage)
        with self.strategy.model_context():
            model.configure_model()
        self._hyperparameters()  # those that contradict each other are told now: loggers get them when all is made
        self.strategy.setup(model, training=stage == "fit")

    def _tear_down(self, stage: TrainerFn) -> None:
        evaluations = [one for one in (self._validation, self._test, self._prediction) if one is not None]
        for batches in (self._train_batches, *(loader for one in evaluations for loader in one.loaders)):
            if batches is not None:
                batches.feed.close()
        if self._datamodule is not None:
            self._datamodule.teardown(stage=stage)
        self.hooks.call_stage("teardown", stage)
        self.strategy.teardown(self.lightning_module)

    def _watching(self) -> AbstractContextManager[Any]:
        return torch.autograd.set_detect_anomaly(True) if self.config.detect_anomaly else nullcontext()

    def _loaders(self, kind: str, given: Any) -> Any:
        from holdfast.training.data import loaders_of

        return loaders_of(kind, given, self._datamodule, self.lightning_module, LightningModule)

    def _training_batches(self, given: Any, before: Batches | None = None) -> Batches:
        from holdfast.state.samplers import shared_order
        from holdfast.training.data import in_sequence, limited

        loader = self._loaders("train", given)
        if loader is None:
            raise ConfigError("There is nothing to train on: the datamodule has no train_dataloader.")
        loader = in_sequence(loader) if self.config.overfit_batches else loader
        sampled = self._sampled(loader, training=not self.config.overfit_batches)
        batches = limited(sampled, self.config.limit("train"), what="train")
        if before is not None and shared_order(loader) is None:  # what the user has shared out himself stays as it is
            batches.go_on_sharing(before)
        return self._read(batches, "[FitLoop].train_dataloader_next")

    def _reloading(self, train: Any, val: Any) -> Callable[[int], Batches | None]:
        """Asks for loaders anew in every n-th epoch but the first; and where a run goes on, now that it knows where."""
        begun = False

        def reload(epoch: int) -> Batches | None:
            nonlocal begun
            first, begun = not begun, True
            every = self.config.reload_every
            if not every or (epoch == 0 if first else epoch % every):
                return None
            if self._validation is not None:
                self._validation.loaders = self._evaluation_batches("val", val)
                self._share(self._validation)
            self._train_batches = self._training_batches(train, self._train_batches)
            return self._train_batches

        return reload

    def _evaluation_batches(self, kind: str, given: Any) -> list[Batches]:
        from holdfast.training.data import in_sequence, limited, several

        loaders = several(self._loaders(kind, given))
        if self.config.overfit_batches and kind == "val":
            loaders = [in_sequence(one) for one in loaders]
        loaders = [self._sampled(one, training=False) for one in loaders]
        shared = self.world_size > 1 and self._samples
        found = [limited(one, self.config.limit(kind), what=kind, of_ranks=shared) for one in loaders]
        return [self._read(one, f"[Evaluation].{kind}_dataloader_next") for one in found]

    def _sampled(self, loader: Any, *, training: bool) -> Any:
        return self.strategy.sampled(loader, training=training) if self._samples else loader

    def _transfer(self) -> Transfer:
        from holdfast.training.data import Transfer

        return Transfer(self.lightning_module, self._datamodule, self.strategy, LightningModule)

    def _evaluation(self, stage: Stage, given: Any) -> Evaluation | None:
        from holdfast.training.evaluate import Evaluation

        if stage != "predict" and not overrides(self.lightning_module, f"{stage}_step", LightningModule):
            return None
        loaders = self._evaluation_batches(LOADERS[stage], given)
        if not any_rank(self.strategy.group, any(loader.size != 0 for loader in loaders)):
            return None
        return Evaluation(
            stage,
            module=self.lightning_module,
            strategy=self._computing(),
            hooks=self.hooks,
            context=self.hook_context,
            metrics=self.metric_log,
            loaders=loaders,
            transfer=self._transfer(),
            inference_mode=self.config.inference_mode and self.strategy.infers,
            check=self._check_signal,
        )

    def _loop(self, batches: Batches, evaluation: Evaluation | None, agreement: Agreement) -> FitLoop:
        from holdfast.training.fit import FitLoop

        late = [c for c in self.callbacks if isinstance(c, (ModelCheckpoint, EarlyStopping))]
        early = [c for c in self.callbacks if c not in late]
        name = "on_train_epoch_end"
        return FitLoop(
            module=self.lightning_module,
            strategy=self._computing(),
            hooks=self.hooks,
            context=self.hook_context,
            metrics=self.metric_log,
            batches=batches,
            transfer=self._transfer(),
            optimizers=self.optimizers,
            schedulers=self.lr_scheduler_configs,
            limits=self.config.limits(batches),
            evaluation=evaluation,
            consider=lambda event, validates=False: self._ready().consider(event, validates),
            fence=lambda: self._ready().fence(),
            agreement=agreement,
            log_step=lambda: self._log(self.metric_log.step_values()),
            log_epoch=self._log,
            out_of_time=self._stop,
            restore_random=lambda: None,
            early_epoch_end=(*self.hooks.of_callbacks(name, early), *self.hooks.of_module(name)),
            late_epoch_end=self.hooks.of_callbacks(name, late),
        )

    def _saving(
        self, loop: FitLoop, signals: Signals, *, validates: bool, capture: Callable[[What], Captured]
    ) -> Saving:
        from holdfast.training.saving import Saving  # a program that only tests or predicts never loads it

        root = Path(self.default_root_dir)
        places = [
            (callback, Path(callback.dirpath) if callback.dirpath else self._default_folder(root))
            for callback in self.checkpoint_callbacks
            if not self.config.fast_dev_run
        ]
        if self.world_size > 1:  # those of rank 0 count: a path with a time in it differs from rank to rank
            folders = self.strategy.group.broadcast([str(folder) for _, folder in places], phase="folders")
            places = [(callback, Path(folder)) for (callback, _), folder in zip(places, folders, strict=True)]
        return Saving(
            places,
            on_train_epoch_end=self.config.epoch_end_counts(validates, loop.limits),
            capture=capture,
            progress=lambda: loop.progress,
            scores=lambda: self.metric_log.scores(loop.steps),
            logged=lambda: self.metric_log.names,
            signals=signals,
            agreement=loop.agreement,
            group=self.strategy.group,
            validates=validates,
            logs_late=self._logs_late(),
            watched=self._watched(),
            saved=self._tell_of_checkpoint,
            io=self.checkpoint_io,
            memory=self.config.save_memory,
        )

    def _logs_late(self) -> bool:
        """Whether somebody but us has a hook at a training epoch's end, and may log there for the first time."""
        name = "on_train_epoch_end"
        users = [c for c in self.callbacks if not type(c).__module__.startswith("holdfast.")]
        return bool(self.hooks.of_module(name) or self.hooks.of_callbacks(name, users))

    def _watched(self) -> list[str]:
        """The metrics by which something but a checkpoint is decided."""
        schedulers = [c.monitor for c in self.lr_scheduler_configs if c.plateau and c.monitor is not None]
        return [*schedulers, *(c.monitor for c in self.early_stopping_callbacks)]

    def _default_folder(self, root: Path) -> Path:
        return self._home or default_folder(self.loggers, root, instead=self.weights_save_path)

    def _roots(self) -> list[str]:
        """Where runs are looked for that nobody placed, and in the folders below."""
        own = [one.root_dir for one in self.loggers if getattr(one, "root_dir", None)]
        return [self.default_root_dir, *filter(None, [self.weights_save_path]), *own]

    def _log(self, values: dict[str, torch.Tensor]) -> None:
        """Hand values to the loggers; only here are they read."""
        if values and self._writing:
            read = {"epoch": self.current_epoch, **numbers(values)}
            loop = self.loop
            now = 0 if loop is None else loop.stepped - (loop.running and loop.stepped > 0)
            step = int(read.pop("step", now))  # whoever logs a "step" chooses the x-axis
            for one in self._writing:
                one.log_metrics(read, step=step)

    @property
    def _writing(self) -> list[Any]:
        """The loggers, on the one rank that writes."""
        return self.loggers if self.is_global_zero else []

    def _hyperparameters(self) -> dict[str, Any]:
        """What loggers get of the hyperparameters."""
        owners = (self.lightning_module, self._datamodule) if self.loggers and self._log_hparams else ()
        kept = [one.hparams_initial for one in owners if getattr(one, "_log_hyperparams", False)]
        if len(kept) < 2:
            return dict(*kept)
        from holdfast.training.hparams_logged import merged

        return merged(*kept)

    def _log_hyperparameters(self) -> None:
        values = self._hyperparameters()
        for one in self._writing:
            if values:
                one.log_hyperparams(values)
            one.log_graph(self.lightning_module)
            one.save()

    def _tell_of_checkpoint(self, callback: ModelCheckpoint) -> None:
        for one in self._writing:
            one.after_save_checkpoint(callback)

    def _rewind_loggers(self, step: int) -> None:
        """The run that they log goes on from a checkpoint: what they have of later steps is of its past no more."""
        from holdfast.loggers.base import Logger

        for one in self._writing:
            if isinstance(one, Logger):  # this verb is our own
                one.rewind(step)

    def _finalize(self, status: str) -> None:
        for one in self._writing:
            one.finalize(status)

    def _check_signal(self, loader: int, batch: int) -> None:
        """After a batch of a validation."""
        if self.saving is not None:
            self.saving.check_signal(together=loader < len(self._shared) and batch < self._shared[loader])

    def _stop(self) -> None:
        """As whoever else ends a fit does it: programs read the flag."""
        self.should_stop = True

    def _share(self, evaluation: Evaluation | None) -> None:
        """Agree on the batches of a validation that all ranks have."""
        group, sizes = self.strategy.group, [] if evaluation is None else [one.size or 0 for one in evaluation.loaders]
        self._shared = ()
        if group.size > 1:
            each = group.gather(sizes, phase="sizes of the validation")
            least = [min(one) for one in zip(*each, strict=True)] if each else None
            self._shared = group.broadcast(least, phase="sizes of the validation")

    def _ready(self) -> Saving:
        assert self.saving is not None, "fit makes one"
        return self.saving

    def _running(self) -> FitLoop:
        if self.loop is None:
            raise RuntimeError("No fit is running.")
        return self.loop
