"""Follow a run and decide what its progress bar shows, and when. Draws nothing: each kind of bar does that."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.progress.line import Count, Line
from holdfast.errors import ConfigError
from holdfast.training.metrics import numbers
from holdfast.training.states import RunningStage

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

_PERIOD = 0.1
"""Seconds of work between two drawings, at least: a batch that comes earlier is only counted."""


class ProgressBar(Callback):
    """Base of all bars: epoch, batches, rate, time left, metrics, and a save under way.

    On a terminal the bar is drawn by time, at most ten times a second, and metrics are read only then. Elsewhere
    each epoch of training, and each evaluation outside of fit, is one plain line. Other ranks show nothing.

    A kind of bar overrides ``show`` and ``close``; ``get_metrics`` may be overridden to choose what is shown, and the
    descriptions to choose what each line is called.

    Args:
        refresh_rate: 0 switches the bar off. Any other number is accepted and means nothing: the bar goes by time.
        leave: Whether the bar of each epoch stays on the screen; otherwise that of the last one.

    Raises:
        ConfigError: ``refresh_rate`` is no whole number of 0 or more.
    """

    clock = staticmethod(time.monotonic)
    """Seconds, from anywhere."""

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        if refresh_rate < 0:
            raise ConfigError(f"{type(self).__name__}: refresh_rate is 0 or more, not {refresh_rate!r}.")
        self.refresh_rate, self.leave = refresh_rate, leave
        self._trainer: Trainer | None = None
        self._enabled = refresh_rate > 0
        self._speaks = self._live = self._open = False
        self._fitting = self._checking = False
        self._due = math.inf
        self._train: Count | None = None
        self._other: Count | None = None

    # For users

    @property
    def is_enabled(self) -> bool:
        """Whether it shows anything."""
        return self._enabled

    @property
    def is_disabled(self) -> bool:
        """Whether it shows nothing."""
        return not self._enabled

    def enable(self) -> None:
        """Show again."""
        self._enabled = True
        self._draw_next()

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False
        self._stop()

    @property
    def trainer(self) -> Trainer:
        """The trainer of the run under way, or of the last."""
        if self._trainer is None:
            raise RuntimeError(f"This {type(self).__name__} has seen no run yet.")
        return self._trainer

    @property
    def total_train_batches(self) -> float:
        """Batches of an epoch; infinite where the loader does not say."""
        return self.trainer.num_training_batches

    @property
    def total_val_batches(self) -> float:
        """Batches of a validation, or of the check before training, of all loaders."""
        checking = self.trainer.sanity_checking
        return sum(self.trainer.num_sanity_val_batches if checking else self.trainer.num_val_batches)

    @property
    def sanity_check_description(self) -> str:
        """What the line of the check before training is called."""
        return "Sanity check"

    @property
    def train_description(self) -> str:
        """What the line of an epoch is called, before its number."""
        return "Epoch"

    @property
    def validation_description(self) -> str:
        """What the line of a validation is called."""
        return "Validation"

    @property
    def test_description(self) -> str:
        """What the line of a test is called."""
        return "Test"

    @property
    def predict_description(self) -> str:
        """What the line of a prediction is called."""
        return "Prediction"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float]:
        """What to show beside the numbers of the bar: the logger's version, and what was logged with ``prog_bar``."""
        version = None if trainer.logger is None else trainer.logger.version
        shown: dict[str, int | str | float] = {}
        if version is not None and version != "":
            shown["v_num"] = version if isinstance(version, int) else str(version)[-4:]
        return {**shown, **numbers(trainer.progress_bar_metrics)}

    def print(self, *args: Any, **kwargs: Any) -> None:
        """As the built-in ``print``, without tearing the bar."""
        print(*args, **kwargs)

    # For kinds of bars

    def show(self, lines: Sequence[Line], *, final: bool) -> None:
        """Draw these lines in place of those drawn before; ``final`` ones are to stay on the screen.

        By default nothing is drawn: a bar of your own may draw from its hooks instead.
        """

    def close(self) -> None:
        """Give the terminal back, with what was drawn last. Called only after ``show``."""

    # Hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out where it speaks."""
        self._stop()  # the run before may have ended where no hook was called
        self._trainer = trainer
        self._speaks = trainer.is_global_zero
        self._live = self._speaks and _terminal()
        self._fitting, self._checking = stage == "fit", False
        self._train = self._other = None
        self._draw_next()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is validated now is the sanity check."""
        self._checking = True

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is validated from now on is not."""
        self._checking = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show at once that the training has begun."""
        self._draw_next()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew, from where the loop is."""
        assert trainer.loop is not None, "a fit has a loop"
        label, total = f"{self.train_description} {trainer.current_epoch}", _total(trainer, "num_training_batches")
        self._train = Count(label, total, self.clock(), RunningStage.TRAINING, done=trainer.loop.batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count; all else waits until it is time to draw."""
        self._train.done = batch_idx + 1  # type: ignore[union-attr]  # on every batch: no check that costs
        if self.clock() >= self._due:
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One line where there is no terminal."""
        assert self._train is not None, "an epoch that ends has begun"
        if self._live and self._enabled and self.leave:
            self._draw(trainer, pl_module, final=True)
        elif not self._live:
            self._write(trainer, pl_module, self._train)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands at the end."""
        if self._open and self._train is not None and not self.leave:
            self._draw(trainer, pl_module, final=True)
        self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count beside the training, whose time stands still."""
        if self._checking:
            total = _total(trainer, "num_sanity_val_batches")
            self._begin(RunningStage.SANITY_CHECKING, self.sanity_check_description, total)
        else:
            self._begin(RunningStage.VALIDATING, self.validation_description, _total(trainer, "num_val_batches"))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count."""
        self._count(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the result, or go on with the training."""
        self._end(trainer, pl_module)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_end = on_predict_end = on_validation_end

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count."""
        self._begin(RunningStage.TESTING, self.test_description, _total(trainer, "num_test_batches"))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count."""
        self._begin(RunningStage.PREDICTING, self.predict_description, _total(trainer, "num_predict_batches"))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop()

    # What they share

    def _begin(self, stage: RunningStage, label: str, total: int | None) -> None:
        now = self.clock()
        if self._train is not None:
            self._train.pause(now)
        self._other = Count(label, total, now, stage)

    def _count(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._other.done += 1  # type: ignore[union-attr]  # as in on_train_batch_end
        if self.clock() >= self._due:
            self._draw(trainer, pl_module)

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        other = self._other
        assert other is not None, "an evaluation that ends has begun"
        if self._fitting:
            self._other = None
            if self._train is not None:
                self._train.go_on(self.clock())
        elif self._live and self._enabled:
            self._draw(trainer, pl_module, final=True)
            self._stop()
        elif not self._live:
            self._write(trainer, pl_module, other)

    def _draw_next(self) -> None:
        """Draw at the next batch, whenever it was drawn last."""
        self._due = -math.inf if self._live and self._enabled else math.inf

    def _draw(self, trainer: Trainer, pl_module: LightningModule, *, final: bool = False) -> None:
        now = self.clock()
        counts = [count for count in (self._train, self._other) if count is not None]
        metrics = self.get_metrics(trainer, pl_module)
        saving = bool(getattr(trainer.saving, "under_way", False))
        first, *rest = counts
        self._open = True
        self.show(
            [first.line(now, metrics, saving=saving), *(c.line(now, {}, saving=False) for c in rest)], final=final
        )
        # From the end of the drawing: a slow terminal slows the training by a share, and never stops it.
        self._due = self.clock() + _PERIOD

    def _write(self, trainer: Trainer, pl_module: LightningModule, count: Count) -> None:
        if self._speaks and self._enabled:
            print(count.line(self.clock(), self.get_metrics(trainer, pl_module), saving=False).text(), flush=True)

    def _stop(self) -> None:
        self._due = math.inf
        if self._open:
            self._open = False
            self.close()


def _terminal() -> bool:
    """Whether what is drawn on stdout can be drawn over."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _total(trainer: Trainer, name: str) -> int | None:
    """The sum of a number of batches that the trainer tells, for one loader or for several; None where it does not."""
    given: Any = getattr(trainer, name, math.inf)
    sizes: list[float] = list(given) if isinstance(given, Iterable) else [given]
    return sum(map(int, sizes)) if all(map(math.isfinite, sizes)) else None
