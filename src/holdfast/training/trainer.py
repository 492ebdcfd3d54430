"""The trainer: puts together what a fit, a validation or a test needs, and runs it. It trains nothing itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.early_stopping import EarlyStopping
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.policy.what import What, full
from holdfast.policy.what import weights_only as weights_only_what
from holdfast.state import optimizers as optimizing
from holdfast.state import random
from holdfast.state.precision import Precision
from holdfast.state.signals import Signals
from holdfast.strategies.training import SingleDevice
from holdfast.training.asked import (
    Together,
    check_fit,
    check_optimizers,
    refuse_beside_barebones,
    refuse_what_is_missing,
)
from holdfast.training.checkpoint import Parts, captured, check, dump, restore
from holdfast.training.config import Config
from holdfast.training.data import Batches, Transfer, in_sequence, limited, loaders_of, several
from holdfast.training.datamodule import LightningDataModule
from holdfast.training.defaults import all_callbacks, checked_callbacks, device_of, loggers_of, savers_last
from holdfast.training.evaluate import Evaluation, Stage
from holdfast.training.facts import Facts
from holdfast.training.fit import FitLoop
from holdfast.training.hooks import Context, Hooks, overrides
from holdfast.training.metrics import MetricLog, SilentLog, numbers
from holdfast.training.module import LightningModule
from holdfast.training.results import table

if TYPE_CHECKING:
    from holdfast.engine.job import Captured
    from holdfast.training import resume
    from holdfast.training.saving import Saving


class Trainer(Facts):
    """Trains a module, and loses none of its work.

    Args:
        accelerator: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        strategy: ``"auto"`` or ``"single_device"``.
        devices: One, for now.
        precision: ``"32-true"``, ``"64-true"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"bf16-true"``, ``"16-true"``.
        logger: False for none; True for the default one.
        callbacks: One or several; checkpoint callbacks run last.
        max_epochs: Epochs at most; -1 for no limit. Without any limit it is 1000.
        max_steps: Optimizer steps at most; -1 for no limit.
        max_time: Time at most: ``"DD:HH:MM:SS"``, a timedelta, or its arguments as a dict.
        limit_train_batches: Batches of an epoch: a number, or a share of them.
        val_check_interval: Validate after a share of an epoch, a number of batches, or a time.
        check_val_every_n_epoch: Validate in every n-th epoch; None counts ``val_check_interval`` over epochs.
        num_sanity_val_steps: Batches of validation before training starts; -1 for all.
        accumulate_grad_batches: Batches whose gradients make one step.
        overfit_batches: Train and validate on so many batches, the same ones in every epoch.
        reload_dataloaders_every_n_epochs: Ask for loaders anew in every n-th epoch; 0 never.
        detect_anomaly: Let autograd look for the operation that made a NaN; slow.
        barebones: Switch off whatever is not training: logs, checkpoints, bar, summary, sanity check, ``log``.
        enable_autolog_hparams: Whether loggers get the hyperparameters.
        fast_dev_run: Run so many batches of everything once, and save nothing.
        enable_checkpointing: Whether to save; a ``ModelCheckpoint`` is added where there is none.
        default_root_dir: Where logs and checkpoints go that nobody placed; the working directory by default.

    Raises:
        ConfigError: Arguments make no sense or contradict each other; all of it in one error.
    """

    def __init__(
        self,
        *,
        accelerator: str = "auto",
        strategy: Any = "auto",
        devices: int | str | Sequence[int] = "auto",
        num_nodes: int = 1,
        precision: str | int | None = "32-true",
        logger: Any = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        fast_dev_run: int | bool = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Any = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Any = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | os.PathLike[str] | None = None,
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
    ) -> None:
        if barebones:
            refuse_beside_barebones(
                logger=logger, enable_checkpointing=enable_checkpointing, enable_progress_bar=enable_progress_bar,
                enable_model_summary=enable_model_summary, num_sanity_val_steps=num_sanity_val_steps,
                fast_dev_run=fast_dev_run, detect_anomaly=detect_anomaly, log_every_n_steps=log_every_n_steps,
            )  # fmt: skip
            logger = enable_checkpointing = enable_progress_bar = enable_model_summary = False
            num_sanity_val_steps = log_every_n_steps = 0
        together = Together("Trainer")
        config = together.make(
            Config,
            max_epochs=max_epochs,
            min_epochs=min_epochs,
            max_steps=max_steps,
            min_steps=min_steps,
            max_time=max_time,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=check_val_every_n_epoch,
            num_sanity_val_steps=num_sanity_val_steps,
            log_every_n_steps=50 if log_every_n_steps is None else log_every_n_steps,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
            inference_mode=inference_mode,
            fast_dev_run=fast_dev_run,
            reload_every=reload_dataloaders_every_n_epochs,
            detect_anomaly=detect_anomaly,
            barebones=barebones,
        )
        together.make(
            refuse_what_is_missing,
            strategy=strategy,
            num_nodes=num_nodes,
            profiler=profiler,
            plugins=plugins,
            model_registry=model_registry,
        )
        device = together.make(device_of, accelerator, devices)
        kind = together.make(Precision, precision or "32-true", device if together.clean else torch.device("cpu"))
        fast = bool(fast_dev_run)
        self.callbacks = together.make(
            all_callbacks, callbacks, bar=enable_progress_bar, summary=enable_model_summary,
            checkpointing=enable_checkpointing, fast=fast,
        )  # fmt: skip
        self.default_root_dir = str(Path(default_root_dir or Path.cwd()).expanduser().absolute())
        self.loggers = together.make(loggers_of, logger, self.default_root_dir, fast)
        together.check()
        self.config, self.strategy = config, SingleDevice(device, kind)
        self._log_hparams = enable_autolog_hparams
        self.hook_context = Context()
        self.metric_log: MetricLog = MetricLog()
        self.should_stop = False
        self.sanity_checking = False
        self.optimizers: list[Optimizer] = []
        self.lr_scheduler_configs: list[optimizing.SchedulerConfig] = []
        self.saving: Saving | None = None
        self.loop: FitLoop | None = None
        self._module: LightningModule | None = None
        self._datamodule: Any = None
        self._validation: Evaluation | None = None
        self._test: Evaluation | None = None
        self._train_batches: Batches | None = None
        if deterministic is not None:
            torch.use_deterministic_algorithms(bool(deterministic), warn_only=deterministic == "warn")
        if benchmark is not None:
            torch.backends.cudnn.benchmark = benchmark

    # Running

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train.

        Args:
            model: The module.
            train_dataloaders: Batches to train on, where neither module nor datamodule gives them.
            val_dataloaders: Batches to validate on, likewise.
            datamodule: Gives both instead.
            ckpt_path: Where to go on from: a path, ``"last"`` (the newest state, a rescue included) or ``"best"``.
            weights_only: False gives back values in it that are not plain too, by pickle, which runs code in the file.

        Raises:
            ConfigError: Something is missing or contradicts; before anything is touched.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be gone on from; nothing was changed.
        """
        if isinstance(train_dataloaders, LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        self._check_model(model)
        check_fit(
            model, LightningModule, train=train_dataloaders, val=val_dataloaders, datamodule=datamodule,
            clip=self.config.gradient_clip_val, accumulate=self.config.accumulate_grad_batches,
        )  # fmt: skip
        with self._watching():
            self._fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)

    def _fit(
        self,
        model: LightningModule,
        train_dataloaders: Any,
        val_dataloaders: Any,
        datamodule: Any,
        ckpt_path: Any,
        weights_only: bool | None,
    ) -> None:
        before = None if self.loop is None else (self.loop.progress, self.loop.state_dict())
        self._attach(model, datamodule)
        self._setup("fit")
        self._train_batches = batches = self._training_batches(train_dataloaders)
        self._validation = evaluation = self._evaluation("validation", val_dataloaders)
        self.optimizers, self.lr_scheduler_configs = optimizing.configured(model.configure_optimizers())
        scaled = self.strategy.precision.scaler is not None
        check_optimizers(self.optimizers, automatic=model.automatic_optimization, scaled=scaled)
        self.strategy.stepping = False  # whatever became of the fit before
        with Signals() as signals:
            self.loop = loop = self._loop(batches, evaluation)
            if before is not None:
                loop.go_on_from(*before)  # a second fit counts on from the first
            loop.reload = self._reloading(train_dataloaders, val_dataloaders)
            near = self._near()  # before callbacks that nobody placed are given the folder of this fit
            self.saving = saving = self._saving(loop, signals, evaluation is not None)
            resumed = self._resume(ckpt_path, weights_only, loop, near)
            saving.prepare()
            saving.begin(
                resumed.record if resumed else None,
                resumed.root if resumed else None,
                resumed.tallies if resumed else {},
            )
            self._guarded(loop, saving, evaluation, resumed)
        self._tear_down("fit")

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Run the validation and print what it measured.

        Args:
            model: The module; by default the one of the fit before, with the weights of its best checkpoint.
            dataloaders: Batches, or several loaders; by default the datamodule's or the module's own.
            ckpt_path: Whose weights to take: a path, ``"best"`` or ``"last"``; by default those the module has.
            verbose: Whether to print.
            datamodule: Gives the loaders instead.
            weights_only: False gives hooks what is not plain in the checkpoint too, by pickle, which runs code in it.

        Returns:
            For each loader what was logged over the epoch, by name.

        Raises:
            ConfigError: There is nothing to run.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be used.
        """
        with self._watching():
            return self._evaluate("validation", model, dataloaders, datamodule, ckpt_path, verbose, weights_only)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Run the test and print what it measured.

        Args:
            model: The module; by default the one of the fit before, with the weights of its best checkpoint.
            dataloaders: Batches, or several loaders; by default the datamodule's or the module's own.
            ckpt_path: Whose weights to take: a path, ``"best"`` or ``"last"``; by default those the module has.
            verbose: Whether to print.
            datamodule: Gives the loaders instead.
            weights_only: False gives hooks what is not plain in the checkpoint too, by pickle, which runs code in it.

        Returns:
            For each loader what was logged over the epoch, by name.

        Raises:
            ConfigError: There is nothing to run.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be used.
        """
        with self._watching():
            return self._evaluate("test", model, dataloaders, datamodule, ckpt_path, verbose, weights_only)

    def save_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool = False) -> None:
        """Save the state as it is now, to that file alone; returns when it is durable.

        Raises:
            ConfigError: There is no module yet.
            SaveFailed: It was not saved; a file that stood there stands.
        """
        if self._module is None or self.loop is None:
            raise ConfigError("There is nothing to save yet.", remedy="Call fit() first.")
        from holdfast.training import resume

        what, loop = weights_only_what if weights_only else full, self.loop
        if self.saving is not None:
            self.saving.settle()
        metrics = self.metric_log.scores(loop.steps)
        identity = self.saving.identity() if self.saving is not None else None
        resume.save_alone(self._capture(what), what, loop.progress, metrics, Path(filepath), identity=identity)

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass with its hooks; ``manual_backward`` comes here."""
        self._running().backward(loss, *args, **kwargs)

    def optimizers_for_module(self, *, wrapped: bool) -> Any:
        """The optimizer, or a list of several."""
        found: list[Any] = list(self._running().wrapped) if wrapped and self.loop is not None else list(self.optimizers)
        return found[0] if len(found) == 1 else found

    # Putting together

    def _check_model(self, model: Any) -> None:
        if not isinstance(model, LightningModule):
            raise ConfigError(f"A Trainer runs a LightningModule, not a {type(model).__name__}.")

    def _attach(self, model: LightningModule, datamodule: Any) -> None:
        self._module, self._datamodule = model, datamodule
        self._train_batches = self._validation = self._test = None
        model.trainer = self
        if datamodule is not None:
            datamodule.trainer = self
        added = model.configure_callbacks()
        fresh = checked_callbacks([added] if isinstance(added, Callback) else added, "configure_callbacks() returns")
        kept = [c for c in self.callbacks if not any(type(c) is type(f) for f in fresh)]
        self.callbacks = savers_last([*kept, *fresh])
        self.metric_log = SilentLog() if self.config.barebones else MetricLog()
        self.should_stop = self.sanity_checking = False
        self.hooks = Hooks(self, model, LightningModule, self.callbacks, self.hook_context)

    def _setup(self, stage: str) -> None:
        model, datamodule = self.lightning_module, self._datamodule
        if datamodule is not None:
            datamodule.prepare_data()
        model.prepare_data()
        if datamodule is not None:
            datamodule.setup(stage=stage)
        self.hooks.call_stage("setup", stage)
        model.configure_model()
        self.strategy.setup(model)

    def _tear_down(self, stage: str) -> None:
        if self._datamodule is not None:
            self._datamodule.teardown(stage=stage)
        self.hooks.call_stage("teardown", stage)
        self.strategy.teardown(self.lightning_module)

    def _watching(self) -> AbstractContextManager[Any]:
        return torch.autograd.set_detect_anomaly(True) if self.config.detect_anomaly else nullcontext()

    def _training_batches(self, given: Any) -> Batches:
        loader = self._loaders("train", given)
        if loader is None:
            raise ConfigError("There is nothing to train on: the datamodule has no train_dataloader.")
        loader = in_sequence(loader) if self.config.overfit_batches else loader
        return limited(loader, self.config.limit("train"), what="train")

    def _reloading(self, train: Any, val: Any) -> Callable[[int], Batches | None]:
        """Asks for loaders anew in every n-th epoch but the first."""
        begun = False

        def reload(epoch: int) -> Batches | None:
            nonlocal begun
            first, begun = not begun, True
            if first or not self.config.reload_every or epoch % self.config.reload_every:
                return None
            if self._validation is not None:
                self._validation.loaders = self._evaluation_batches("val", val)
            self._train_batches = self._training_batches(train)
            return self._train_batches

        return reload

    def _loaders(self, kind: str, given: Any) -> Any:
        return loaders_of(kind, given, self._datamodule, self.lightning_module, LightningModule)

    def _transfer(self) -> Transfer:
        return Transfer(self.lightning_module, self._datamodule, self.strategy, LightningModule)

    def _evaluation(self, stage: Stage, given: Any) -> Evaluation | None:
        kind = "val" if stage == "validation" else "test"
        if not overrides(self.lightning_module, f"{stage}_step", LightningModule):
            return None
        loaders = self._evaluation_batches(kind, given)
        if not any(loader.size != 0 for loader in loaders):
            return None
        return Evaluation(
            stage,
            module=self.lightning_module,
            strategy=self.strategy,
            hooks=self.hooks,
            context=self.hook_context,
            metrics=self.metric_log,
            loaders=loaders,
            transfer=self._transfer(),
            inference_mode=self.config.inference_mode,
            check=self._check_signal,
        )

    def _evaluation_batches(self, kind: str, given: Any) -> list[Batches]:
        loaders = several(self._loaders(kind, given))
        if self.config.overfit_batches and kind == "val":
            loaders = [in_sequence(one) for one in loaders]
        return [limited(one, self.config.limit(kind), what=kind) for one in loaders]

    def _loop(self, batches: Batches, evaluation: Evaluation | None) -> FitLoop:
        late = [c for c in self.callbacks if isinstance(c, (ModelCheckpoint, EarlyStopping))]
        early = [c for c in self.callbacks if c not in late]
        name = "on_train_epoch_end"
        return FitLoop(
            module=self.lightning_module,
            strategy=self.strategy,
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
            asked_to_stop=lambda: self.should_stop,
            log_step=lambda: self._log(self.metric_log.step_values()),
            log_epoch=self._log,
            restore_random=lambda: None,
            early_epoch_end=(*self.hooks.of_callbacks(name, early), *self.hooks.of_module(name)),
            late_epoch_end=self.hooks.of_callbacks(name, late),
        )

    def _saving(self, loop: FitLoop, signals: Signals, validates: bool) -> Saving:
        from holdfast.training.saving import Saving  # a program that only tests or predicts never loads it

        root = Path(self.default_root_dir)
        places = [
            (callback, Path(callback.dirpath) if callback.dirpath else self._default_folder(root))
            for callback in self.checkpoint_callbacks
            if not self.config.fast_dev_run
        ]
        return Saving(
            places,
            on_train_epoch_end=self.config.epoch_end_counts(validates, loop.limits),
            capture=self._capture,
            progress=lambda: loop.progress,
            scores=lambda: self.metric_log.scores(loop.steps),
            logged=lambda: self.metric_log.names,
            signals=signals,
            validates=validates,
            logs_late=self._logs_late(),
        )

    def _logs_late(self) -> bool:
        """Whether somebody but us has a hook at a training epoch's end, and may log there for the first time."""
        name = "on_train_epoch_end"
        users = [c for c in self.callbacks if not type(c).__module__.startswith("holdfast.")]
        return bool(self.hooks.of_module(name) or self.hooks.of_callbacks(name, users))

    def _default_folder(self, root: Path) -> Path:
        return Path(self.log_dir) / "checkpoints" if self.logger is not None else root / "checkpoints"

    def _log(self, values: dict[str, torch.Tensor]) -> None:
        """Hand values to the loggers; only here are they read."""
        if values and self.loggers:
            read = {"epoch": self.current_epoch, **numbers(values)}
            loop = self.loop
            now = 0 if loop is None else loop.stepped - (loop.running and loop.stepped > 0)
            step = int(read.pop("step", now))  # whoever logs a "step" chooses the x-axis
            for one in self.loggers:
                one.log_metrics(read, step=step)

    def _parts(self) -> Parts:
        loop = self._running()
        return Parts(
            self.lightning_module,
            self._datamodule,
            self.callbacks,
            self.optimizers,
            [config.scheduler for config in self.lr_scheduler_configs],
            self.strategy.precision,
            loop.state_dict(),
            loop.progress,
            loop.random,
            loop.at_boundary,
        )

    def _capture(self, what: What) -> Captured:
        """The state now, as users' hooks leave it."""
        parts = self._parts()
        made = dump(parts, what)
        if what.wants_part("optimizer"):
            self.hooks.call_all(
                self.hooks.of_callbacks("on_save_checkpoint", self.callbacks), "on_save_checkpoint", made.root
            )
        self.hooks.call_all(self.hooks.of_module("on_save_checkpoint"), "on_save_checkpoint", made.root)
        return captured(made, parts)

    def _resume(
        self, ckpt_path: Any, weights_only: bool | None, loop: FitLoop, near: list[Path]
    ) -> resume.Resumed | None:
        """Read, let hooks edit, check all, then put it back; the random state is for the loop to put back last."""
        if ckpt_path is None:
            return None
        from holdfast.training import resume

        opened = resume.open_checkpoint(self._source(ckpt_path), near=near, weights_only=weights_only)
        self.hooks.call("on_load_checkpoint", opened.state)
        parts, strict = self._parts(), self.lightning_module.strict_loading
        check(opened.state, parts, checkpoint=opened.path, strict=strict, groups=opened.manifest.groups)
        restore(opened.state, parts, strict=strict)
        progress, state, resumed = resume.going_on(opened, loop.batches.size)
        loop.go_on_from(progress, state)
        return resumed

    def _source(self, ckpt_path: Any) -> Any:
        """The path that ``"best"`` means; all else as it is."""
        if ckpt_path != "best":
            return ckpt_path
        best = self.checkpoint_callback.best_model_path if self.checkpoint_callback is not None else ""
        if not best:
            raise ConfigError(
                "ckpt_path='best': no ModelCheckpoint of this Trainer has saved anything yet.",
                remedy="Give the path of a checkpoint.",
            )
        return best

    def _near(self) -> list[Path]:
        """Where ``"last"`` is looked for: where callbacks save, and below the root for those that nobody placed."""
        placed = [Path(c.dirpath) for c in self.checkpoint_callbacks if c.dirpath]
        unplaced = len(placed) < len(self.checkpoint_callbacks) or not placed
        return list(dict.fromkeys([*placed, *([Path(self.default_root_dir)] if unplaced else [])]))

    def _guarded(
        self, loop: FitLoop, saving: Saving, evaluation: Evaluation | None, resumed: resume.Resumed | None
    ) -> None:
        """Run the loop; whatever ends it, what is under way is finished and the state is left if it is one."""
        try:
            self._log_hyperparameters()
            self.hooks.call("on_fit_start")
            if evaluation is not None and resumed is None:
                self._sanity_check(evaluation)
            if resumed is not None:
                loop.restore_random = resumed.restore_random
            loop.run()
            saving.final_save()
            self.hooks.call("on_fit_end")
        except BaseException as error:
            saving.rescue(error, whole=not self.strategy.stepping, at_boundary=loop.at_boundary)
            ends: tuple[Callable[[], Any], ...] = (
                partial(self.hooks.call_callbacks, "on_exception", error),
                *([] if self._datamodule is None else [partial(self._datamodule.on_exception, error)]),
                partial(saving.close, clean=False),
                partial(self._finalize, "failed"),
            )
            for end in ends:
                try:
                    end()
                except Exception as late:  # a hook may raise anything; what ended the run is raised, this one is said
                    logger.error("%s: %s", type(late).__name__, late)
            raise
        saving.close(clean=True)
        self._finalize("success")

    def _log_hyperparameters(self) -> None:
        values: dict[str, Any] = {}
        for owner in (self.lightning_module, self._datamodule):
            if owner is not None and self._log_hparams and getattr(owner, "_log_hyperparams", False):
                values.update(owner.hparams_initial)
        for one in self.loggers:
            if values:
                one.log_hyperparams(values)
            one.save()

    def _finalize(self, status: str) -> None:
        for one in self.loggers:
            one.finalize(status)

    def _sanity_check(self, evaluation: Evaluation) -> None:
        steps = self.config.sanity_steps
        if steps == 0:
            return
        loop, self.sanity_checking = self._running(), True
        before = loop.random = random.capture()  # what goes on from here without this check is the same run
        try:
            self.hooks.call_callbacks("on_sanity_check_start")
            evaluation.run(self.global_step, sanity=steps if steps is not None else 2**62)
            self.hooks.call_callbacks("on_sanity_check_end")
        finally:
            self.sanity_checking = False
        random.restore(before)
        loop.random = None

    def _evaluate(
        self,
        stage: Stage,
        model: Any,
        dataloaders: Any,
        datamodule: Any,
        ckpt_path: Any,
        verbose: bool,
        weights_only: bool | None,
    ) -> list[dict[str, float]]:
        if isinstance(dataloaders, LightningDataModule):
            dataloaders, datamodule = None, dataloaders
        if dataloaders is not None and datamodule is not None:
            raise ConfigError("Give loaders or a datamodule, not both.")
        if model is None:
            if self._module is None:
                raise ConfigError("There is no module yet.", remedy="Give one, or call fit() first.")
            model = self._module
            datamodule = self._datamodule if datamodule is None and dataloaders is None else datamodule
            ckpt_path = self._best_of_fit() if ckpt_path is None else ckpt_path
        self._check_model(model)
        ckpt_path = self._source(ckpt_path)
        self._attach(model, datamodule)
        verb = "validate" if stage == "validation" else "test"
        self._setup(verb)
        evaluation = self._evaluation(stage, dataloaders)
        if stage == "validation":
            self._validation = evaluation
        else:
            self._test = evaluation
        if evaluation is None:
            kind = "val" if stage == "validation" else "test"
            raise ConfigError(
                f"{type(model).__name__} has nothing to {verb}: it needs {stage}_step and {kind}_dataloader."
            )
        if ckpt_path is not None:
            from holdfast.training import resume

            opened = resume.open_checkpoint(ckpt_path, near=self._near(), weights_only=weights_only)
            self.hooks.call_all(self.hooks.of_module("on_load_checkpoint"), "on_load_checkpoint", opened.state)
            model.load_state_dict(resume.require_weights(opened), strict=model.strict_loading)
        logged = evaluation.run(self.global_step)
        results = [{name: float(value) for name, value in numbers(one).items()} for one in evaluation.results]
        self._log(logged)
        if verbose and self.is_global_zero and any(results):
            print(table(f"{verb.capitalize()} metric", results))
        self._tear_down(verb)
        return results

    def _best_of_fit(self) -> str | None:
        """The best checkpoint of the fit before, where it saved any."""
        callback = self.checkpoint_callback
        path = None if callback is None else callback.best_model_path
        if not path:
            return None
        logger.info("taking the weights of the best checkpoint, '%s'", path)
        return path

    def _check_signal(self) -> None:
        if self.saving is not None:
            self.saving.check_signal()

    def _ready(self) -> Saving:
        assert self.saving is not None, "fit makes one"
        return self.saving

    def _running(self) -> FitLoop:
        if self.loop is None:
            raise RuntimeError("No fit is running.")
        return self.loop
