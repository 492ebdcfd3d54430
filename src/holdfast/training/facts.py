"""What a trainer lets others know of a run. Reads; decides nothing."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.early_stopping import EarlyStopping
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.training.defaults import loggers_of, sizes_of
from holdfast.training.loop_view import EvaluationView, FitLoopView
from holdfast.training.metric_values import numbers
from holdfast.training.settings import Settings
from holdfast.training.states import RunningStage, TrainerFn, TrainerState, TrainerStatus

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from holdfast.catalog.manifest import RunRef
    from holdfast.policy.values import Progress
    from holdfast.state.changes import Choice
    from holdfast.state.optimizers import SchedulerConfig
    from holdfast.state.signals import Signals
    from holdfast.state.slurm import SLURMEnvironment
    from holdfast.training.data import Batches
    from holdfast.training.evaluate import Evaluation
    from holdfast.training.fit import FitLoop
    from holdfast.training.hooks import Context, Hooks
    from holdfast.training.metrics import MetricLog
    from holdfast.training.module import LightningModule
    from holdfast.training.saving import Saving


@dataclass(frozen=True)
class Brought:
    """What comes home from ranks that all were children of the process that called.

    Args:
        weights: The module's state.
        epoch: ``current_epoch``.
        step: ``global_step``.
        loop: Where the fit has ended, and what its loop remembers.
        callbacks: The callbacks' states by their keys, those that save excepted.
        metrics: ``callback_metrics``, ``logged_metrics`` and ``progress_bar_metrics``.
        runs: The run that was written in each folder.
        folders: Where each of those saves, in their order.
        versions: That of each logger; None where it has none.
    """

    weights: dict[str, Any]
    epoch: int
    step: int
    loop: tuple[Progress, dict[str, Any]] | None
    callbacks: dict[str, Any]
    metrics: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
    runs: dict[str, RunRef]
    folders: list[str | None]
    versions: list[int | str | None]


class Facts(Settings):
    """The read-only side of ``Trainer``: what it holds, and what that says.

    Attributes:
        should_stop: Set by anybody who wants the fit to end; it is looked at after each batch.
        ckpt_path: The checkpoint that the verb under way was told to begin with, or None.
        slurm: How it behaves in a Slurm job.
        on_resume: What is taken of what differs from the checkpoint.
        fingerprint: What the fit is made of, as its checkpoints tell it.
    """

    callbacks: list[Callback]
    loggers: list[Any]
    hooks: Hooks
    hook_context: Context
    metric_log: MetricLog
    optimizers: list[Optimizer]
    lr_scheduler_configs: list[SchedulerConfig]
    default_root_dir: str
    ckpt_path: str | os.PathLike[str] | None
    resume_from_checkpoint: str | os.PathLike[str] | None = None  # the older spellings of two of its arguments
    weights_save_path: str | None = None
    slurm: SLURMEnvironment
    on_resume: dict[str, Choice]
    fingerprint: Mapping[str, Any] = MappingProxyType({})
    _home: Path | None = None
    loop: FitLoop | None
    _brought: Brought | None
    saving: Saving | None
    sanity_checking: bool
    should_stop: bool
    _fn: TrainerFn | None
    _status: TrainerStatus
    _signals: Signals | None
    _module: LightningModule | None
    _datamodule: Any
    _train_batches: Batches | None
    _validation: Evaluation | None
    _test: Evaluation | None
    _prediction: Evaluation | None

    def _change(self, **settings: Any) -> None:
        """Limits count at once, also in the fit under way; the rest in what runs next.

        Raises:
            ConfigError: A value makes no sense; nothing was changed.
        """
        config, loop = replace(self.config, **settings), self.loop
        if loop is not None:
            limits = config.limits(loop.batches)
            if "accumulate_grad_batches" not in settings:  # a callback may have set it for this epoch
                limits = replace(limits, accumulate=loop.limits.accumulate)
            loop.limits = limits
        self.config = config

    # Where it is

    @property
    def current_epoch(self) -> int:
        """The epoch, from 0; after a fit the number of epochs done."""
        if self.loop is None:
            return 0 if self._brought is None else self._brought.epoch
        return self.loop.epoch + (self.loop.epoch_ended and not self.loop.running)

    @property
    def global_step(self) -> int:
        """Optimizer steps done, of all optimizers."""
        if self.loop is None:
            return 0 if self._brought is None else self._brought.step
        return self.loop.steps

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """What callbacks may look at: the latest value of everything logged."""
        return self.metric_log.callback

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """The latest value of everything logged for loggers, whether or not one was handed it."""
        return self.metric_log.logged

    @property
    def progress_bar_metrics(self) -> dict[str, int | float]:
        """What the progress bar shows, as plain numbers: asking for them waits for the device."""
        return numbers(self.metric_log.progress_bar)

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
        """The first logger, or None; set, it is the only one."""
        return self.loggers[0] if self.loggers else None

    @logger.setter
    def logger(self, logger: Any) -> None:
        self.loggers = loggers_of(logger or False, self.default_root_dir, bool(self.config.fast_dev_run))

    @property
    def log_dir(self) -> str:
        """Where logs go."""
        kept = None if self.logger is None else self.logger.log_dir or self.logger.save_dir
        return kept or self.default_root_dir

    @property
    def num_training_batches(self) -> float:
        """Batches of an epoch; infinite where the loader does not say, and before fit."""
        size = None if self._train_batches is None else self._train_batches.size
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
    def num_predict_batches(self) -> list[float]:
        """Batches of each loader of a prediction."""
        return [] if self._prediction is None else sizes_of(self._prediction)

    @property
    def predictions(self) -> list[list[Any]]:
        """What the steps of the prediction under way, or of the last, returned: a list a loader; empty if not kept."""
        return [] if self._prediction is None else self._prediction.outputs

    @property
    def accumulate_grad_batches(self) -> int:
        """Batches whose gradients make one step, now."""
        return self.config.accumulate_grad_batches if self.loop is None else self.loop.limits.accumulate

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, batches: int) -> None:
        self._change(accumulate_grad_batches=batches)

    @property
    def estimated_stepping_batches(self) -> float:
        """Optimizer steps of the whole fit, for schedulers that must know; infinite where nothing limits it."""
        steps = float("inf") if self.config.steps is None else self.config.steps
        if self._train_batches is None or self._train_batches.size is None:
            return steps
        limits = self.config.limits(self._train_batches)
        if limits.max_epochs is None:
            return steps
        per_epoch = math.ceil(self._train_batches.size / limits.accumulate)
        return min(per_epoch * max(limits.max_epochs, 0), steps)

    # Which part of a run this is

    @property
    def training(self) -> bool:
        """Whether a fit runs, and no validation within it."""
        return self.loop is not None and self.loop.running and not self.validating

    @property
    def validating(self) -> bool:
        """Whether a validation runs, other than the check before training."""
        return self._validation is not None and self._validation.active and not self.sanity_checking

    @property
    def testing(self) -> bool:
        """Whether a test runs."""
        return self._test is not None and self._test.active

    @property
    def predicting(self) -> bool:
        """Whether a prediction runs."""
        return self._prediction is not None and self._prediction.active

    @property
    def state(self) -> TrainerState:
        """Which verb was called, how it stands, and what runs within it."""
        return TrainerState(self._fn, self._status, self._stage())

    def _stage(self) -> RunningStage | None:
        for runs, stage in (
            (self.sanity_checking, RunningStage.SANITY_CHECKING),
            (self.validating, RunningStage.VALIDATING),
            (self.testing, RunningStage.TESTING),
            (self.predicting, RunningStage.PREDICTING),
            (self.training, RunningStage.TRAINING),
        ):
            if runs:
                return stage
        return None

    @property
    def interrupted(self) -> bool:
        """Whether an error or a signal ended the last verb."""
        return self._status is TrainerStatus.INTERRUPTED

    @property
    def received_sigterm(self) -> bool:
        """Whether SIGTERM has come: the fit ends at the next batch, when its state is durable."""
        return self._signals is not None and self._signals.pending == signal.SIGTERM

    @property
    def evaluating(self) -> bool:
        """Whether a validation or a test runs."""
        return self.validating or self.testing

    @property
    def is_last_batch(self) -> bool:
        """Whether the batch under way is the last of its epoch."""
        return self.loop is not None and self.loop.last_batch

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates."""
        return self._validation is not None

    # What it was made of

    @property
    def model(self) -> LightningModule | None:
        """The module that runs, or ran last."""
        return self._module

    @property
    def datamodule(self) -> Any:
        """The datamodule, or None."""
        return self._datamodule

    @property
    def train_dataloader(self) -> Any:
        """What is trained on; None before fit."""
        return None if self._train_batches is None else self._train_batches.loader

    @property
    def val_dataloaders(self) -> Any:
        """The validation loader, a list of several, or None."""
        return _loaders(self._validation)

    @property
    def test_dataloaders(self) -> Any:
        """The test loader, a list of several, or None."""
        return _loaders(self._test)

    @property
    def predict_dataloaders(self) -> Any:
        """The loader of a prediction, a list of several, or None."""
        return _loaders(self._prediction)

    @property
    def early_stopping_callback(self) -> EarlyStopping | None:
        """The first of the ``early_stopping_callbacks``."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[EarlyStopping]:
        """Those that stop a fit."""
        return [c for c in self.callbacks if isinstance(c, EarlyStopping)]

    @property
    def progress_bar_callback(self) -> Callback | None:
        """The progress bar, or None."""
        from holdfast.callbacks.progress import ProgressBar

        return next((c for c in self.callbacks if isinstance(c, ProgressBar)), None)

    @property
    def fit_loop(self) -> FitLoopView:
        """What programs read of the loop of a fit, and set in it."""
        return FitLoopView(self)

    @property
    def validate_loop(self) -> EvaluationView:
        """What programs read of a validation."""
        return EvaluationView(self._validation)

    @property
    def test_loop(self) -> EvaluationView:
        """What programs read of a test."""
        return EvaluationView(self._test)

    @property
    def predict_loop(self) -> EvaluationView:
        """What programs read of a prediction."""
        return EvaluationView(self._prediction)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on rank 0."""
        if self.is_global_zero:
            print(*args, **kwargs)


def _loaders(evaluation: Evaluation | None) -> Any:
    loaders = [] if evaluation is None else [batches.loader for batches in evaluation.loaders]
    return None if not loaders else loaders[0] if len(loaders) == 1 else loaders
