"""The values that decisions are made of. Frozen, plain, comparable; no torch, no I/O, no clock, no ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any


class Event(str, Enum):
    """What has just happened in a run; several events may share one step."""

    BATCH_END = "batch end"
    TRAIN_EPOCH_END = "train epoch end"
    VALIDATION_END = "validation end"
    FIT_END = "fit end"
    EXCEPTION = "exception"
    SIGNAL = "signal"
    MANUAL = "manual"


@dataclass(frozen=True)
class Progress:
    """How far a run has come. The one owner of the counters; everything else derives from it.

    ``epoch`` counts from 0 and is the epoch that names use. At an epoch's end it is
    ``(epoch=e, batch=n, complete=True)``: files are named after e, and resuming goes on at e + 1.

    Args:
        epoch: The current epoch, from 0.
        batch: Batches done in this epoch.
        complete: Whether this epoch is over.
        batches: Batches done in the whole run.
        steps: Optimizer steps done in the whole run, over all optimizers (the peer's ``global_step``).
        samples: Samples seen in the whole run, where the loop reports them.
    """

    epoch: int = 0
    batch: int = 0
    complete: bool = False
    batches: int = 0
    steps: int = 0
    samples: int = 0

    @property
    def epochs(self) -> int:
        """Epochs completed; also the epoch that a loop goes on with."""
        return self.epoch + self.complete

    def done_in(self, epoch: int) -> int:
        """Batches of ``epoch`` that are done already: what a loop that goes on from here skips."""
        return self.batch if epoch == self.epoch and not self.complete else 0

    def to_json(self) -> dict[str, Any]:
        """The counters by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Progress:
        """Read counters by name. Unknown names are ignored, missing ones keep their default."""
        counters = {f.name: int(data[f.name]) for f in fields(cls) if f.name in data}
        complete = bool(counters.pop("complete", False))
        return cls(complete=complete, **counters)


@dataclass(frozen=True)
class Score:
    """A metric's value and the optimizer step at which it was measured: the two are never parted.

    Args:
        value: A plain int or float; NaN is allowed, and never ranks.
        step: ``Progress.steps`` at the time of measuring.
    """

    value: float
    step: int


@dataclass(frozen=True)
class Request:
    """A save asked for from outside the progress of the run: a clock, a signal, a user, a shell.

    Args:
        reason: Why, in words for a log line, such as ``"10 minutes since the last save"``.
        event: What it comes from: MANUAL is a save by hand, kept whatever the rules say; all others are kept by them.
        policy: The policy it is for; None means every one.
        label: A name the user gave it.
    """

    reason: str
    event: Event = Event.MANUAL
    policy: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Moment:
    """All that a policy may know about one step.

    Args:
        events: What has happened at this step.
        progress: The counters after it.
        metrics: The latest known scores by name.
        validation_follows: Whether a validation will still run at this very step.
        requests: Saves asked for from outside.
    """

    events: frozenset[Event]
    progress: Progress
    metrics: Mapping[str, Score] = field(default_factory=dict)
    validation_follows: bool = False
    requests: tuple[Request, ...] = ()

    def scores(self) -> dict[str, float]:
        """The metrics that were measured at this very step: the only ones a checkpoint may be ranked by."""
        return {name: m.value for name, m in self.metrics.items() if m.step == self.progress.steps}


@dataclass(frozen=True)
class Tally:
    """What one policy must remember between decisions; saved with the checkpoint.

    Args:
        fired: The progress at which its ``when`` last fired, whether or not a file came of it.
        armed: Why it waits for the next validation's score; None when it does not.
    """

    fired: Progress = Progress()
    armed: str | None = None


@dataclass(frozen=True)
class Record:
    """A checkpoint as policies see it: the projection of its manifest and of the ledger.

    Args:
        id: 128 random bits in hex, made at capture.
        names: Its file names, relative to its folder; more than one where an alias points at it.
        run: Id of the run that wrote it.
        sequence: Place among the saves of that run, from 1.
        progress: The counters that it holds.
        scores: Metrics measured at its own step, by name; late scores from the ledger included.
        parts: Names of the pieces of state inside, such as ``model`` or ``optimizer``.
        bytes: Size on the store.
        saved_at: Seconds since the epoch when it was captured. For people; nothing is ordered by it.
        policies: Names of the policies that want it; ``by hand`` among them where the user does.
        reason: Why it was saved.
        label: A name the user gave it.
        pinned: Whether a user wants it kept whatever the rules say.
        run_ordinal: Place of its run among the runs of the folder.
        what: ``full``, ``weights only`` or ``trainable only``, with the patterns where there are any.
        healthy: Whether all its trained weights are finite. One that is not ranks nowhere, and replaces none that is.
    """

    id: str
    names: tuple[str, ...] = ()
    run: str = ""
    sequence: int = 0
    progress: Progress = Progress()
    scores: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    bytes: int = 0
    saved_at: float = 0.0
    policies: tuple[str, ...] = ()
    reason: str = ""
    label: str | None = None
    pinned: bool = False
    run_ordinal: int = 0
    what: str = "full"
    healthy: bool = True

    @property
    def order(self) -> tuple[int, str, int]:
        """Sort key, oldest first: by run, then by the order of commits in it; never by name or file time."""
        return (self.run_ordinal, self.run, self.sequence)
