"""The fit loop. Plain code that reads top to bottom; on a step that nobody asked anything of, it only trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from holdfast.errors import ConfigError
from holdfast.policy.values import Event, Progress
from holdfast.state import random
from holdfast.state.optimizers import SchedulerConfig, SteppedOptimizer
from holdfast.training.data import Batches, Transfer
from holdfast.training.evaluate import Evaluation
from holdfast.training.hooks import Context, Hooks
from holdfast.training.metrics import MetricLog


@dataclass(frozen=True)
class FitLimits:
    """When to stop, and how often to do what; everything resolved, nothing to be guessed.

    Args:
        max_epochs: Epochs at most; None for no limit.
        min_epochs: Epochs at least, whatever a callback wants.
        max_steps: Optimizer steps at most; None for no limit.
        min_steps: Optimizer steps at least.
        max_time: Seconds of fit at most; None for no limit.
        accumulate: Batches whose gradients make one step.
        validate_every: Validate after every so many batches: of the epoch, or of the run where ``by_run``.
        by_run: Whether those batches are counted over the whole run.
        validate_seconds: Validate when so many seconds have passed instead.
        validate_epochs: In every so many epochs only.
        log_every: Hand values to loggers every so many steps.
        clip_value: Clip gradients to it; None does not.
        clip_algorithm: ``"norm"`` or ``"value"``.
    """

    max_epochs: int | None
    min_epochs: int = 0
    max_steps: int | None = None
    min_steps: int = 0
    max_time: float | None = None
    accumulate: int = 1
    validate_every: int | None = None
    by_run: bool = False
    validate_seconds: float | None = None
    validate_epochs: int = 1
    log_every: int = 50
    clip_value: float | None = None
    clip_algorithm: str | None = None


class FitLoop:
    """Training, from where it is to where it ends.

    Args:
        module: The module.
        strategy: How it computes.
        hooks: Who is told what.
        context: Which hook runs.
        metrics: What is logged.
        batches: What it trains on.
        transfer: Brings a batch to the device.
        optimizers: Its optimizers.
        schedulers: Their schedulers.
        limits: When to stop.
        evaluation: Its validation, if it has one.
        consider: Lets the policies decide on an event: ``consider(event, validation_follows)``.
        asked_to_stop: Whether a signal or a callback wants the end.
        log_step: Hands the values of a step to the loggers.
        log_epoch: Hands values of an epoch to them.
        restore_random: Puts back the random state of a checkpoint; the last thing before the first batch.
        early_epoch_end: Those who hear of an epoch's end first.
        late_epoch_end: Those who hear of it when all schedulers have stepped: callbacks that stop or save.
    """

    def __init__(
        self,
        *,
        module: Any,
        strategy: Any,
        hooks: Hooks,
        context: Context,
        metrics: MetricLog,
        batches: Batches,
        transfer: Transfer,
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[SchedulerConfig],
        limits: FitLimits,
        evaluation: Evaluation | None,
        consider: Callable[..., None],
        asked_to_stop: Callable[[], bool],
        log_step: Callable[[], None],
        log_epoch: Callable[[dict[str, Any]], None],
        restore_random: Callable[[], None],
        early_epoch_end: Sequence[Callable[..., Any]] = (),
        late_epoch_end: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.module, self.strategy, self.hooks, self.context = module, strategy, hooks, context
        self.metrics, self.batches, self.transfer = metrics, batches, transfer
        self.limits, self.evaluation = limits, evaluation
        self.optimizers, self.schedulers = list(optimizers), list(schedulers)
        self.consider, self.asked_to_stop = consider, asked_to_stop
        self.log_step, self.log_epoch = log_step, log_epoch
        self.restore_random = restore_random
        self.late_epoch_end, self.early_epoch_end = tuple(late_epoch_end), tuple(early_epoch_end)
        self.epoch, self.batch, self.complete = 0, 0, False
        self.total_batches, self.steps, self.samples = 0, 0, 0
        self.validated_at = -1
        self.at_boundary = True
        self.running = False
        self.random: dict[str, Any] | None = None
        self._accumulated = 0
        self._started = time.monotonic()
        self._last_validation = self._started
        automatic = bool(module.automatic_optimization)
        self._train_batch = self._automatic if automatic else self._manual
        # A method that nobody overrides would only come back here: it is passed over.
        self._own_step = bool(hooks.of_module("optimizer_step"))
        self._clips = bool(limits.clip_value) or any(
            hooks.of_module(name) for name in ("configure_gradient_clipping", "clip_gradients")
        )
        self.wrapped = [SteppedOptimizer(optimizer, self.step) for optimizer in self.optimizers]
        if automatic and len(self.optimizers) > 1:
            raise ConfigError(
                f"configure_optimizers returned {len(self.optimizers)} optimizers, and automatic optimisation steps one.",
                remedy="Set self.automatic_optimization = False in __init__ and step them in training_step.",
            )

    # Where it is

    @property
    def progress(self) -> Progress:
        """The counters."""
        return Progress(self.epoch, self.batch, self.complete, self.total_batches, self.steps, self.samples)

    def state_dict(self) -> dict[str, Any]:
        """What the loop must remember besides its progress."""
        return {"validated_at": self.validated_at, "metrics": self.metrics.state_dict()}

    def go_on_from(self, progress: Progress, state: dict[str, Any]) -> None:
        """Stand where a checkpoint stood: an epoch that is complete is followed by the next."""
        self.epoch = progress.epochs
        self.batch = 0 if progress.complete else progress.batch
        self.total_batches, self.steps, self.samples = progress.batches, progress.steps, progress.samples
        self.validated_at = state.get("validated_at", -1)
        self.metrics.load_state_dict(state.get("metrics", {}))

    # The loop

    def run(self) -> None:
        """Train."""
        self.running = True
        self.hooks.call("on_train_start")
        self.restore_random()
        while not self._done():
            self._run_epoch()
        self.hooks.call("on_train_end")
        self.consider(Event.FIT_END)
        self.running = False

    def _run_epoch(self) -> None:
        resumed_at = self.batch
        self.complete = False
        self.batches.set_epoch(self.epoch)
        self.metrics.begin_stage("train")
        self.hooks.call("on_train_epoch_start")
        self.complete = self._run_batches(resumed_at)
        self.at_boundary = True
        self.metrics.end_batches(self.steps)
        self.hooks.call_all(self.early_epoch_end, "on_train_epoch_end")
        self.log_epoch(self.metrics.end_stage(self.steps))
        self._step_schedulers("epoch", plateau=True)
        self.hooks.call_all(self.late_epoch_end, "on_train_epoch_end")
        self.consider(Event.TRAIN_EPOCH_END)
        if not self._done():
            self.epoch, self.batch, self.complete = self.epoch + 1, 0, False

    def _run_batches(self, resumed_at: int) -> bool:
        """The batches of an epoch that are not done yet; whether the epoch is over then."""
        hooks, metrics, size = self.hooks, self.metrics, self.batches.size
        start, end = hooks.of("on_train_batch_start"), hooks.of("on_train_batch_end")
        if (
            resumed_at
            and self.validated_at != self.total_batches
            and self._validates(resumed_at - 1, resumed_at == size)
        ):
            self._validate()  # the checkpoint was taken before or during the validation of its step
        if size is not None and 0 < size <= resumed_at:
            return True  # all are done: to begin iterating would draw from the random state that was restored
        source = self.batches.iterate(resumed_at)
        upcoming = next(source, _END)
        while upcoming is not _END:
            raw, batch_idx = upcoming, self.batch
            # One batch is looked ahead only where the end cannot be known: what is drawn is not yet trained on.
            upcoming = next(source, _END) if size is None else None
            last = upcoming is _END if size is None else batch_idx + 1 >= size
            batch = self.transfer(raw)
            metrics.begin_batch(batch)
            self.at_boundary = False
            if start and -1 in hooks.call_all(start, "on_train_batch_start", batch, batch_idx):
                self.at_boundary = True
                return True
            outputs = self._train_batch(batch, batch_idx, last)
            self.batch += 1
            self.total_batches += 1
            metrics.end_batch(self.steps)
            if last:
                self._step_schedulers("epoch", plateau=False)
            validates = self._validates(batch_idx, last)
            self.at_boundary = True
            if end:
                hooks.call_all(end, "on_train_batch_end", outputs, batch, batch_idx)
            if self.total_batches % self.limits.log_every == 0:
                self.log_step()
            self.consider(Event.BATCH_END, validates)
            if validates:
                self._validate()
            if last or self._enough():
                return last
            if size is not None:
                upcoming = next(source, _END)
        return True

    def _validate(self) -> None:
        assert self.evaluation is not None, "only a run with a validation validates"
        self.random = random.capture()  # a save asked for meanwhile resumes by running this validation whole
        logged = self.evaluation.run(self.steps)
        self.random = None
        self.validated_at = self.total_batches
        self._last_validation = time.monotonic()
        self.log_epoch(logged)
        self.consider(Event.VALIDATION_END)
        self._step_schedulers("step", plateau=True)

    # One batch

    def _automatic(self, batch: Any, batch_idx: int, last: bool) -> Any:
        self._accumulated += 1
        steps = self._accumulated >= self.limits.accumulate or last
        result: dict[str, Any] = {}

        def closure() -> Any:
            loss = self._forward(batch, batch_idx, result)
            if loss is None:
                return None
            if self._accumulated == 1 or self.limits.accumulate == 1:
                self._zero_grad(self.optimizers[0])
            self.backward(loss)
            return loss

        if not self.optimizers:
            self._forward(batch, batch_idx, result)
            return result or None
        if not steps:
            closure()
            return result or None
        if self._own_step:
            self.context.hook = "optimizer_step"
            self.module.optimizer_step(self.epoch, batch_idx, self.wrapped[0], closure)
        else:
            self.step(self.optimizers[0], closure)
        self._accumulated = 0
        return result or None

    def _forward(self, batch: Any, batch_idx: int, result: dict[str, Any]) -> Any:
        """The training step; its loss, divided by the accumulation."""
        self.context.hook = "training_step"
        with self.strategy.forward_context():
            returned = self.module.training_step(batch, batch_idx)
        self.context.hook = ""
        if returned is None:
            return None
        loss = returned.get("loss") if isinstance(returned, dict) else returned
        if not isinstance(loss, torch.Tensor):
            raise ConfigError(
                f"training_step returned {type(returned).__name__} without a loss tensor.",
                remedy="Return the loss, a dict with 'loss', or None to skip the batch.",
            )
        if self.limits.accumulate > 1:
            loss = loss / self.limits.accumulate
        if isinstance(returned, dict):
            result.update(returned)
        result["loss"] = loss.detach()
        return loss

    def _manual(self, batch: Any, batch_idx: int, last: bool) -> Any:
        self.context.hook = "training_step"
        with self.strategy.forward_context():
            returned = self.module.training_step(batch, batch_idx)
        self.context.hook = ""
        return returned

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, with its hooks."""
        self.hooks.call("on_before_backward", loss)
        self.strategy.backward(self.module, loss, *args, **kwargs)
        self.hooks.call("on_after_backward")

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
        """One optimizer step, counted; ``SteppedOptimizer`` comes here."""
        loss = self.strategy.step(optimizer, closure, self._before_step)
        if closure is not None and loss is None:
            return None
        self.steps += 1
        if self.module.automatic_optimization:
            self._step_schedulers("step", plateau=False)
        return loss

    def _before_step(self, optimizer: Optimizer) -> None:
        self.hooks.call("on_before_optimizer_step", optimizer)
        if self._clips and self.module.automatic_optimization:
            self.module.configure_gradient_clipping(optimizer, self.limits.clip_value, self.limits.clip_algorithm)

    def _zero_grad(self, optimizer: Optimizer) -> None:
        self.hooks.call("on_before_zero_grad", optimizer)
        self.module.optimizer_zero_grad(self.epoch, self.batch, optimizer)

    # Schedulers

    def _step_schedulers(self, interval: str, *, plateau: bool) -> None:
        if not self.schedulers or not self.module.automatic_optimization:
            return
        count = self.epoch + 1 if interval == "epoch" else self.steps
        for config in self.schedulers:
            if config.interval != interval or config.plateau is not plateau or count % config.frequency:
                continue
            metric = self._monitored(config) if plateau else None
            if plateau and metric is None:
                continue
            self.module.lr_scheduler_step(config.scheduler, metric)

    def _monitored(self, config: SchedulerConfig) -> Any:
        assert config.monitor is not None, "configured() asks for one"
        metric = self.metrics.callback.get(config.monitor)
        if metric is None and config.strict:
            known = ", ".join(self.metrics.callback) or "nothing"
            raise ConfigError(
                f"ReduceLROnPlateau looks at {config.monitor!r}, which was not logged.",
                remedy=f"Logged so far: {known}. Or set 'strict': False in the scheduler's configuration.",
            )
        return metric

    # Questions

    def _validates(self, batch_idx: int, last: bool) -> bool:
        """Whether a validation follows this batch."""
        if self.evaluation is None:
            return False
        limits = self.limits
        if not limits.by_run and (self.epoch + 1) % limits.validate_epochs:
            return False
        if limits.validate_seconds is not None:
            return time.monotonic() - self._last_validation >= limits.validate_seconds
        if limits.validate_every is None:
            return last
        return (self.total_batches if limits.by_run else batch_idx + 1) % limits.validate_every == 0

    def _enough(self) -> bool:
        """Whether to stop within an epoch."""
        limits = self.limits
        if limits.max_steps is not None and self.steps >= limits.max_steps:
            return True
        if limits.max_time is not None and time.monotonic() - self._started >= limits.max_time:
            return True
        return self.asked_to_stop() and self.epoch >= limits.min_epochs and self.steps >= limits.min_steps

    def _done(self) -> bool:
        """Whether to stop between epochs."""
        limits = self.limits
        epochs = self.epoch + self.complete
        if limits.max_epochs is not None and epochs >= limits.max_epochs:
            return True
        if limits.max_steps is not None and self.steps >= limits.max_steps:
            return True
        if limits.max_time is not None and time.monotonic() - self._started >= limits.max_time:
            return True
        return self.asked_to_stop() and epochs >= limits.min_epochs and self.steps >= limits.min_steps


class _End:
    """Stands for the end of a loader."""


_END = _End()
