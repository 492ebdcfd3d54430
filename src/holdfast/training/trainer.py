"""The trainer: puts together what a fit, a validation or a test needs, and runs it. It trains nothing itself."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.early_stopping import EarlyStopping
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.engine.job import Captured
from holdfast.errors import ConfigError, HoldfastError
from holdfast.log import logger
from holdfast.policy.what import What, full
from holdfast.policy.what import weights_only as weights_only_what
from holdfast.state import optimizers as optimizing
from holdfast.state.precision import Precision
from holdfast.state.signals import Signals
from holdfast.strategies.training import SingleDevice
from holdfast.training import resume
from holdfast.training.checkpoint import Parts, captured, check, dump, restore
from holdfast.training.config import Config
from holdfast.training.data import Batches, Transfer, limited, loaders_of, several
from holdfast.training.defaults import default_callbacks, device_of, in_order, loggers_of, savers_last, sizes_of
from holdfast.training.evaluate import Evaluation, Stage
from holdfast.training.fit import FitLoop
from holdfast.training.hooks import Context, Hooks, overrides
from holdfast.training.metrics import MetricLog, numbers
from holdfast.training.module import LightningModule
from holdfast.training.saving import Saving


class Trainer:
    """Trains a module, and loses none of its work.

    Args:
        accelerator: ``"auto"``, ``"cpu"`` or ``"gpu"``.
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
        devices: int | str | Sequence[int] = "auto",
        precision: str | int = "32-true",
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
        default_root_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = Config(
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
        )
        device = device_of(accelerator, devices)
        self.strategy = SingleDevice(device, Precision(precision, device))
        self.default_root_dir = os.path.abspath(default_root_dir or os.getcwd())
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        given += default_callbacks(given, enable_progress_bar, enable_model_summary)
        self.callbacks = in_order(given, enable_checkpointing, bool(fast_dev_run))
        self.loggers = loggers_of(logger, self.default_root_dir, bool(fast_dev_run))
        self.hook_context = Context()
        self.metric_log = MetricLog()
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

    # What it knows

    @property
    def current_epoch(self) -> int:
        """The epoch, from 0; after a fit the number of epochs done."""
        return 0 if self.loop is None else self.loop.epoch + (self.loop.complete and not self.loop.running)

    @property
    def global_step(self) -> int:
        """Optimizer steps done, of all optimizers."""
        return 0 if self.loop is None else self.loop.steps

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """What callbacks may look at: the latest value of everything logged."""
        return self.metric_log.callback

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """What was handed to loggers last."""
        return self.metric_log.logged

    @property
    def progress_bar_metrics(self) -> dict[str, Any]:
        """What the progress bar shows."""
        return self.metric_log.progress_bar

    @property
    def checkpoint_callback(self) -> ModelCheckpoint | None:
        """The first of the ``checkpoint_callbacks``."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def checkpoint_callbacks(self) -> list[ModelCheckpoint]:
        """Those that save."""
        return [c for c in self.callbacks if isinstance(c, ModelCheckpoint)]

    @property
    def lightning_module(self) -> LightningModule:
        """The module that runs, or ran last."""
        if self._module is None:
            raise RuntimeError("This Trainer has not run a module yet.")
        return self._module

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return self.loggers[0] if self.loggers else None

    @property
    def global_rank(self) -> int:
        """This process among all."""
        return self.strategy.group.rank

    @property
    def local_rank(self) -> int:
        """This process among those of its host."""
        return self.strategy.group.rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.strategy.group.size

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.global_rank == 0

    @property
    def log_dir(self) -> str:
        """Where logs go."""
        return (self.logger.log_dir if self.logger is not None else None) or self.default_root_dir

    @property
    def max_epochs(self) -> int | None:
        """Epochs at most; None for no limit."""
        return self.config.max_epochs if self.loop is None else self.loop.limits.max_epochs

    @property
    def max_steps(self) -> int:
        """Optimizer steps at most; -1 for no limit."""
        return self.config.max_steps

    @property
    def num_training_batches(self) -> float:
        """Batches of an epoch; infinite where the loader does not say."""
        size = self._running().batches.size
        return float("inf") if size is None else size

    @property
    def num_val_batches(self) -> list[float]:
        """Batches of each validation loader."""
        return [] if self._validation is None else sizes_of(self._validation)

    @property
    def num_sanity_val_batches(self) -> list[float]:
        """Batches of each loader in the check before training."""
        steps = self.config.sanity_steps
        return [size if steps is None else min(size, steps) for size in self.num_val_batches]

    @property
    def num_test_batches(self) -> list[float]:
        """Batches of each test loader."""
        return [] if self._test is None else sizes_of(self._test)

    @property
    def estimated_stepping_batches(self) -> float:
        """Optimizer steps of the whole fit, for schedulers that must know; infinite where nothing limits it."""
        steps = float("inf") if self.config.max_steps == -1 else self.config.max_steps
        if self._train_batches is None or self._train_batches.size is None:
            return steps
        limits = self.config.limits(self._train_batches)
        if limits.max_epochs is None:
            return steps
        per_epoch = math.ceil(self._train_batches.size / limits.accumulate)
        return min(per_epoch * max(limits.max_epochs, 0), steps)

    # Running

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Train.

        Args:
            model: The module.
            train_dataloaders: Batches to train on, where neither module nor datamodule gives them.
            val_dataloaders: Batches to validate on, likewise.
            datamodule: Gives both instead.
            ckpt_path: Where to go on from: a path, or ``"last"``.

        Raises:
            ConfigError: Something is missing or contradicts; before anything is touched.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be gone on from; nothing was changed.
        """
        self._attach(model, datamodule, train_dataloaders, fit=True)
        self._setup("fit")
        loader = self._loaders("train", train_dataloaders)
        if loader is None:
            raise ConfigError("There is nothing to train on: the datamodule has no train_dataloader.")
        self._train_batches = batches = limited(loader, self.config.limit("train"), what="train")
        self._validation = evaluation = self._evaluation("validation", val_dataloaders)
        self.optimizers, self.lr_scheduler_configs = optimizing.configured(model.configure_optimizers())
        with Signals() as signals:
            self.loop = loop = self._loop(batches, evaluation)
            self.saving = saving = self._saving(loop, signals, evaluation is not None)
            resumed = self._resume(ckpt_path, loop)
            saving.prepare()
            saving.begin(
                resumed.record if resumed else None,
                resumed.root if resumed else None,
                resumed.tallies if resumed else {},
            )
            self._guarded(loop, saving, evaluation, resumed)
        self.hooks.call("teardown", "fit")
        self.strategy.teardown(model)

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: Any = None,
    ) -> list[dict[str, float]]:
        """Run the validation; what each loader's epoch logged."""
        return self._evaluate("validation", model, dataloaders, datamodule, ckpt_path)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: Any = None,
    ) -> list[dict[str, float]]:
        """Run the test; what each loader's epoch logged."""
        return self._evaluate("test", model, dataloaders, datamodule, ckpt_path)

    def save_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool = False) -> None:
        """Save the state as it is now, to that file alone; returns when it is durable.

        Raises:
            ConfigError: There is no module yet.
            SaveFailed: It was not saved; a file that stood there stands.
        """
        if self._module is None or self.loop is None:
            raise ConfigError("There is nothing to save yet.", remedy="Call fit() first.")
        what, loop = weights_only_what if weights_only else full, self.loop
        if self.saving is not None:
            self.saving.settle()
        metrics = self.metric_log.scores(loop.steps)
        resume.save_alone(self._capture(what), what, loop.progress, metrics, Path(filepath), reason="by hand")

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass with its hooks; ``manual_backward`` comes here."""
        self._running().backward(loss, *args, **kwargs)

    def optimizers_for_module(self, *, wrapped: bool) -> Any:
        """The optimizer, or a list of several."""
        found: list[Any] = list(self._running().wrapped) if wrapped and self.loop is not None else list(self.optimizers)
        return found[0] if len(found) == 1 else found

    # Putting together

    def _attach(self, model: LightningModule, datamodule: Any, train_dataloaders: Any, *, fit: bool) -> None:
        if not isinstance(model, LightningModule):
            raise ConfigError(f"fit() takes a LightningModule, not a {type(model).__name__}.")
        if fit:
            needs = [n for n in ("training_step", "configure_optimizers") if not overrides(model, n, LightningModule)]
            given = train_dataloaders is not None or datamodule is not None
            if not given and not overrides(model, "train_dataloader", LightningModule):
                needs.append("train_dataloader (or pass train_dataloaders= or datamodule=)")
            if needs:
                raise ConfigError(f"{type(model).__name__} cannot be fitted without {', '.join(needs)}.")
        self._module, self._datamodule = model, datamodule
        model.trainer = self
        if datamodule is not None:
            datamodule.trainer = self
        added = model.configure_callbacks()
        fresh = [added] if isinstance(added, Callback) else list(added)
        kept = [c for c in self.callbacks if not any(type(c) is type(f) for f in fresh)]
        self.callbacks = savers_last([*kept, *fresh])
        self.metric_log = MetricLog()
        self.should_stop = False
        self.hooks = Hooks(self, model, LightningModule, self.callbacks, self.hook_context)

    def _setup(self, stage: str) -> None:
        model = self.lightning_module
        if self._datamodule is not None:
            self._datamodule.prepare_data()
            self._datamodule.setup(stage)
        model.prepare_data()
        self.hooks.call("setup", stage)
        model.configure_model()
        self.strategy.setup(model)

    def _loaders(self, kind: str, given: Any) -> Any:
        return loaders_of(kind, given, self._datamodule, self.lightning_module, LightningModule)

    def _transfer(self) -> Transfer:
        return Transfer(self.lightning_module, self._datamodule, self.strategy, LightningModule)

    def _evaluation(self, stage: Stage, given: Any) -> Evaluation | None:
        kind = "val" if stage == "validation" else "test"
        if not overrides(self.lightning_module, f"{stage}_step", LightningModule):
            return None
        loaders = [limited(one, self.config.limit(kind), what=kind) for one in several(self._loaders(kind, given))]
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
        )

    def _default_folder(self, root: Path) -> Path:
        return Path(self.log_dir) / "checkpoints" if self.logger is not None else root / "checkpoints"

    def _log(self, values: dict[str, torch.Tensor]) -> None:
        """Hand values to the loggers; only here are they read."""
        if values and self.loggers:
            read = {**numbers(values), "epoch": self.current_epoch}
            for one in self.loggers:
                one.log_metrics(read, step=max(self.global_step - 1, 0))

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

    def _resume(self, ckpt_path: Any, loop: FitLoop) -> resume.Resumed | None:
        """Read, let hooks edit, check everything, then put it back; the random state is for the loop to put back last."""
        if ckpt_path is None:
            return None
        opened = resume.open_checkpoint(ckpt_path, near=self._near())
        self.hooks.call("on_load_checkpoint", opened.state)
        parts, strict = self._parts(), self.lightning_module.strict_loading
        check(opened.state, parts, checkpoint=opened.path, strict=strict)
        restore(opened.state, parts, strict=strict)
        progress, state, resumed = resume.going_on(opened)
        loop.go_on_from(progress, state)
        return resumed

    def _near(self) -> Path:
        """Where ``"last"`` is looked for."""
        placed = [c.dirpath for c in self.checkpoint_callbacks if c.dirpath]
        return Path(placed[0] if placed else self.default_root_dir)

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
            if not isinstance(error, SystemExit):
                saving.rescue(error, whole=not self.strategy.stepping, at_boundary=loop.at_boundary)
            self.hooks.call("on_exception", error)
            for end in (lambda: saving.close(clean=False), lambda: self._finalize("failed")):
                try:
                    end()
                except HoldfastError as late:  # what ended the run is raised; this one is said
                    logger.error("%s", late)
            raise
        saving.close(clean=True)
        self._finalize("success")

    def _log_hyperparameters(self) -> None:
        values = {}
        for owner in (self.lightning_module, self._datamodule):
            if owner is not None and getattr(owner, "_log_hyperparams", False):
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
        self.sanity_checking = True
        self.hooks.call("on_sanity_check_start")
        evaluation.run(0, sanity=steps if steps is not None else 2**62)
        self.hooks.call("on_sanity_check_end")
        self.sanity_checking = False

    def _evaluate(
        self, stage: Stage, model: Any, dataloaders: Any, datamodule: Any, ckpt_path: Any
    ) -> list[dict[str, float]]:
        module = model if model is not None else self.lightning_module
        self._attach(module, datamodule, None, fit=False)
        self._setup("validate" if stage == "validation" else "test")
        evaluation = self._evaluation(stage, dataloaders)
        if stage == "validation":
            self._validation = evaluation
        else:
            self._test = evaluation
        if evaluation is None:
            raise ConfigError(
                f"{type(module).__name__} has nothing to run: it needs {stage}_step and a dataloader of that kind."
            )
        if ckpt_path is not None:
            opened = resume.open_checkpoint(ckpt_path, near=self._near())
            module.load_state_dict(resume.require_weights(opened), strict=module.strict_loading)
        logged = evaluation.run(self.global_step)
        read = numbers(logged)
        self._log(logged)
        self.hooks.call("teardown", stage)
        return [{name: float(value) for name, value in read.items()}]

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
