"""Let policies decide in one folder: plan on rank 0, have it moved, settle. Knows no trainer and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.runs import Run
from holdfast.engine.commit import words
from holdfast.engine.fence import Moved
from holdfast.engine.group import Group, Solo
from holdfast.engine.job import Capture
from holdfast.engine.mover import Mover
from holdfast.engine.shelf import Shelf, Wanted
from holdfast.engine.telling import AGAIN, SAVE_AGAIN, START_AGAIN
from holdfast.engine.writer import Ticket
from holdfast.errors import ConfigError, HoldfastError, RankError, SaveFailed, StoreError
from holdfast.log import warn
from holdfast.policy import plan as planning
from holdfast.policy.plan import Plan, Policy
from holdfast.policy.values import Event, Moment, Progress, Record, Tally
from holdfast.policy.when import never

_BARE_STEP = frozenset({Event.BATCH_END})
_FAILURES_IN_A_ROW = 3


class SaveFailedWarning(UserWarning):
    """A save in the background failed, or part of what follows one; training goes on, and it is tried again."""


@dataclass(frozen=True)
class Decided:
    """What one engine's policies want of a moment, to be begun with what those of other folders want."""

    engine: Engine
    wanted: Wanted


def begin(decided: Sequence[Decided]) -> None:
    """Begin what several folders of one run want of one moment: one write for each What. The same call on every rank.

    Args:
        decided: By engines that are ``beside`` each other.
    """
    if not decided:
        return
    tickets = decided[0].engine.mover.begin([one.wanted for one in decided])
    for one, ticket in zip(decided, tickets, strict=True):
        one.engine.take(ticket)


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
        beside: An engine of another folder in which this run saves: state, ranks and the writer are its own.

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
        beside: Engine | None = None,
    ) -> None:
        if len({p.name for p in policies}) != len(policies):
            raise ConfigError(f"Two policies have one name: {', '.join(p.name for p in policies)}.")
        self.run = run
        self.policies = tuple(policies)
        self.tallies: Mapping[str, Tally] = dict(tallies or {})
        self.mover: Mover = beside.mover if beside else Mover(
            capture, group or Solo(), commit_timeout=commit_timeout, memory=memory
        )  # fmt: skip
        metrics = {metric for policy in self.policies for metric in policy.which.metrics}
        self.shelf = Shelf(folder, run, metrics=metrics, report=report)
        self._on_error = on_error
        self._when_busy = when_busy
        self._saved = saved
        self._flight: Ticket | None = None
        self._failures = 0
        self._horizon = planning.horizon(self.policies, self.tallies)
        if self._group.rank == 0:
            rules = {policy.name: policy.which.to_json() for policy in self.policies}
            folder.ledger.write("rules", run=run.ref.id, policies=rules)

    @property
    def _group(self) -> Group:
        return self.mover.group

    def idle(self, progress: Progress) -> bool:
        """Whether a bare batch end at ``progress`` has nothing to do: no save to settle, and no number reached."""
        if self._takes_again():
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
        return bool(self.shelf.again) and self._group.size == 1

    @property
    def under_way(self) -> bool:
        """Whether a save is being written now."""
        return self._flight is not None and not self._flight.durable

    def next_sequence(self) -> int:
        """The next place among the saves of the run: each is given once."""
        self.shelf.sequence += 1
        return self.shelf.sequence

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
        before = self._flight
        decided = self.decide(moment)
        begin([] if decided is None else [decided])
        return None if self._flight is before else self._flight

    def decide(self, moment: Moment) -> Decided | None:
        """Let the policies decide on one step; nothing is done about it until ``begin``. The same call on every rank.

        Raises:
            SaveFailed: As ``consider``.
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
        again, self.shelf.again = self.shelf.again, ()
        moment = replace(moment, requests=(*moment.requests, *again))
        plan, unread = self._plan(moment)
        self.tallies = plan.tallies
        self._horizon = planning.horizon(self.policies, self.tallies)
        if not plan.acts:
            return None
        idle = {p.name for p in self.policies if p.when == never() and not self.tallies.get(p.name, Tally()).armed}
        wanted = Wanted(self.shelf, plan, moment, self.tallies, frozenset(self.tallies) - idle)
        if unread is not None:
            failed = self.shelf.failed(wanted, unread, {}, rank=self._group.rank, of=self._group.size)
            self._flight = Ticket.failed((), failed)
            return None
        return Decided(self, wanted)

    def take(self, ticket: Ticket) -> None:
        """This is the save under way: ``begin`` says so."""
        self._flight = ticket

    def checkpoints(self) -> list[Record]:
        """Those of this run, oldest first; while a state is captured, as they will be once that save is durable."""
        return self.shelf.checkpoints()

    def fence(self) -> None:
        """Wait until the save under way reads nothing of the state in place: from then on anything may change it.

        A step of an optimizer waits by itself. What else changes large parameters, or the state of their optimizer,
        calls this before; on the thread that trains.
        """
        if self._flight is not None:
            self._flight.fence()

    def alone(self) -> None:
        """From now on this rank saves by itself: another has failed, and none is asked or waited for any more."""
        self.mover.group = Solo()

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
            of_state = isinstance(error.__cause__, Moved)
            moved = of_state and self._group.size == 1
            self._failures += not moved
            often = self._failures >= _FAILURES_IN_A_ROW
            fatal = not moved and (self._on_error == "raise" or often)
            if last or manual or (fatal and not (then is not None and _is_last_chance(then))):
                if often and not (last or manual):
                    error.advise(f"{self._failures} saves in a row have failed, so training stops.")
                if not of_state:
                    error.advise(SAVE_AGAIN if manual else START_AGAIN)
                raise
            warn(str(error) if of_state else f"{error} {AGAIN}", SaveFailedWarning)
            return None
        self._failures = 0
        troubles, self.shelf.troubles = self.shelf.troubles, []
        for trouble in troubles:
            warn(trouble, SaveFailedWarning)
        news, self.shelf.news = self.shelf.news, ()
        self._saved(news)
        return record

    def close(self, *, clean: bool) -> None:
        """Finish the save under way, end the thread, note the end of the run. Raises as ``settle(last=True)``."""
        failed: Exception | None = None
        try:
            self.settle(last=True)
        except Exception as error:  # a warning as well, where the user made errors of them
            failed = error
        self.mover.close()
        if self._group.rank == 0:
            try:
                self.run.end(self.shelf.folder, clean=clean and failed is None)
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
                listing = self.shelf.folder.scan()
            except StoreError as error:
                listing, unread = Listing(), error
            decided = planning.plan(
                self.policies,
                self.tallies,
                moment,
                records=listing.records,
                run=self.run.ref.id,
                protected=self.shelf.protected(),
                abandoned=self.shelf.abandoned,
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
        """What is not to go yet, and why."""
        return self.shelf.protected()


def _is_last_chance(moment: Moment) -> bool:
    return bool(moment.events & {Event.FIT_END, Event.SIGNAL, Event.EXCEPTION})
