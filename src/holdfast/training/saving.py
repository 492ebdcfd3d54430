"""The checkpoints of a fit: what is looked at when, signals, rescue, the end.

Knows the engine and the folders; of the trainer it gets values and functions, never the trainer itself.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.catalog.manifest import RunRef
from holdfast.engine.engine import Engine, begin
from holdfast.engine.group import Group, Solo
from holdfast.engine.job import Captured
from holdfast.engine.writer import Ticket
from holdfast.errors import ConfigError, HoldfastError, SaveFailed
from holdfast.log import logger
from holdfast.policy.values import Event, Moment, Progress, Record, Request, Score, Tally
from holdfast.policy.what import What
from holdfast.state.signals import Signals, stop
from holdfast.store import LocalStore
from holdfast.training.agreement import Agreement
from holdfast.training.by_path import ByPath
from holdfast.training.checkpoint_io import CheckpointIO
from holdfast.training.finding import agreed
from holdfast.training.handed import HandedPlace
from holdfast.training.monitored import Monitored
from holdfast.training.places import FINAL, RESCUE, Place
from holdfast.training.policy_names import names_of
from holdfast.training.required import Required

BY_CALL = "asked for by save_checkpoint()"


class Saving:
    """The checkpoint side of one fit.

    Args:
        callbacks: Those that save, each with its folder.
        on_train_epoch_end: Whether epochs count at the training epoch's end by default.
        capture: The state now, arranged as the file holds it.
        progress: The counters now.
        scores: The metrics now, each with the step at which it was measured.
        logged: Names of all metrics that were logged so far.
        signals: What sets its flag when the process is asked to end.
        agreement: What all ranks answer at the same step: signals, and the time.
        group: The ranks.
        validates: Whether there is a validation, which may log what is looked at.
        logs_late: Whether somebody may log at a training epoch's end.
        watched: Names of metrics by which others decide: early stopping, schedulers that look at one.
        saved: Told of each callback a checkpoint of which is durable, on the main thread.
        io: A user's own way to write the files, if any.
        memory: Bytes of buffers that a save may take; None for the default.
    """

    def __init__(
        self,
        callbacks: Sequence[tuple[ModelCheckpoint, Path]],
        *,
        on_train_epoch_end: bool,
        capture: Callable[[What], Captured],
        progress: Callable[[], Progress],
        scores: Callable[[], Mapping[str, Score]],
        logged: Callable[[], Iterable[str]],
        signals: Signals,
        agreement: Agreement,
        group: Group,
        validates: bool,
        logs_late: bool,
        watched: Iterable[str] = (),
        saved: Callable[[ModelCheckpoint], None] = lambda callback: None,
        io: CheckpointIO | None = None,
        memory: int | None = None,
    ) -> None:
        self._capture, self._progress, self._scores = capture, progress, scores
        self._signals, self._agreement, self.group, self._saved = signals, agreement, group, saved
        self._rank, self._memory = group.rank, memory
        self._noted: list[tuple[int, Event]] = []  # of one step: a few at most
        self._by_path = ByPath(group, memory)
        self._over = self._breaking_off = False
        self._began = Progress()
        places: dict[str, Place] = {}
        own: list[tuple[ModelCheckpoint, str]] = []
        for callback, path in callbacks:
            folder = Folder(LocalStore(path))
            places.setdefault(folder.store.root, Place(folder) if io is None else HandedPlace(folder, io))
            own.append((callback, folder.store.root))
        self._places = list(places.values())
        named = agreed(
            group, lambda: names_of(own, lambda root: places[root].rules_of_before()), phase="names of policies"
        )
        for (callback, root), name in zip(own, named, strict=True):
            places[root].add(callback, name, on_train_epoch_end)
        self.required = Required(self._places, logged, group, validates=validates, logs_late=logs_late)
        ranked = [callback.monitor for callback, _ in callbacks if callback.monitor is not None]
        self._monitored = Monitored(group, [*watched, *ranked])

    def prepare(self) -> None:
        """Find out early that a folder cannot be written to."""
        for place in self._places if self._rank == 0 else ():
            place.folder.store.prepare()

    def begin(self, source: Record | None, root: str | None, tallies: Mapping[str, Tally]) -> None:
        """Begin the run, or go on with the one that the state came from: one run, in however many folders."""
        self._began = self._progress()
        lineage: RunRef | None = None
        first: Engine | None = None
        home = next((place for place in self._places if place.root == root), None)
        newest = max((place.newest_run() for place in self._places), default=0) if self._rank == 0 else 0
        for place in sorted(self._places, key=lambda place: place is not home):
            place.look_again()
            remembered = place.remembered(tallies, home, self._began)
            told = partial(self._tell, place)
            if isinstance(place, HandedPlace):
                saver = place.hand_over(self._capture, group=self.group, tallies=remembered, saved=told)
                place.begin(saver, self._agreement.now())
                continue
            run = self._run(place, source, elsewhere=place is not home, lineage=lineage, newest=newest)
            lineage = lineage or run.ref
            engine = Engine(
                place.folder, run, place.policies, self._capture, group=self.group, tallies=remembered,
                report=logger.info, saved=told, beside=first, memory=self._memory,
            )  # fmt: skip
            first = first or engine
            place.begin(engine, self._agreement.now())

    def _run(
        self, place: Place, source: Record | None, *, elsewhere: bool, lineage: RunRef | None, newest: int
    ) -> runs.Run:
        """The run in one folder, which rank 0 begins for all."""
        if self._rank == 0:
            run = runs.begin(place.folder, source=source, elsewhere=elsewhere, lineage=lineage, newest=newest)
            self.group.broadcast(vars(run.ref), phase="run")
            return run
        return runs.Run(RunRef(**self.group.broadcast(None, phase="run")), source=source)

    def _tell(self, place: Place, records: Sequence[Record]) -> None:
        """What a logger raises is for the user, but not where it would cost the state of a run that breaks off."""
        for callback in place.savers(records):
            try:
                self._saved(callback)
            except Exception as error:  # it may raise anything
                if not self._breaking_off:
                    raise
                logger.error("%s: %s", type(error).__name__, error)

    def continues(self, record: Record | None) -> bool:
        """Whether this is the very run that wrote a checkpoint, and not one that began from it; none is of no run."""
        run = None if record is None else record.run
        return any(place.run is not None and place.run.id == run for place in self._places)

    def save_now(self, callback: ModelCheckpoint) -> None:
        """Save this step by the rules of one callback, whenever they are due.

        Raises:
            ConfigError: No fit is running.
        """
        place = next((p for p in self._places if p.engine is not None and p.policies_of(callback)), None)
        if place is None:
            raise ConfigError("ModelCheckpoint.save_checkpoint() is for a fit, and none runs that this callback is of.")
        asked = tuple(Request(BY_CALL, Event.BATCH_END, policy=p.name) for p in place.policies_of(callback))
        self._save([(place, self._moment(place, set(), self._progress(), False, asked))])

    @property
    def under_way(self) -> bool:
        """Whether a save is being written now."""
        beside = self._by_path.under_way
        return beside or any(place.engine is not None and place.engine.under_way for place in self._places)

    def save_by_path(self, what: What, path: Path, *, blocking: bool) -> Ticket | None:
        """As ``ByPath.save``, once nothing else is under way. When the fit is over, or breaks off, it blocks."""
        self.settle()
        moment = Moment(frozenset({Event.MANUAL}), self._progress(), self._scores())
        captured, blocking = self._capture(what), blocking or self._over
        identity = next(((p.run, p.next_sequence()) for p in self._places if p.run is not None), None)
        return self._by_path.save(captured, what, moment, path, identity=identity, blocking=blocking)

    def fence(self) -> None:
        """Return when no save reads the state in place any more: then anything may change it."""
        self._by_path.fence()
        for place in self._places:
            if place.engine is not None:
                place.engine.fence()

    def note(self, callback: ModelCheckpoint, event: Event) -> None:
        """A callback's hook ran: its policies may look at this event."""
        self._noted.append((id(callback), event))

    def consider(self, event: Event, validation_follows: bool = False) -> None:
        """Let the policies decide on a step, and answer a signal.

        Raises:
            SaveFailed: A save failed for the third time in a row, or at the end.
            ConfigError: What ranks or names a checkpoint was never logged.
            Terminated: After SIGTERM, when the state is durable; KeyboardInterrupt after SIGINT.
        """
        pending = self._agreement.signal
        bare = event is Event.BATCH_END and pending is None
        if bare and self._idle():
            self._noted.clear()
            return
        noted, self._noted = self._noted, []
        hearing = [place for place in self._places if place.hears(noted, event)]
        self._save(self._looks(hearing, event, bare, validation_follows and pending is None))
        if pending is not None:
            self._stop(pending)
        if self._monitored.uncompared and event is not Event.BATCH_END:
            self._monitored.compare(self._scores())
        self.required.seen(event)

    def _idle(self) -> bool:
        """Whether a batch end has nothing to do anywhere: so it is after nearly every batch."""
        if not self._places:
            return True
        progress, now = self._progress(), self._agreement.now
        for place in self._places:  # noqa: SIM110  # asked at every step: all() takes twice as long
            if not place.idle(progress, now):
                return False
        return True

    def check_signal(self, *, together: bool) -> None:
        """Between batches of a validation: answer a signal with the state from before it began.

        Args:
            together: Whether all ranks come here equally often, so that they can be asked.
        """
        if self._over:
            return
        if together:
            self._agreement.count()
        pending = self._agreement.signal
        if pending is not None:
            self._stop(pending)

    def rescue(self, error: BaseException, *, lost: str, at_boundary: bool) -> None:
        """After an error: leave the state, if it is one and new; never hide the error behind one of our own.

        Args:
            error: What happened.
            lost: Why there is no state any more that could be left; empty if there is one.
            at_boundary: Whether the whole state is that of a step's end.
        """
        again = self._signals.pending is not None and isinstance(error, KeyboardInterrupt)  # stop at once, it says
        if self._over:
            return
        self._over = True
        self._leave_others(error)
        if again or not self._places or self._rank != 0:
            return  # of many ranks, 0 leaves it
        if lost:
            logger.error("no rescue checkpoint: %s", lost)
        if lost or self._progress().batches == self._began.batches:  # nothing was done: what it began with is there
            return
        where = "" if at_boundary else ", not at a step's end"
        try:
            place = next((p for p in self._places if p.rescue is not RESCUE), self._places[0])
            self._keep_this(Request(f"{type(error).__name__} was raised{where}", Event.EXCEPTION, RESCUE.name), place)
        except Exception as failed:  # hooks of users run here: whatever they raise, the error that came first is raised
            logger.error("no rescue checkpoint: %s: %s", type(failed).__name__, failed)

    def _leave_others(self, error: BaseException) -> None:
        """No rank waits for another any more: one of them has failed."""
        self._agreement.fail(error)
        self.group = self._by_path.group = Solo()
        for place in self._places if self._rank == 0 else ():
            if place.engine is not None:
                place.engine.alone()

    def final_save(self) -> None:
        """At fit's end: save once if this fit has saved nothing yet."""
        progress = self._progress()
        for place in self._places:
            place.ready().settle(last=True)
        if progress.batches == self._began.batches:
            return
        if self._agreed(any(place.saved_anything() for place in self._places)):
            return
        request = Request("the end of a fit that had saved nothing", Event.FIT_END, FINAL.name)
        for place in [p for p in self._places if not p.keeps_nothing][:1]:
            self._save([(place, self._moment(place, {Event.FIT_END}, progress, False, (request,)))])

    def close(self, *, clean: bool) -> None:
        """Finish what is under way; after a clean end no rescue is left. Raises what the last save raised."""
        failed: Exception | None = None
        for place in [p for p in self._places if p.engine is not None]:
            engine = place.ready()
            try:
                engine.settle(last=True)
                if clean and self._rank == 0:
                    place.tidy()
            except Exception as error:  # a logger that is told of a checkpoint may raise anything
                failed = failed or error
            place.engine = None
            try:
                engine.close(clean=clean and failed is None)
            except HoldfastError as error:
                failed = failed or error
        try:
            self._by_path.close()
        except SaveFailed as error:
            failed = failed or error
        over, self._over = self._over, True
        if failed is not None and (clean or self._rank == 0):  # a rank that left cannot know what came of a save
            raise failed
        self.group.barrier(phase="end of fit")
        if clean:
            self._agreement.poll()
        pending = self._agreement.signal
        if clean and pending is not None and not over:  # it came while the last save was written
            stop(pending)

    def settle(self) -> None:
        """Wait until nothing is under way, and say what failed."""
        self._by_path.settle()
        for place in self._places:
            if place.engine is not None:
                place.engine.settle()

    def runs(self) -> dict[str, RunRef]:
        """The run that is written in each folder."""
        return {place.root: place.run for place in self._places if place.run is not None}

    def _save(self, looks: Iterable[tuple[Place, Moment]]) -> None:
        """Let the policies of some folders decide on one step, each by its own moment, and begin what they want."""
        decided = [one for place, moment in looks if (one := place.ready().decide(moment)) is not None]
        if decided:
            self._by_path.wait()  # one save is in flight
        begin(decided)

    def _looks(self, hearing: list[Place], event: Event, bare: bool, follows: bool) -> Iterator[tuple[Place, Moment]]:
        """What each is to decide on, given when those before it have decided."""
        progress, now = self._progress(), self._agreement.now
        # Who has nothing to do is asked again at last: others may have waited for a save that was its own too.
        for place in sorted(hearing, key=lambda one: bare and one.idle(progress, now)):
            moment = None if bare and place.idle(progress, now) else self._look(place, event, progress, follows)
            if moment is not None:
                yield place, moment

    def _look(self, place: Place, event: Event, progress: Progress, validation_follows: bool) -> Moment | None:
        """What one folder's policies are to decide on, with what was held for this event; None: it is held."""
        held, place.held = place.held, None
        events = {event} if held is None else {event, Event.BATCH_END}
        now = self._agreement.now()
        requests = (*(held or ()), *(place.elapsed(now) if event is Event.BATCH_END else ()))
        if event is Event.BATCH_END:
            self.required.warn(place)
            if validation_follows and any(one.wanted for one in self._places):
                place.held = requests  # one save serves the step, with what its validation measures in its name
                return None
        return self._moment(place, events, progress, validation_follows, requests)

    def _agreed(self, seen: bool) -> bool:
        """What rank 0 sees in the folders, on every rank: it may change while they look."""
        return bool(self.group.broadcast(seen, phase="folders")) if self.group.size > 1 else seen

    def _moment(
        self, place: Place, events: set[Event], progress: Progress, follows: bool, requests: tuple[Request, ...]
    ) -> Moment:
        known = {"epoch": progress.epoch, "step": progress.steps, "global_step": progress.steps}
        counters = {name: Score(known[name], progress.steps) for name in place.counters}
        return Moment(frozenset(events), progress, {**counters, **self._scores()}, follows, requests)

    def _keep_this(self, request: Request, here: Place) -> None:
        """Save the state as it is, unless it is on disk: one file a run is enough."""
        self._breaking_off = True
        progress = self._progress()
        settles: list[Callable[[], object]] = [self._by_path.settle, *(place.ready().settle for place in self._places)]
        for settle in settles:
            try:
                settle()
            except HoldfastError as failed:  # of a save before this one
                logger.error("%s", failed)
        if self._agreed(any(place.saved(progress) for place in self._places)):
            return
        self._save([(here, self._moment(here, {request.event}, progress, False, (request,)))])
        here.ready().settle(last=True)

    def _stop(self, pending: signal.Signals) -> NoReturn:
        """After a signal: the state is made durable, then the program ends as the signal would have ended it."""
        self._over = True
        if self._places:
            here = self._places[0]
            self._keep_this(Request(pending.name, Event.SIGNAL, here.keeper()), here)
            logger.info("%s: saved at step %s, stopping", pending.name, f"{self._progress().steps:,}")
        self.group.barrier(phase="stop")  # rank 0, with whom all talk, is not to end before the others have heard
        stop(pending)
