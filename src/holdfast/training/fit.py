"""The fit loop. Plain code that reads top to bottom; on a step that nobody asked anything of, it only trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.optim import Optimizer

from holdfast.errors import ConfigError
from holdfast.policy.values import Event, Progress
from holdfast.state import random
from holdfast.state.optimizers import SchedulerConfig
from holdfast.strategies.base import TrainingStrategy
from holdfast.training.agreement import Agreement
from holdfast.training.data import Batches, Transfer
from holdfast.training.evaluate import Evaluation
from holdfast.training.hooks import Context, Hooks
from holdfast.training.limits import FitLimits
from holdfast.training.metrics import MetricLog
from holdfast.training.stepping import Stepping


class FitLoop(Stepping):
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
        fence: Returns when no save reads the state in place: hooks that come next may change it.
        agreement: What the ranks agree on: whether to end, and the time.
        log_step: Hands the values of a step to the loggers.
        log_epoch: Hands values of an epoch to them.
        out_of_time: Told, whenever that is seen, that ``max_time`` is over.
        restore_random: Puts back the random state of a checkpoint; the last thing before the first batch.
        reload: New batches for an epoch that begins, or None to go on with those there are.
        early_epoch_end: Those who hear of an epoch's end first.
        late_epoch_end: Those who hear of it when all schedulers have stepped: callbacks that stop or save.
    """

    def __init__(
        self,
        *,
        module: Any,
        strategy: TrainingStrategy,
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
        fence: Callable[[], None],
        agreement: Agreement,
        log_step: Callable[[], None],
        log_epoch: Callable[[dict[str, Any]], None],
        out_of_time: Callable[[], None],
        restore_random: Callable[[], None],
        reload: Callable[[int], Batches | None] = lambda epoch: None,
        early_epoch_end: Sequence[Callable[..., Any]] = (),
        late_epoch_end: Sequence[Callable[..., Any]] = (),
    ) -> None:
        super().__init__(module, strategy, hooks, context, metrics, optimizers, schedulers, limits)
        self.batches, self.transfer, self.evaluation = batches, transfer, evaluation
        self.consider, self.fence, self.agreement = consider, fence, agreement
        self.log_step, self.log_epoch = log_step, log_epoch
        self.restore_random, self.reload, self.out_of_time = restore_random, reload, out_of_time
        self.late_epoch_end, self.early_epoch_end = tuple(late_epoch_end), tuple(early_epoch_end)
        self.batch, self.complete = 0, False
        self.total_batches, self.samples = 0, 0
        self.stepped = 0  # batches that ended in a step, however many optimizers there are: the x-axis of loggers
        self.last_batch = False
        self.epoch_ended = False  # which, unlike ``complete``, is said of an epoch that was cut short too
        self.validated_at = -1
        self.at_boundary, self.running = True, False
        self.random: dict[str, Any] | None = None
        self._place: dict[str, Any] | None = None  # in the data, as a checkpoint has it; None once it was gone to
        self._validating: list[dict[str, Any]] | None = None
        self._plateau_at = -1
        self._within = False  # whether the batches of an epoch are under way
        self._uncounted = False  # whether a step is not in ``stepped`` yet, as hooks expect
        self._elapsed = 0.0
        self._last_validation = 0.0

    # Where it is

    @property
    def progress(self) -> Progress:
        """The counters."""
        return Progress(self.epoch, self.batch, self.complete, self.total_batches, self.steps, self.samples)

    def state_dict(self) -> dict[str, Any]:
        """What the loop must remember besides its progress."""
        state = {
            "validated_at": self.validated_at,
            "plateau_at": self._plateau_at,
            "stepped": self.stepped + self._uncounted,
            "last_batch": self.last_batch or self.complete,
            # A batch that an error broke off is not in the window.
            "window": self._window if self.at_boundary else bool(self.batch % self.limits.accumulate),
            "waiting": sorted(self._waiting),
            "within": self._within,
            "data": self._place or self.batches.feed.state_dict(self.batch, over=self._between),
            "validation": self._evaluation_places() if self.random is None else self._validating,
            "metrics": self.metrics.state_dict(),
        }
        return state if self.limits.max_time is None else {**state, "elapsed": self._seconds()}

    @property
    def _between(self) -> bool:
        """Whether the next batch is of a new pass over the data: hooks of an epoch's start come before that begins."""
        return self.complete or (self.batch == 0 and not self._within)

    def go_on_from(self, progress: Progress, state: dict[str, Any]) -> None:
        """Stand where a checkpoint stood."""
        self.epoch, self.batch = progress.epoch, progress.batch
        self.complete = self.epoch_ended = progress.complete
        self.total_batches, self.steps, self.samples = progress.batches, progress.steps, progress.samples
        self.validated_at, self._plateau_at = state.get("validated_at", -1), state.get("plateau_at", -1)
        self._window, self._waiting = state.get("window", False), set(state.get("waiting", ()))
        self.last_batch = state.get("last_batch", False)
        # Saved at the end of the last step there is to be, and before what follows on it: that is still to be done.
        self._within = bool(state.get("within")) and self.steps == self.limits.max_steps
        unknown = {"kind": "unknown", "over": False, "done": self.batch}
        self._place = state.get("data") or (unknown if self.batch > 0 and not self.complete else None)
        loaders = () if self.evaluation is None else self.evaluation.loaders
        places = state.get("validation") or ()
        if len(places) == len(loaders):
            for loader, place in zip(loaders, places, strict=True):
                loader.feed.load_state_dict(place)
        self.stepped = state.get("stepped", progress.steps)
        self._elapsed = state.get("elapsed", 0.0)
        self.metrics.load_state_dict(state.get("metrics", {}))

    def inexact(self) -> list[str]:
        """Of the data that is left: why it is not what would have come."""
        place, size = self._place, self.batches.size
        if place is None:
            return []
        over = place["over"] or place["done"] != self.batch or (size is not None and 0 < size <= self.batch)
        return self.batches.feed.inexact({**place, "over": over})

    # The loop

    def run(self) -> None:
        """Train, unless there is nothing left to do."""
        if self.batches.size == 0 or (self.done and not self._within):
            return
        self.running = True
        if self.complete:
            self._next_epoch()
        self.hooks.call("on_train_start")
        self.restore_random()
        while self._within or not self.done:
            self._run_epoch()
        self.running = False
        self.fence()
        self.hooks.call("on_train_end")
        self.consider(Event.FIT_END)

    def _run_epoch(self) -> None:
        resumed_at = self.batch
        self.complete = self.epoch_ended = False
        self.batches = self.reload(self.epoch) or self.batches
        self.batches.set_epoch(self.epoch)
        self.metrics.begin_stage("train")
        self.hooks.call("on_train_epoch_start")
        if resumed_at:  # that hook has run in this epoch before
            self.metrics.forget_again()
        self._within = True
        self.complete = self._run_batches(resumed_at)
        self._within, self.at_boundary = False, True
        self.fence()
        self.metrics.end_batches(self.steps)
        self.hooks.call_all(self.early_epoch_end, "on_train_epoch_end")
        self.log_epoch(self.metrics.end_stage(self.steps))
        self.schedules.step(self.schedules.plateau_epoch, self.epoch + 1)
        self.hooks.call_all(self.late_epoch_end, "on_train_epoch_end")
        self.agreement.poll()
        self.consider(Event.TRAIN_EPOCH_END)
        self.epoch_ended = True
        if not self.done:
            self._next_epoch()

    def _next_epoch(self) -> None:
        self.epoch, self.batch, self.complete = self.epoch + 1, 0, False

    def _run_batches(self, resumed_at: int) -> bool:
        """The batches of an epoch that are not done yet; whether the epoch is over then."""
        hooks, metrics, size, schedules = self.hooks, self.metrics, self.batches.size, self.schedules
        start, end = hooks.of("on_train_batch_start"), hooks.of("on_train_batch_end")
        over = size is not None and 0 < size <= resumed_at
        source = iter(()) if over else self._batches_from(resumed_at)
        if resumed_at:
            self._finish_step(resumed_at)
        if over or self._enough():
            return over
        upcoming = next(source, _END)
        if upcoming is _END and not resumed_at:
            raise ConfigError(
                f"The train dataloader gave no batch in epoch {self.epoch}.",
                remedy="Give one that can be iterated in every epoch; a generator can be read only once.",
            )
        while upcoming is not _END:
            raw, batch_idx = upcoming, self.batch
            # One batch is looked ahead only where the end cannot be known: what is drawn is not yet trained on.
            upcoming = next(source, _END) if size is None else None
            last = self.last_batch = upcoming is _END if size is None else batch_idx + 1 >= size
            batch = self.transfer(raw)
            metrics.begin_batch(batch)
            self.at_boundary = False
            if start and -1 in hooks.call_all(start, "on_train_batch_start", batch, batch_idx):
                self.at_boundary = True
                schedules.step(schedules.each_epoch, self.epoch + 1)
                return True
            outputs = self._train_batch(batch, batch_idx, last)
            self.batch += 1
            self.total_batches += 1
            metrics.end_batch(self.steps)
            if last and schedules.each_epoch:
                schedules.step(schedules.each_epoch, self.epoch + 1)
            self.at_boundary, self._uncounted = True, not self._window
            if end:
                hooks.call_all(end, "on_train_batch_end", outputs, batch, batch_idx)
            self.agreement.count()
            stepped, self._uncounted = self._uncounted, False
            if stepped:
                self.stepped += 1
                if self.stepped % self.limits.log_every == 0:
                    self.log_step()
            validates = self._validates(batch_idx, last)
            self.consider(Event.BATCH_END, validates)
            if validates:
                self._validate()
            if stepped and schedules.plateau_step:
                self._step_plateau(batch_idx + 1)
            if last or self._enough():
                return last
            if size is not None:
                upcoming = next(source, _END)
        return True

    def _batches_from(self, done: int) -> Iterator[Any]:
        """The epoch's batches, without those that are done."""
        place, self._place = self._place, None
        if place is not None:
            # A checkpoint of an epoch's last batch may not have seen the epoch's end; it is over all the same.
            self.batches.feed.load_state_dict({**place, "over": place["over"] or place["done"] != done})
        return self.batches.iterate(ahead=self.batches.size is None)

    def _evaluation_places(self) -> list[dict[str, Any]] | None:
        """What the loaders of the validation must remember between two of them."""
        loaders = () if self.evaluation is None else self.evaluation.loaders
        return [loader.feed.state_dict(0, over=True) for loader in loaders]

    def _finish_step(self, batches: int) -> None:
        """What came after the save in the step that a checkpoint holds: its validation, schedulers that look at it."""
        self.restore_random()  # the epoch's beginning has drawn from it once more
        last = self.last_batch if self.batches.size is None else batches == self.batches.size
        if self.validated_at != self.total_batches and self._validates(batches - 1, last):
            self._validate()
        if not self._window and self.schedules.plateau_step and self._plateau_at != self.total_batches:
            self._step_plateau(batches)

    def _step_plateau(self, batches: int) -> None:
        self._plateau_at = self.total_batches
        self.schedules.step(self.schedules.plateau_step, batches)

    def _validate(self) -> None:
        assert self.evaluation is not None, "only a run with a validation validates"
        self.fence()
        if not self._window:
            self.module.on_validation_model_zero_grad()
        # A save asked for meanwhile resumes by running this validation whole.
        self._validating, self.random = self._evaluation_places(), random.capture()
        logged = self.evaluation.run(self.steps)
        self.random = None
        self.validated_at = self.total_batches
        self.agreement.poll()
        self._last_validation = self.agreement.now()
        self.log_epoch(logged)
        self.consider(Event.VALIDATION_END)

    # Questions

    def _validates(self, batch_idx: int, last: bool) -> bool:
        """Whether a validation follows this batch."""
        if self.evaluation is None:
            return False
        limits = self.limits
        if not limits.by_run and (self.epoch + 1) % limits.validate_epochs:
            return False
        if self.running and self._stops(self.epoch):
            return True  # a run that is stopped in the middle of an epoch ends with a validation
        if limits.validate_seconds is not None:
            return self.agreement.now() - self._last_validation >= limits.validate_seconds
        if limits.validate_every is None:
            return last
        return (self.total_batches if limits.by_run else batch_idx + 1) % limits.validate_every == 0

    def _enough(self) -> bool:
        """Whether to stop within an epoch."""
        maximum = self.limits.max_steps
        return (maximum is not None and self.steps >= maximum) or self._stops(self.epoch)

    @property
    def done(self) -> bool:
        """Whether to stop between epochs."""
        return bool(self.limits.reached(self.progress)) or self._stops(self.epoch + self.complete)

    def _stops(self, epochs: int) -> bool:
        """Whether a callback or the time says stop, and the least that was asked for is done."""
        limits = self.limits
        if limits.max_time is not None and self._seconds() >= limits.max_time:
            self.out_of_time()
        elif not self.agreement.stop:
            return False
        return epochs >= limits.min_epochs and self.steps >= limits.min_steps

    def _seconds(self) -> float:
        """How long this fit has taken, with those that it goes on from."""
        return self._elapsed + self.agreement.now()


_END: Any = object()
"""Stands for the end of a loader."""
