"""What a progress bar shows of an epoch, as values and text. Draws nothing and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.training.states import RunningStage

FORMAT = ".4g"
"""How a float is shown."""
_HOUR, _MINUTE = 3600, 60


@dataclass(frozen=True)
class Line:
    """One line of a bar.

    Args:
        label: Such as ``Epoch 3``.
        done: Batches done.
        total: Batches in all; None where nobody knows.
        seconds: Time spent on the batches.
        rate: Batches a second; None before there is one.
        metrics: To show, by name.
        saving: Whether a checkpoint is being written.
        stage: What runs.
    """

    label: str
    done: int
    total: int | None
    seconds: float
    rate: float | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    saving: bool = False
    stage: RunningStage = RunningStage.TRAINING

    @property
    def counts(self) -> str:
        """Batches done, of how many."""
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    @property
    def speed(self) -> str:
        """The rate; empty before there is one."""
        if not self.rate:
            return ""
        return f"{self.rate:,.1f} it/s" if self.rate >= 1 else f"{1 / self.rate:,.1f} s/it"

    @property
    def left(self) -> str:
        """Time left at that rate; empty where it cannot be told."""
        if not self.rate or self.total is None:
            return ""
        return f"{clock_time(max(self.total - self.done, 0) / self.rate)} left"

    @property
    def facts(self) -> list[str]:
        """The metrics, and whether a save is under way."""
        return self.facts_in(FORMAT)

    def facts_in(self, form: str) -> list[str]:
        """The same, with floats in a format of Python's."""
        return [f"{name} {shown(value, form)}" for name, value in self.metrics.items()] + ["saving"] * self.saving

    def text(self) -> str:
        """The whole as one line of plain text."""
        rate = f" ({self.speed})" if self.speed else ""
        return ", ".join([f"{self.label}: {self.counts} batches in {clock_time(self.seconds)}{rate}", *self.facts])


class Count:
    """Batches of one epoch as they are done, and the time that they take.

    Args:
        label: Of its line.
        total: Batches in all; None where nobody knows.
        now: The time, in seconds on the clock that all its times are of.
        stage: What runs.
        done: Batches done before this process began.
    """

    __slots__ = ("_began", "_first", "_paused", "done", "label", "stage", "total")

    def __init__(self, label: str, total: int | None, now: float, stage: RunningStage, *, done: int = 0) -> None:
        self.label, self.total, self.stage, self.done = label, total, stage, done
        self._first, self._began = done, now
        self._paused: float | None = None

    def pause(self, now: float) -> None:
        """Something else begins, whose time is not to count."""
        self._paused = now

    def go_on(self, now: float) -> None:
        """It is over."""
        if self._paused is not None:
            self._began += now - self._paused
            self._paused = None

    def line(self, now: float, metrics: Mapping[str, Any], *, saving: bool) -> Line:
        """How it stands."""
        seconds = (now if self._paused is None else self._paused) - self._began
        new = self.done - self._first
        rate = new / seconds if new > 0 and seconds > 0 else None
        return Line(self.label, self.done, self.total, seconds, rate, metrics, saving, self.stage)


def clock_time(seconds: float) -> str:
    """Such as ``1:05`` or ``2:01:05``."""
    whole = round(seconds)
    hours, minutes = whole // _HOUR, whole % _HOUR // _MINUTE
    if hours:
        return f"{hours}:{minutes:02}:{whole % _MINUTE:02}"
    return f"{minutes}:{whole % _MINUTE:02}"


def shown(value: Any, form: str) -> str:
    """A metric as a bar shows it: a float in that format, anything else as it is."""
    return format(value, form) if isinstance(value, float) else str(value)
