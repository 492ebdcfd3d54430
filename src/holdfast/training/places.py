"""A folder with the checkpoint callbacks that save there: their policies, clocks and engine. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.catalog import publish as publishing
from holdfast.catalog.folder import Folder
from holdfast.catalog.manifest import RunRef
from holdfast.catalog.runs import Run
from holdfast.engine.engine import Decided
from holdfast.policy.naming import alias_of, given_by
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress, Record, Request, Tally
from holdfast.policy.what import full
from holdfast.policy.when import never
from holdfast.policy.where import COUNTERS, Where
from holdfast.policy.which import last, nothing
from holdfast.store import LocalStore
from holdfast.training.policy_names import names_of

FINAL = Policy("final", never(), last(1))
"""What a fit leaves that has saved nothing else."""

RESCUE = Policy("rescue", never(), last(1), where=Where("rescue-{epoch}-{step}"))
"""What an abnormal end leaves: aside from the ranked checkpoints, gone after the next clean end."""


@dataclass(frozen=True)
class FolderView:
    """What a checkpoint callback may see of its checkpoints.

    Args:
        root: The folder.
        policies: The callback's own, the ranked one first; they are known once it is attached.
        listed: A policy's checkpoints of this run, oldest first; waits until a save under way is durable.
    """

    root: str
    policies: Callable[[], tuple[Policy, ...]]
    listed: Callable[[str], list[Record]]

    def records(self) -> list[Record]:
        """The ranked checkpoints."""
        return self.listed(self.policies()[0].name)

    def path(self, record: Record) -> str:
        """The path of a checkpoint, by the name that the callback gave it."""
        own = given_by(self.policies()[0].where, record)
        return str(Path(self.root) / (own or record.names[0]))

    def alias(self) -> str:
        """The path that moves on to the newest; empty without one."""
        for policy in self.policies():
            if policy.where.alias is not None and (newest := self.listed(policy.name)):
                alias = alias_of(policy.where, newest[-1])
                return str(Path(self.root) / (alias if alias in newest[-1].names else newest[-1].names[0]))
        return ""


class Saver(Protocol):
    """What a fit asks of whoever saves in a folder: ``Engine``, or one that lets others write."""

    run: Run

    @property
    def under_way(self) -> bool:
        """Whether a save is being written now."""
        ...

    def idle(self, progress: Progress) -> bool:
        """Whether a bare batch end has nothing to do."""
        ...

    def decide(self, moment: Moment) -> Decided | None:
        """Let the policies decide on one step; what is then to be begun, together with what other folders want."""
        ...

    def checkpoints(self) -> list[Record]:
        """Those of this run, oldest first."""
        ...

    def next_sequence(self) -> int:
        """The next place among the saves of the run."""
        ...

    def protected(self) -> dict[str, str]:
        """What is not to go yet, and why."""
        ...

    def fence(self) -> None:
        """Wait until nothing reads the state in place."""
        ...

    def alone(self) -> None:
        """From now on ask no other rank."""
        ...

    def settle(self, *, last: bool = False) -> Record | None:
        """Wait for the save under way."""
        ...

    def close(self, *, clean: bool) -> None:
        """The run is over."""
        ...


class Place:
    """One folder.

    Args:
        folder: Which.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.root = folder.store.root
        self.engine: Saver | None = None
        self.run: RunRef | None = None
        self.held: tuple[Request, ...] | None = None
        self._callbacks: dict[ModelCheckpoint, tuple[Policy, ...]] = {}
        self._clocks: dict[float, float] = {}
        self._first_sequence = 0

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a rank that is started from here: it opens the folder itself, and no save is under way."""
        return {**vars(self), "folder": None, "engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.folder = Folder(LocalStore(self.root))

    # Putting together

    def add(self, callback: ModelCheckpoint, name: str, on_train_epoch_end: bool) -> None:
        """One more callback, whose policies are called ``name``."""
        callback.attach(FolderView(self.root, partial(self.policies_of, callback), self.records))
        self._callbacks[callback] = callback.policies(name, on_train_epoch_end=on_train_epoch_end)

    def rules_of_before(self) -> Mapping[str, list[Any]]:
        """What the newest run of the folder kept, by policy."""
        listing = self.folder.scan()
        return listing.rules.get(listing.newest_run() or "", {})

    def newest_run(self) -> int:
        """The ordinal of the newest run of the folder; 0 where there is none."""
        return max((run.ordinal for run in self.folder.scan().runs.values()), default=0)

    def look_again(self) -> None:
        """Ask each callback anew which checkpoints it keeps: a state that it was given may rank with others."""
        for callback, (ranked, *others) in self._callbacks.items():
            self._callbacks[callback] = (replace(ranked, which=callback.which()), *others)

    def remembered(self, tallies: Mapping[str, Tally], home: Place | None, began: Progress) -> dict[str, Tally]:
        """What each policy remembers. Who has no memory counts from here, and not from the first step of the run.

        Args:
            tallies: What the file that is gone on from tells.
            home: The folder that it lies in, whose policies its own are; None where it is none of this run's.
            began: Where the fit begins.
        """
        others = set() if home is None or home is self else {p.name for p in home.policies}
        known = {} if home is None else {name: tally for name, tally in tallies.items() if name not in others}
        return {p.name: known.get(p.name, Tally(fired=began)) for p in self.policies}

    def begin(self, engine: Saver, now: float) -> None:
        """The run begins here, at ``now`` in seconds."""
        self.engine, self.run = engine, engine.run.ref
        self._first_sequence = self._newest_sequence()
        self._clocks = {seconds: now + seconds for policy in self.policies for seconds in policy.when.intervals}

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All that save here."""
        return (*(p for policies in self._callbacks.values() for p in policies), FINAL, self.rescue)

    @property
    def rescue(self) -> Policy:
        """What an abnormal end leaves here: ``RESCUE``, but for a callback that wants it named as its own."""
        named = next((callback.names() for callback in self._callbacks if callback.save_on_exception), None)
        return RESCUE if named is None else replace(RESCUE, where=named)

    def policies_of(self, callback: ModelCheckpoint) -> tuple[Policy, ...]:
        """A callback's own; none for one of another folder."""
        return self._callbacks.get(callback, ())

    def savers(self, records: Iterable[Record]) -> list[ModelCheckpoint]:
        """The callbacks whose checkpoints these are."""
        wanted = {name for record in records for name in record.policies}
        return [c for c, policies in self._callbacks.items() if any(p.name in wanted for p in policies)]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics that rank or name something here."""
        named = (name for p in self.policies for name in (*p.which.metrics, *p.where.fields))
        # A callback that keeps all ranks by its monitor none the less.
        names = (*named, *(c.monitor for c in self._callbacks if c.monitor is not None and c.save_top_k != 0))
        return tuple(dict.fromkeys(name for name in names if name not in COUNTERS))

    @property
    def counters(self) -> tuple[str, ...]:
        """The counters that something is ranked by."""
        return tuple(name for p in self.policies for name in p.which.metrics if name in COUNTERS)

    @property
    def keeps_nothing(self) -> bool:
        """Whether every callback was told to keep nothing."""
        return all(p.which == nothing() for policies in self._callbacks.values() for p in policies)

    def ready(self) -> Saver:
        """The engine."""
        assert self.engine is not None, "begin() comes first"
        return self.engine

    # Questions

    def hears(self, noted: Collection[tuple[int, Event]], event: Event) -> bool:
        """Whether any callback's hook of this event has run, or an event is held for this one."""
        return self.held is not None or any((id(c), event) in noted for c in self._callbacks)

    def idle(self, progress: Progress, now: Callable[[], float]) -> bool:
        """Whether a batch end has nothing to do: no clock has run down, no number is reached, no save to settle."""
        if self._clocks and now() >= min(self._clocks.values()):
            return False
        return self.ready().idle(progress)

    def elapsed(self, now: float) -> tuple[Request, ...]:
        """What the clocks that have run down ask for; each begins anew."""
        due = [seconds for seconds, then in self._clocks.items() if now >= then]
        self._clocks.update({seconds: now + seconds for seconds in due})
        return tuple(
            Request(f"{seconds:g} s have passed", Event.BATCH_END, policy=policy.name)
            for policy in self.policies
            for seconds in policy.when.intervals
            if seconds in due
        )

    def keeper(self) -> str:
        """The policy that keeps a state which no rule asked for: an alias where there is one, else the rescue."""
        aliases = [p.name for p in self.policies if p.where.template is None and p.what == full]
        return aliases[0] if aliases else RESCUE.name

    def records(self, policy: str) -> list[Record]:
        """A policy's checkpoints of this run, oldest first, when nothing is under way any more."""
        if self.engine is None:
            return [r for r in self._own() if policy in r.policies]
        self.engine.settle()
        return [r for r in self.engine.checkpoints() if policy in r.policies]

    def saved(self, progress: Progress) -> bool:
        """Whether this very state is on disk, by this attempt or before."""
        return any(r.progress == progress and r.what == str(full) for r in self._own())

    def saved_anything(self) -> bool:
        """Whether this fit has."""
        return self._newest_sequence() > self._first_sequence

    def next_sequence(self) -> int:
        """The next place among the saves of the run."""
        return self.engine.next_sequence() if self.engine is not None else self._newest_sequence() + 1

    # Ends

    def tidy(self) -> None:
        """After a clean end: rescues go once something newer is there, and what was resumed from once two are."""
        engine, own = self.ready(), [r for r in self._own() if r.what == str(full)]
        source, protected = engine.run.source, engine.protected()
        gone = {}
        for record in own:
            rescued = RESCUE.name in record.policies and any(r.order > record.order for r in own)
            resumed = source is not None and record.id == source.id and record.id not in protected
            if (rescued or resumed) and not self._wanted(record):
                gone[record.id] = "the run ended clean"
        if gone:
            assert self.run is not None, "a run has ended"
            with self.folder.exclusive():
                publishing.evict(self.folder, gone, self.run.id)

    def _wanted(self, record: Record) -> bool:
        """Whether a rule keeps it, or a user, or a policy that is not known here."""
        known = {p.name: p for p in self.policies if p.name in record.policies}
        rules = [p for p in known.values() if p not in (FINAL, RESCUE)]
        unknown = not record.policies or set(record.policies) - set(known)
        return bool(unknown) or record.pinned or any(record.id in p.which.keep(self.records(p.name)) for p in rules)

    def _own(self) -> tuple[Record, ...]:
        return self.folder.scan().of_run(self.run.id) if self.run is not None else ()

    def _newest_sequence(self) -> int:
        return max((r.sequence for r in self._own()), default=0)


def looked_at(callbacks: Iterable[tuple[ModelCheckpoint, str | None]], runs: Mapping[str, RunRef]) -> None:
    """Let callbacks see what was saved for them by other processes, which have ended.

    Args:
        callbacks: Each with its folder; None for one that has saved nothing.
        runs: The run that was written in each folder.
    """
    own = [(callback, root) for callback, root in callbacks if root is not None and root in runs]
    places: dict[str, Place] = {}
    for _, root in own:
        place = places.setdefault(root, Place(Folder(LocalStore(root))))
        place.run = runs[root]
    named = names_of(own, lambda root: places[root].rules_of_before())
    for (callback, root), name in zip(own, named, strict=True):
        places[root].add(callback, name, True)
