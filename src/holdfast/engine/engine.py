"""Save what policies decide: plan on rank 0, capture, hand to the writer, settle. Knows no trainer and no model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from holdfast.catalog import publish as publishing
from holdfast.catalog import records, resolve
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.runs import Run
from holdfast.engine.commit import commit, withdraw, words
from holdfast.engine.expected import expected
from holdfast.engine.fence import Moved
from holdfast.engine.group import Group, Solo
from holdfast.engine.job import Capture, Work, prepare
from holdfast.engine.telling import AGAIN, after, line
from holdfast.engine.writer import Ticket, Writer
from holdfast.errors import ConfigError, HoldfastError, RankError, SaveFailed, StoreError
from holdfast.policy import plan as planning
from holdfast.policy.plan import BY_HAND, Plan, Policy, Save
from holdfast.policy.values import Event, Moment, Progress, Record, Request, Tally
from holdfast.policy.what import full

_BARE_STEP = frozenset({Event.BATCH_END})
_FAILURES_IN_A_ROW = 3


class SaveFailedWarning(UserWarning):
    """A save in the background failed, or part of what follows one; training goes on, and it is tried again."""


class Engine:
    """Policies, a folder and a run, brought together.

    Args:
        folder: Where to save.
        run: The run that this process is.
        policies: All of them, with unique names.
        capture: Gives the state, by parts, as it is now.
        group: The other ranks.
        tallies: What each policy remembers from before.
        on_error: What a failed background save does: ``"warn"`` and try again at the next trigger, raising when it is
            the third in a row; or ``"raise"`` at once.
        when_busy: What a trigger does that finds a save under way: ``"wait"`` for it, or ``"skip"`` this one.
            Requests and the end of the fit always wait.
        commit_timeout: Seconds that ranks wait for each other's part of a save.
        memory: Bytes of buffers that a save may take; see ``archive.write``.
        report: Takes one line for each save.
        saved: Takes the checkpoints of a save that is durable, on the thread that settles it.

    Raises:
        ConfigError: Two policies have one name.
    """

    def __init__(
        self,
        folder: Folder,
        run: Run,
        policies: Sequence[Policy],
        capture: Capture,
        *,
        group: Group | None = None,
        tallies: Mapping[str, Tally] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        when_busy: Literal["wait", "skip"] = "wait",
        commit_timeout: float = 600.0,
        memory: int | None = None,
        report: Callable[[str], None] = lambda line: None,
        saved: Callable[[Sequence[Record]], None] = lambda records: None,
    ) -> None:
        if len({p.name for p in policies}) != len(policies):
            raise ConfigError(f"Two policies have one name: {', '.join(p.name for p in policies)}.")
        self.folder = folder
        self.run = run
        self.policies = tuple(policies)
        self.tallies: Mapping[str, Tally] = dict(tallies or {})
        self._capture = capture
        self._group = group or Solo()
        self._on_error = on_error
        self._when_busy = when_busy
        self._commit_timeout = commit_timeout
        self._memory = memory
        self._report = report
        self._saved = saved
        self._writer = Writer()
        self._flight: Ticket | None = None
        self._decided: tuple[Plan, Moment] | None = None
        self._failures = 0
        self._warned: set[str] = set()
        self._durable: set[int] = set()
        self._troubles: list[str] = []
        self._restless: set[str] = set()
        self._again: tuple[Request, ...] = ()
        self._news: Sequence[Record] = ()
        self._spent: list[str] = []
        self._saves = 0
        listing = folder.scan()
        own = listing.of_run(run.ref.id)
        self._promised = resolve.promised(listing, run.ref.id)
        self._sequence = max((r.sequence for r in own), default=0)
        self._abandoned = {r.id for r in own if run.source is not None and r.order > run.source.order}
        self._horizon = planning.horizon(self.policies, self.tallies)
        if self._group.rank == 0:
            rules = {policy.name: policy.which.to_json() for policy in self.policies}
            folder.ledger.write("rules", run=run.ref.id, policies=rules)

    def idle(self, progress: Progress) -> bool:
        """Whether a bare batch end at ``progress`` has nothing to do: no save to settle, and no number reached."""
        if self._again and self._takes_again():
            return False
        if self._flight is not None and self._flight.durable:
            return False
        return not self._reached(progress)

    def _reached(self, progress: Progress) -> bool:
        for counter, number in self._horizon:  # noqa: SIM110  # asked at every step: any() takes twice as long
            if getattr(progress, counter) >= number:
                return True
        return False

    def _takes_again(self) -> bool:
        """Whether a save that came to nothing is to be made good now. Many ranks wait for the step that all plan."""
        return bool(self._again) and self._group.size == 1

    @property
    def under_way(self) -> bool:
        """Whether a save is being written now."""
        return self._flight is not None and not self._flight.durable

    def next_sequence(self) -> int:
        """The next place among the saves of the run: each is given once."""
        self._sequence += 1
        return self._sequence

    def _busy(self) -> bool:
        """Whether a save is being written: as rank 0 sees it, on every rank."""
        busy = self.under_way
        return bool(self._group.broadcast(busy, phase="busy")) if self._group.size > 1 else busy

    def consider(self, moment: Moment) -> Ticket | None:
        """Let the policies decide on one step, and begin what they want. The same call on every rank.

        Returns:
            The save that was begun, if any.

        Raises:
            SaveFailed: An earlier save failed, and it was the third in a row or ``on_error`` is ``"raise"``.
        """
        bare = moment.events == _BARE_STEP and not moment.requests
        if bare and not self._reached(moment.progress):
            # When a save becomes durable differs from rank to rank, so that alone asks no other rank.
            if self._flight is not None and self._flight.durable:
                self.settle()
            if not self._takes_again():
                return None
        if bare and self._when_busy == "skip" and self._busy():
            return None
        self.settle(then=moment)
        again, self._again = self._again, ()
        decided, unread = self._plan(replace(moment, requests=(*moment.requests, *again)))
        self.tallies = decided.tallies
        self._horizon = planning.horizon(self.policies, self.tallies)
        if not decided.acts:
            return None
        if unread is not None:
            self._flight = Ticket.failed((), self._failed(self._name(decided, moment.progress), unread))
            return self._flight
        self._saves += 1
        key = f"save/{self.folder.store.root}/{self.run.ref.id}/{self.run.ref.attempt}/{self._saves}"
        jobs: list[tuple[Save, Work]] = []
        self._decided = decided, moment
        try:
            for save in decided.saves:
                job = self._prepare(save, moment)
                jobs += [] if job is None else [(save, job)]
        except BaseException as error:
            for _, job in jobs:
                job.release()
            if isinstance(error, Exception):
                withdraw(self._group, key, error, self._spent)
            raise
        finally:
            self._decided = None
        names = tuple(name for save in decided.saves for name in save.names)
        windows = [job.window for _, job in jobs if job.window is not None]
        self._flight = self._writer.begin(names, lambda: self._save(decided, jobs, moment.progress, key), windows)
        return self._flight

    def checkpoints(self) -> list[Record]:
        """Those of this run, oldest first; while a state is captured, as they will be once that save is durable."""
        own = list(self.folder.scan().of_run(self.run.ref.id))
        if self._decided is None:
            return own
        return expected(own, *self._decided, run=self.run.ref.id, sequence=self._sequence)

    def fence(self) -> None:
        """Wait until the save under way reads nothing of the state in place: from then on anything may change it.

        A step of an optimizer waits by itself. What else changes large parameters, or the state of their optimizer,
        calls this before; on the thread that trains.
        """
        if self._flight is not None:
            self._flight.fence()

    def alone(self) -> None:
        """From now on this rank saves by itself: another has failed, and none is asked or waited for any more."""
        self._group = Solo()

    def settle(self, *, last: bool = False, manual: bool = False, then: Moment | None = None) -> Record | None:
        """Wait for the save under way, if there is one, and say what came of it, once.

        Args:
            last: Whether no later trigger can try again: a failure then raises.
            manual: Whether a user asked for this very save: a failure then raises.
            then: What is to be saved next. Where that is the last chance, a failure only warns: it comes first.

        Raises:
            SaveFailed: It failed, and is not to be tried again.
        """
        flight = self._flight
        if flight is None:
            return None
        flight.wait()  # interrupted here, it is still under way
        self._flight = None
        try:
            record = flight.record
        except SaveFailed as error:
            # No failure of the disk, and made good at the next step; but ranks have to agree on what is fatal.
            moved = isinstance(error.__cause__, Moved) and self._group.size == 1
            self._failures += not moved
            fatal = not moved and (self._on_error == "raise" or self._failures >= _FAILURES_IN_A_ROW)
            if last or manual or (fatal and not (then is not None and _is_last_chance(then))):
                raise
            warnings.warn(str(error), SaveFailedWarning, stacklevel=4)
            return None
        self._failures = 0
        troubles, self._troubles = self._troubles, []
        for trouble in troubles:
            warnings.warn(trouble, SaveFailedWarning, stacklevel=4)
        news, self._news = self._news, ()
        self._saved(news)
        return record

    def close(self, *, clean: bool) -> None:
        """Finish the save under way, end the thread, note the end of the run. Raises as ``settle(last=True)``."""
        failed: Exception | None = None
        try:
            self.settle(last=True)
        except Exception as error:  # a warning as well, where the user made errors of them
            failed = error
        self._writer.close()
        if self._group.rank == 0:
            try:
                self.run.end(self.folder, clean=clean and failed is None)
            except StoreError:
                if failed is None:  # on a full disk this fails too: what failed first is what is told
                    raise
        if failed is not None:
            raise failed

    def _plan(self, moment: Moment) -> tuple[Plan, HoldfastError | None]:
        """Decide on rank 0; the others are told. With it goes why the folder could not be read, if so."""
        if self._group.rank != 0:
            told = self._group.broadcast(None, phase="plan")
            error = RankError(told["error"], rank=0, phase="plan") if told["error"] is not None else None
            if told["plan"] is None:
                assert error is not None, "rank 0 says why it has no plan"
                raise error
            return planning.from_json(told["plan"]), error
        unread: StoreError | None = None
        try:
            try:
                listing = self.folder.scan()
            except StoreError as error:
                listing, unread = Listing(), error
            decided = planning.plan(
                self.policies,
                self.tallies,
                moment,
                records=listing.records,
                run=self.run.ref.id,
                protected=self.protected(),
                abandoned=self._abandoned,
                taken=listing.names,
            )
        except Exception as error:
            if self._group.size > 1:
                self._group.broadcast({"plan": None, "error": words(error)}, phase="plan")
            raise
        if self._group.size > 1:
            self._group.broadcast({"plan": planning.to_json(decided), "error": words(unread)}, phase="plan")
        return decided, unread

    def protected(self) -> dict[str, str]:
        """What was promised to be kept for good, and the checkpoint resumed from until two newer ones are durable."""
        source = self.run.source
        if source is None or len(self._durable) >= 2:
            return self._promised
        return {**self._promised, source.id: "the run went on from it"}

    def _prepare(self, save: Save, moment: Moment) -> Work | None:
        """Capture the state, on every rank; when it returns, training may go on. None: nothing to write."""
        captured = self._capture(save.what)
        if self._group.rank != 0 and not captured.divided:
            return None
        taking: Callable[..., Work] = prepare
        if captured.divided:
            from holdfast.engine import sharded  # what it needs of torch is loaded by those who need it

            ordinal = f"{self.run.ref.attempt}-{self._saves}"
            taking = partial(sharded.prepare, rank=self._group.rank, ordinal=ordinal)
        return taking(
            captured,
            save.what,
            moment,
            run=self.run.ref,
            sequence=self.next_sequence(),
            tallies=self.tallies,
            policies=save.policies,
            reason=save.reason,
            label=save.label,
            scores=save.scores,
            warned=self._warned,
            copied=self._restless,
            patience=self._group.patience,
        )

    def _save(self, decided: Plan, jobs: Sequence[tuple[Save, Work]], progress: Progress, key: str) -> Record | None:
        """On the writer thread: write, commit, evict. Every failure becomes a ``SaveFailed`` with its four parts."""
        name = self._name(decided, progress)
        sinks: list[Any] = []

        def write() -> list[Any]:
            return [job.write(self.folder.store, save.names[0], sinks, memory=self._memory) for save, job in jobs]

        try:
            outcome = commit(
                self._group,
                key,
                write=write,
                publish=lambda told: self._publish(decided, jobs, sinks, name, told),
                deadline=self._commit_timeout,
                spent=self._spent,
            )
        except Exception as error:  # whatever it is, the run must hear of it in the words of a failed save
            if isinstance(error, Moved):
                self._restless.update(error.names)
                wanted = dict.fromkeys(name for save in decided.saves for name in save.policies if name != BY_HAND)
                why = f"in place of step {progress.steps:,}, whose state moved"
                self._again = tuple(Request(why, Event.BATCH_END, policy) for policy in wanted)
            raise self._failed(name, error, jobs, sinks) from error
        finally:
            for _, job in jobs:
                job.release()
        self._news = [replace(records.from_json(r), names=tuple(r["names"])) for r in outcome["records"]]
        return self._news[0] if self._news else None

    def _publish(
        self,
        decided: Plan,
        jobs: Sequence[tuple[Save, Work]],
        sinks: Sequence[Any],
        name: str,
        told: Mapping[int, Sequence[Any]],
    ) -> dict[str, Any]:
        """Rank 0: the commit point of each file, then what may go. Evictions wait for a flawless publish."""
        troubles: list[HoldfastError] = []
        published: list[Record] = []
        evicted: tuple[str, ...] = ()
        for i, (_, job) in enumerate(jobs):
            job.complete({rank: each[i] for rank, each in told.items() if each})
        healthy = all(job.manifest.healthy for _, job in jobs)
        with self.folder.exclusive():
            # What is not healthy replaces others of its kind alone: the plan could not know that it would not be.
            sick = set() if healthy else {r.id for r in self.folder.scan().records if not r.healthy}
            going = decided.evict if healthy else {id: why for id, why in decided.evict.items() if id in sick}
            publishing.amend(self.folder, decided.amends, going=going)
            for (save, job), sink in zip(jobs, sinks, strict=True):
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
        self._troubles = [after(f"{self.folder.store.root}/{name}", trouble) for trouble in troubles]
        for (_, job), record in zip(jobs, published, strict=True):
            self._tell(line(record, evicted, begun=job.begun, not_finite=job.not_finite))
        return {"records": [{**records.to_json(r), "names": list(r.names)} for r in published]}

    def _tell(self, line: str) -> None:
        """One line to whoever wants it. What that raises is no failure of the save, which is there."""
        try:
            self._report(line)
        except Exception as error:  # it is the caller's own
            self._troubles.append(f"{line}, and then the report of it raised {type(error).__name__}: {error}")

    def _failed(
        self,
        name: str,
        error: Exception,
        jobs: Sequence[tuple[Save, Work]] = (),
        sinks: Sequence[Any] = (),
    ) -> SaveFailed:
        """Clean up, and say in four parts what happened. What fails on the way is not told: the first failure is."""
        for sink in sinks:
            with suppress(StoreError):
                sink.discard()
        if self._group.rank == 0:
            with suppress(StoreError):
                facts = {"run": self.run.ref.id, "sequence": self._sequence, "error": str(error)}
                self.folder.ledger.write("failed", **facts)
        what = f"was not saved: {words(error) if not isinstance(error, HoldfastError) else error.what}"
        written = {job.manifest.id: save.names[0] for save, job in jobs} if self._group.rank == 0 else {}
        try:
            there = self.folder.scan().records
            good = resolve.newest_good(r for r in there if r.id not in written)
            missing = [first for id, first in written.items() if all(r.id != id for r in there)]
            if missing:
                name = missing[0]
            elif written:
                what = f"is there and whole, but a loss of power may lose it: {what.partition(': ')[2]}"
        except StoreError as unread:
            good = f"What else the folder holds cannot be read now: {unread.what}"
        remedy = error.remedy if isinstance(error, HoldfastError) else ""
        return SaveFailed(
            what,
            checkpoint=f"{self.folder.store.root}/{name}",
            rank=self._group.rank if self._group.size > 1 else None,
            good=good,
            remedy=remedy if isinstance(error, Moved) else f"{remedy} {AGAIN}".strip(),
        )

    def _name(self, decided: Plan, progress: Progress) -> str:
        return decided.saves[0].names[0] if decided.saves else f"of step {progress.steps}"


def _is_last_chance(moment: Moment) -> bool:
    return bool(moment.events & {Event.FIT_END, Event.SIGNAL, Event.EXCEPTION})
