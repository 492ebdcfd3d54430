"""Measure how long a fit takes, over all its interruptions, and end it in time. Ends nothing itself: it sets a flag."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.training.durations import seconds

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

_STAGES = ("train", "sanity_check", "validate", "test", "predict")


class Timer(Callback):
    """Know how long training took, resumed runs together, and stop it after a duration.

    Args:
        duration: Of training at most: ``"DD:HH:MM:SS"``, a timedelta, or its arguments as a dict; None for no limit.
        interval: Whether to look after each ``"step"`` or each ``"epoch"``.
        verbose: Whether a line says that the time is over.

    Raises:
        ConfigError: The duration or the interval is none.
    """

    def __init__(
        self,
        duration: str | timedelta | dict[str, int] | None = None,
        interval: Literal["step", "epoch"] = "step",
        verbose: bool = True,
    ) -> None:
        if interval not in ("step", "epoch"):
            raise ConfigError(f"Timer: interval is 'step' or 'epoch', not {interval!r}.")
        try:
            self._duration = None if duration is None else seconds(duration)
        except ValueError as error:
            raise ConfigError(f"Timer: duration: {error}.") from error
        self._interval, self._verbose = str(interval), verbose
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._before = 0.0

    def start_time(self, stage: str = "train") -> float | None:
        """When the stage last began, by ``time.monotonic()``; None where it has not."""
        return self._started.get(_known(stage))

    def end_time(self, stage: str = "train") -> float | None:
        """When the stage last ended; None where it has not."""
        return self._ended.get(_known(stage))

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds in a stage; of training, those before an interruption too."""
        start, end = self.start_time(stage), self.end_time(stage)
        before = self._before if stage == "train" else 0.0
        if start is None:
            return before
        return before + (time.monotonic() if end is None else end) - start

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds left of the duration; None without one."""
        return None if self._duration is None else self._duration - self.time_elapsed(stage)

    def state_dict(self) -> dict[str, Any]:
        """The seconds of each stage."""
        return {"time_elapsed": {stage: self.time_elapsed(stage) for stage in _STAGES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._before = state_dict.get("time_elapsed", {}).get("train", 0.0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on may have no time left."""
        self._look(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins."""
        self._begin("train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ends."""
        self._ended["train"] = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock, if it is here that it is done."""
        if self._duration is not None and self._interval == "step":
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock, if it is here that it is done."""
        if self._interval == "epoch":
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation begins."""
        self._begin("validate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation ends."""
        self._ended["validate"] = time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test begins."""
        self._begin("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test ends."""
        self._ended["test"] = time.monotonic()

    def _begin(self, stage: str) -> None:
        self._started[stage] = time.monotonic()
        self._ended.pop(stage, None)

    def _look(self, trainer: Trainer) -> None:
        if self._duration is None:
            return
        over = self.time_elapsed() >= self._duration
        if trainer.world_size > 1:  # clocks differ: rank 0's decides for all
            over = bool(trainer.strategy.group.broadcast(over, phase="timer"))
        if over and not trainer.should_stop:
            trainer.should_stop = True
            if self._verbose and trainer.is_global_zero:
                logger.info("training stops: its time is over after %s", timedelta(seconds=int(self.time_elapsed())))


def _known(stage: str) -> str:
    if stage not in _STAGES:
        raise ConfigError(f"Timer: a stage is one of {', '.join(_STAGES)}, not {stage!r}.")
    return str(stage)
