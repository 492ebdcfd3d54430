"""Decide when a checkpoint is due, from a run's counters and events. No clock: time comes as a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.errors import ConfigError
from holdfast.policy.values import Event, Progress, Tally

_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}
_EPOCH_EVENTS = (Event.TRAIN_EPOCH_END, Event.VALIDATION_END)


@dataclass(frozen=True)
class Count:
    """Due at the first batch end at or past each multiple of ``n``.

    A multiple that is jumped over still counts: several optimizers may step in one batch.
    """

    counter: Literal["steps", "batches", "samples"]
    n: int

    def due(self, events: frozenset[Event], progress: Progress, fired: Progress) -> bool:
        """Whether a multiple was reached since ``fired``."""
        if Event.BATCH_END not in events:
            return False
        now: int = getattr(progress, self.counter)
        then: int = getattr(fired, self.counter)
        return now // self.n > then // self.n

    def horizon(self, fired: Progress) -> tuple[tuple[str, int], ...]:
        """The next multiple after ``fired``."""
        then: int = getattr(fired, self.counter)
        return ((self.counter, (then // self.n + 1) * self.n),)

    def __str__(self) -> str:
        return _every(self.n, self.counter)


@dataclass(frozen=True)
class Epochs:
    """Due when ``n`` more epochs are complete, or at the validations of every n-th epoch.

    The two differ on purpose. No training epoch's end is missed, so reaching a multiple is enough. Validation
    may run in some epochs only, and then only those count where both intervals divide (``every_n_epochs`` on
    the ModelCheckpoint API page, Lightning 1.5).
    """

    n: int
    on: Event

    def due(self, events: frozenset[Event], progress: Progress, fired: Progress) -> bool:
        """Whether this is the end of an epoch that counts."""
        if self.on not in events:
            return False
        if self.on is Event.VALIDATION_END:
            return (progress.epoch + 1) % self.n == 0
        # An epoch that a limit cuts short ends too, and is gone on with when a run resumes from there.
        return (progress.epoch + 1) // self.n > fired.epochs // self.n

    def horizon(self, fired: Progress) -> tuple[tuple[str, int], ...]:
        """Nothing: never due at a bare batch end."""
        return ()

    def __str__(self) -> str:
        at = " at validation end" if self.on is Event.VALIDATION_END else ""
        return _every(self.n, "epochs") + at


@dataclass(frozen=True)
class Interval:
    """Asks whoever owns the clock for a save each ``seconds``; never due by itself."""

    seconds: float

    def due(self, events: frozenset[Event], progress: Progress, fired: Progress) -> bool:
        """False: whether the time has come is not known here."""
        return False

    def horizon(self, fired: Progress) -> tuple[tuple[str, int], ...]:
        """Nothing: never due at a bare batch end."""
        return ()

    def __str__(self) -> str:
        unit = next(unit for unit in ("hours", "minutes", "seconds") if self._fits(unit))
        return _every(self.seconds / _SECONDS[unit], unit)

    def _fits(self, unit: str) -> bool:
        return unit == "seconds" or self.seconds % _SECONDS[unit] == 0


@dataclass(frozen=True)
class At:
    """Due at each occurrence of one event."""

    event: Event

    def due(self, events: frozenset[Event], progress: Progress, fired: Progress) -> bool:
        """Whether the event has just happened."""
        return self.event in events

    def horizon(self, fired: Progress) -> tuple[tuple[str, int], ...]:
        """Zero batches where every batch end is due, else nothing."""
        return (("batches", 0),) if self.event is Event.BATCH_END else ()

    def __str__(self) -> str:
        if self.event is Event.MANUAL:
            return "on request"
        preposition = "at" if self.event.value.endswith(" end") else "on"
        return f"{preposition} {self.event.value}"


Trigger = Count | Epochs | Interval | At


@dataclass(frozen=True)
class When:
    """When a checkpoint is due: a union of triggers. Made by ``every``, ``at``, ``never``; joined by ``|``.

    Args:
        triggers: In the order in which they were written; none is there twice.
    """

    triggers: tuple[Trigger, ...] = ()

    def __or__(self, other: When) -> When:
        if not isinstance(other, When):
            return NotImplemented
        return When(tuple(dict.fromkeys(self.triggers + other.triggers)))

    def __str__(self) -> str:
        return " or ".join(map(str, self.triggers)) or "never"

    def due(self, events: frozenset[Event], progress: Progress, tally: Tally) -> str | None:
        """The reason to save now, in words, or None.

        Args:
            events: What has happened at this step.
            progress: The counters after it.
            tally: Holds the progress at which this policy last fired.
        """
        due = [str(t) for t in self.triggers if t.due(events, progress, tally.fired)]
        return " and ".join(due) or None

    @property
    def intervals(self) -> tuple[float, ...]:
        """The time triggers, in seconds. Whoever owns the clock posts a ``Request`` when one has passed."""
        return tuple(t.seconds for t in self.triggers if isinstance(t, Interval))

    def horizon(self, tally: Tally) -> tuple[tuple[str, int], ...]:
        """Up to where ``due`` need not be asked.

        Returns:
            Pairs of a counter of ``Progress`` and a number: at a step with only ``BATCH_END``, ``due``
            is None exactly while every named counter is below its number. No counter is there twice.
        """
        nearest: dict[str, int] = {}
        for trigger in self.triggers:
            for counter, number in trigger.horizon(tally.fired):
                nearest[counter] = min(number, nearest.get(counter, number))
        return tuple(nearest.items())


def every(
    *,
    steps: int | None = None,
    batches: int | None = None,
    samples: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    minutes: float | None = None,
    hours: float | None = None,
    on: Event | None = None,
) -> When:
    """Due again and again, at one interval.

    Args:
        steps: Optimizer steps, over all optimizers; a whole number of at least 1, like the next three.
        batches: Batches of the whole run.
        samples: Samples of the whole run, where the loop reports them.
        epochs: Epochs.
        seconds: Time since the last save; more than 0, like the next two. Not finer than a batch.
        minutes: The same in minutes.
        hours: The same in hours.
        on: With ``epochs`` only: ``Event.TRAIN_EPOCH_END`` (the default), or ``Event.VALIDATION_END`` for
            each validation in an epoch e where ``epochs`` divides e + 1.

    Raises:
        ConfigError: Not exactly one unit was given, its number cannot work, or ``on`` does not go with it.
    """
    counts = {"steps": steps, "batches": batches, "samples": samples, "epochs": epochs}
    times = {"seconds": seconds, "minutes": minutes, "hours": hours}
    given = {unit: number for unit, number in {**counts, **times}.items() if number is not None}
    problems = [problem for unit, number in given.items() if (problem := _number_problem(unit, number))]
    if len(given) != 1:
        units = ", ".join([*counts, *times])
        problems.append(f"takes exactly one of {units}; got {' and '.join(given) or 'none'}")
    if on is not None and epochs is None:
        problems.append("on= goes with epochs= only")
    elif on is not None and on not in _EPOCH_EVENTS:
        problems.append(f"on= is Event.TRAIN_EPOCH_END or Event.VALIDATION_END, not {on!r}")
    if problems:
        raise ConfigError(f"every(): {'; '.join(problems)}.")
    if steps is not None:
        return When((Count("steps", steps),))
    if batches is not None:
        return When((Count("batches", batches),))
    if samples is not None:
        return When((Count("samples", samples),))
    if epochs is not None:
        return When((Epochs(epochs, on or Event.TRAIN_EPOCH_END),))
    ((unit, number),) = given.items()
    return When((Interval(float(number) * _SECONDS[unit]),))


def at(*events: Event) -> When:
    """Due at each occurrence of each of the events.

    Raises:
        ConfigError: There are no events, or one is not an ``Event``.
    """
    given: tuple[object, ...] = events
    problems = [f"{event!r} is not an Event" for event in given if not isinstance(event, Event)]
    if not events:
        problems.append("takes at least one Event; never() is the one that is never due")
    if problems:
        raise ConfigError(f"at(): {'; '.join(problems)}.")
    return When(tuple(At(event) for event in dict.fromkeys(events)))


def never() -> When:
    """Never due: only requests save."""
    return When()


def _every(n: float, unit: str) -> str:
    if n == 1:
        return f"every {unit.removesuffix('s') if unit != 'batches' else 'batch'}"
    number = f"{int(n):,}" if n == int(n) else repr(n)
    return f"every {number} {unit}"


def _number_problem(unit: str, number: object) -> str | None:
    if unit not in _SECONDS:
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
        return None if whole else f"{unit}= is a whole number of at least 1, not {number!r}"
    # The upper bound (30,000 years in seconds) also refuses inf, and integers that no float can hold.
    positive = isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < 1e12
    return None if positive else f"{unit}= is a number above 0 and below 1e12, not {number!r}"
