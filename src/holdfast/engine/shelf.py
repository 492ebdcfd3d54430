"""One folder of a run: what is kept in it, and how what was written is published there. Captures and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from holdfast.catalog import publish as publishing
from holdfast.catalog import ranking, records, resolve
from holdfast.catalog.directories import Draft
from holdfast.catalog.folder import Folder
from holdfast.catalog.runs import Run
from holdfast.engine.commit import what_and_remedy
from holdfast.engine.expected import expected
from holdfast.engine.fence import Moved
from holdfast.engine.job import Work
from holdfast.engine.telling import after, line
from holdfast.errors import HoldfastError, SaveFailed, StoreError
from holdfast.policy.plan import BY_HAND, Plan, Save
from holdfast.policy.values import Event, Moment, Record, Request, Tally
from holdfast.policy.what import full
from holdfast.store import Sink


@dataclass(frozen=True)
class Wanted:
    """What one folder wants of a moment.

    Args:
        shelf: The folder.
        plan: What to do there.
        moment: When.
        tallies: What each policy is to remember.
        remembering: Those to whom that matters: who is due by a rule of its own, or waits for a score.
    """

    shelf: Shelf
    plan: Plan
    moment: Moment
    tallies: Mapping[str, Tally]
    remembering: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that its checkpoints will have."""
        return tuple(name for save in self.plan.saves for name in save.names)

    @property
    def called(self) -> str:
        """What a sentence calls it."""
        return self.plan.saves[0].names[0] if self.plan.saves else f"of step {self.moment.progress.steps}"


class Shelf:
    """One folder in one run.

    Args:
        folder: Where.
        run: The run, as it is in this folder.
        metrics: Those that the rules rank by.
        report: Takes one line for each save.
    """

    def __init__(
        self,
        folder: Folder,
        run: Run,
        *,
        metrics: Collection[str] = (),
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder = folder
        self.run = run
        self._report = report
        self.troubles: list[str] = []
        self.news: Sequence[Record] = ()
        self.again: tuple[Request, ...] = ()
        self.capturing: Wanted | None = None
        self._durable: set[int] = set()
        listing = folder.scan()
        own = listing.of_run(run.ref.id)
        self._promised = ranking.promised(listing, run.ref.id)
        # A misspelt metric is found at the first validation, and is to cost nothing until then.
        self._unmeasured = set(metrics).difference(*(r.scores for r in own))
        self._ranked = ranking.ranked_before(listing, run.ref.id) if self._unmeasured else set()
        self.sequence = max((r.sequence for r in own), default=0)
        self.abandoned = {r.id for r in own if run.source is not None and r.order > run.source.order}

    def checkpoints(self) -> list[Record]:
        """Those of this run, oldest first; while a state is captured, as they will be once that save is durable."""
        own = list(self.folder.scan().of_run(self.run.ref.id))
        if self.capturing is None:
            return own
        wanted = self.capturing
        return expected(own, wanted.plan, wanted.moment, run=self.run.ref.id, sequence=self.sequence)

    def protected(self) -> dict[str, str]:
        """What is not to go yet, and why.

        That is what was promised to be kept for good; the checkpoint resumed from, until two newer ones are durable;
        and what earlier rules ranked, until the metrics that the rules of now rank by have been measured.
        """
        kept = dict(self._promised)
        if self._ranked:
            self._unmeasured.difference_update(*(r.scores for r in self.folder.scan().of_run(self.run.ref.id)))
            self._ranked = self._ranked if self._unmeasured else set()
            why = f"not measured yet, to rank by: {', '.join(sorted(self._unmeasured))}"
            kept.update(dict.fromkeys(self._ranked, why))
        source = self.run.source
        if source is None or len(self._durable) >= 2:
            return kept
        return {**kept, source.id: "the run went on from it"}

    def publish(self, wanted: Wanted, written: Sequence[tuple[Save, Work, Sink | Draft]]) -> list[Record]:
        """The commit point of each checkpoint, then what may go. Evictions wait for a flawless publish.

        Raises:
            StoreError: Not all is there, and nothing has gone.
            HoldfastError: Another process has gone on with the run: nothing is there.
        """
        troubles: list[HoldfastError] = []
        published: list[Record] = []
        evicted: tuple[str, ...] = ()
        decided = wanted.plan
        healthy = all(job.manifest.healthy for _, job, _ in written)
        with self.folder.exclusive():
            self.run.keep(self.folder)
            # What is not healthy replaces others of its kind alone: the plan could not know that it would not be.
            sick = set() if healthy else {r.id for r in self.folder.scan().records if not r.healthy}
            going = decided.evict if healthy else {id: why for id, why in decided.evict.items() if id in sick}
            publishing.amend(self.folder, decided.amends, going=going)
            for save, job, sink in written:
                done = publishing.publish(self.folder, sink, save, job.manifest, bytes=job.bytes, going=going)
                troubles += done.troubles
                published.append(done.record)
                if save.what == full:
                    self._durable.add(done.record.progress.steps)
            if not troubles:
                try:
                    evicted = publishing.evict(self.folder, going, self.run.ref.id)
                    publishing.drop(self.folder, decided.drops if healthy else {}, self.run.ref.id)
                except StoreError as error:
                    troubles.append(error)
        self.troubles = [after(f"{self.folder.store.root}/{wanted.called}", trouble) for trouble in troubles]
        for (_, job, _), record in zip(written, published, strict=True):
            self._tell(line(record, evicted, begun=job.begun, not_finite=job.not_finite))
        return published

    def failed(self, wanted: Wanted, error: Exception, written: Mapping[str, str], *, rank: int, of: int) -> SaveFailed:
        """Note a failure, and say in four parts what happened. What fails on the way is not told: the first is.

        Args:
            wanted: What was to be saved.
            error: Why it was not.
            written: Id of each checkpoint that was to be published, to its first name; on rank 0.
            rank: This rank.
            of: How many there are.
        """
        if isinstance(error, Moved):
            self.again = _again(wanted)
        name = wanted.called
        if rank == 0:
            with suppress(StoreError):
                facts = {"run": self.run.ref.id, "sequence": self.sequence, "error": str(error)}
                self.folder.ledger.write("failed", **facts)
        why, remedy = what_and_remedy(error)
        what = f"was not saved: {why}"
        try:
            there = self.folder.scan().records
            good = resolve.newest_good(r for r in there if r.id not in written)
            missing = [first for id, first in written.items() if all(r.id != id for r in there)]
            if missing:
                name = missing[0]
            elif written:
                what = f"is there and whole, but a loss of power may lose it: {why}"
        except StoreError as unread:
            good = f"What else the folder holds cannot be read now: {unread.what}"
        failed = SaveFailed(
            what,
            checkpoint=f"{self.folder.store.root}/{name}",
            rank=rank if of > 1 else None,
            good=good,
            remedy=remedy,
        )
        failed.__cause__ = error
        return failed

    def _tell(self, line: str) -> None:
        """One line to whoever wants it. What that raises is no failure of the save, which is there."""
        try:
            self._report(line)
        except Exception as error:  # it is the caller's own
            self.troubles.append(f"{line}, and then the report of it raised {type(error).__name__}: {error}")


def _again(wanted: Wanted) -> tuple[Request, ...]:
    """What makes good a save whose state moved."""
    policies = dict.fromkeys(name for save in wanted.plan.saves for name in save.policies if name != BY_HAND)
    why = f"in place of step {wanted.moment.progress.steps:,}, whose state moved"
    return tuple(Request(why, Event.BATCH_END, policy) for policy in policies)


def to_plain(saved: Sequence[Record]) -> list[dict[str, object]]:
    """Checkpoints as other ranks are told of them."""
    return [{**records.to_json(r), "names": list(r.names)} for r in saved]


def from_plain(told: Collection[Mapping[str, object]]) -> list[Record]:
    """What ``to_plain`` gave."""
    return [replace(records.from_json(r), names=tuple(r["names"])) for r in told]  # type: ignore[arg-type]
