"""The checkpoints of a fit: policies from callbacks, the state as one dictionary, signals, rescue, resume.

Knows the engine and the folders; of the trainer it gets values and functions, never the trainer itself.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.catalog import publish as publishing
from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.engine.engine import Engine
from holdfast.engine.job import Captured
from holdfast.errors import ConfigError, HoldfastError, SaveFailed
from holdfast.log import logger
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress, Record, Request, Score, Tally
from holdfast.policy.what import What
from holdfast.policy.when import never
from holdfast.policy.where import Where
from holdfast.policy.which import last
from holdfast.state.signals import Signals, exit_code
from holdfast.store import LocalStore

RESCUE = Policy("rescue", never(), last(1), where=Where("rescue-{epoch}-{step}"))
"""What an abnormal end leaves: aside from the ranked checkpoints, gone after the next clean end."""


@dataclass(frozen=True)
class FolderView:
    """What a checkpoint callback may see of its checkpoints.

    Args:
        root: The folder.
        name: Of the callback's policy.
        records: A policy's checkpoints of this run, oldest first; waits until a save under way is durable.
    """

    root: str
    name: str
    records: Callable[[str], list[Record]]

    def path(self, record: Record) -> str:
        """The path of a checkpoint."""
        return str(Path(self.root) / record.names[0])

    def alias_path(self, record: Record) -> str:
        """The path that its alias is."""
        return str(Path(self.root) / record.names[-1])


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
    ) -> None:
        self._capture, self._progress, self._scores, self._logged = capture, progress, scores, logged
        self._signals = signals
        self._noted: set[tuple[int, Event]] = set()
        self._places: list[_Place] = []
        self._checked = False
        self._rescued = False
        for callback, folder in callbacks:
            place = next((p for p in self._places if p.root == str(folder)), None)
            if place is None:
                place = _Place(Folder(LocalStore(folder)))
                self._places.append(place)
            place.add(callback, on_train_epoch_end)

    def prepare(self) -> None:
        """Find out early that a folder cannot be written to."""
        for place in self._places:
            place.folder.store.prepare()

    def begin(self, source: Record | None, root: str | None, tallies: Mapping[str, Tally]) -> None:
        """Begin the run in every folder, or go on with it in the folder that the state came from."""
        for place in self._places:
            here = root is not None and place.root == root
            run = runs.begin(place.folder, source=source, elsewhere=not here)
            place.engine = Engine(
                place.folder, run, place.policies(), self._capture, tallies=tallies, report=logger.info
            )
            place.start_clocks()

    def note(self, callback: ModelCheckpoint, event: Event) -> None:
        """A callback's hook ran: its policies may look at this event."""
        self._noted.add((id(callback), event))

    def consider(self, event: Event, validation_follows: bool = False) -> None:
        """Let the policies decide on a step, and answer a signal.

        Raises:
            SaveFailed: A save failed for the third time in a row, or at the end.
            SystemExit: After SIGTERM, when the state is durable; KeyboardInterrupt after SIGINT.
        """
        pending = self._signals.pending
        if not self._places and pending is None:
            return
        noted, self._noted = self._noted, set()
        progress = self._progress()
        for place in self._places:
            engine = place.ready()
            quiet = not any((id(c), event) in noted for c in place.callbacks)
            if quiet and pending is None:
                continue
            requests = place.elapsed()
            if event is Event.BATCH_END and pending is None and not requests and engine.idle(progress):
                continue
            events = {event} if pending is None else {event, Event.SIGNAL}
            if pending is not None:
                requests = (*requests, Request(pending.name, Event.SIGNAL, policy=place.keeper()))
            moment = Moment(frozenset(events), progress, self._metrics(progress), validation_follows, requests)
            if engine.consider(moment) is not None and requests:
                place.start_clocks()
        if event is Event.TRAIN_EPOCH_END and not self._checked:
            self._check_metrics()
        if pending is not None:
            self._end(pending)

    def check_signal(self) -> None:
        """Between batches of a validation: answer a signal with the state from before it began."""
        if self._signals.pending is not None:
            self.consider(Event.SIGNAL)

    def rescue(self, error: BaseException, *, whole: bool, at_boundary: bool) -> None:
        """After an error: leave the state, if it is one; never hide the error behind one of our own.

        Args:
            error: What happened.
            whole: Whether the weights are those of a step: false inside an optimizer's step.
            at_boundary: Whether the whole state is that of a step's end.
        """
        if self._rescued or not whole:
            return
        self._rescued = True
        progress = self._progress()
        where = "" if at_boundary else ", not at a step's end"
        reason = f"{type(error).__name__} was raised{where}"
        for place in self._places:
            if place.engine is None or (place.saved(progress) and at_boundary):
                continue
            request = Request(reason, Event.EXCEPTION, policy=RESCUE.name)
            moment = Moment(frozenset({Event.EXCEPTION}), progress, self._metrics(progress), False, (request,))
            try:
                place.engine.consider(moment)
                place.engine.settle(last=True)
            except HoldfastError as failed:
                logger.error("no rescue checkpoint: %s", failed)

    def final_save(self) -> None:
        """At fit's end: save once if this fit has saved nothing yet."""
        progress = self._progress()
        for place in self._places:
            engine = place.ready()
            engine.settle()
            if not place.folder.scan().of_run(engine.run.ref.id) and progress.batches:
                # By hand: no rule has asked for it, and none is to let it go.
                request = Request("the end of a fit that had saved nothing")
                events = frozenset({Event.FIT_END})
                engine.consider(Moment(events, progress, self._metrics(progress), False, (request,)))

    def close(self, *, clean: bool) -> None:
        """Finish what is under way; after a clean end no rescue is left. Raises what the last save raised."""
        failed: SaveFailed | None = None
        for place in self._places:
            if place.engine is None:
                continue
            engine, place.engine = place.engine, None
            try:
                engine.settle(last=True)
                if clean:
                    place.drop_rescues(engine.run.ref.id)
                engine.close(clean=clean)
            except SaveFailed as error:
                failed = failed or error
                engine.close(clean=False)
        if failed is not None:
            raise failed

    def settle(self) -> None:
        """Wait until nothing is under way."""
        for place in self._places:
            if place.engine is not None:
                place.engine.settle()

    def _metrics(self, progress: Progress) -> dict[str, Score]:
        counters = {"epoch": Score(progress.epoch, progress.steps), "step": Score(progress.steps, progress.steps)}
        return {**counters, **self._scores()}

    def _check_metrics(self) -> None:
        """Once, when the first epoch has logged all it logs: a metric that nobody logs would never rank or name."""
        self._checked = True
        known = {*self._logged(), "epoch", "step", "global_step"}
        for place in self._places:
            for policy in place.policies():
                wanted = {*policy.which.metrics, *policy.where.fields}
                missing = sorted(wanted - known)
                if missing:
                    raise ConfigError(
                        f"A ModelCheckpoint looks at {', '.join(map(repr, missing))}, which was never logged.",
                        good="What was saved so far stands.",
                        remedy=f"Logged so far: {', '.join(sorted(self._logged())) or 'nothing'}.",
                    )

    def _end(self, pending: signal.Signals) -> None:
        for place in self._places:
            place.ready().settle(last=True)
        logger.info("%s: saved at step %s, stopping", pending.name, f"{self._progress().steps:,}")
        if pending is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(exit_code(pending))


class _Place:
    """One folder with its callbacks."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.root = folder.store.root
        self.callbacks: dict[ModelCheckpoint, tuple[Policy, ...]] = {}
        self.engine: Engine | None = None
        self._clocks: dict[float, float] = {}

    def add(self, callback: ModelCheckpoint, on_train_epoch_end: bool) -> None:
        count = len(self.callbacks)
        name = type(callback).__name__ if count == 0 else f"{type(callback).__name__} {count + 1}"
        self.callbacks[callback] = callback.policies(name, on_train_epoch_end=on_train_epoch_end)
        callback.attach(FolderView(self.root, name, self.records))

    def policies(self) -> tuple[Policy, ...]:
        return (*(p for policies in self.callbacks.values() for p in policies), RESCUE)

    def ready(self) -> Engine:
        assert self.engine is not None, "begin() comes first"
        return self.engine

    def keeper(self) -> str:
        """The policy that keeps a state which no rule asked for: an alias where there is one, else the rescue."""
        aliases = [p.name for p in self.policies() if p.where.template is None]
        return aliases[0] if aliases else RESCUE.name

    def records(self, policy: str) -> list[Record]:
        if self.engine is not None:
            self.engine.settle()
        listing = self.folder.scan()
        run = self.engine.run.ref.id if self.engine is not None else listing.newest_run()
        return [r for r in listing.records if r.run == run and policy in r.policies]

    def saved(self, progress: Progress) -> bool:
        """Whether this very step is on disk."""
        engine = self.ready()
        return any(r.progress == progress for r in self.folder.scan().of_run(engine.run.ref.id))

    def drop_rescues(self, run: str) -> None:
        gone = {r.id: "the run ended clean" for r in self.folder.scan().of_run(run) if r.policies == (RESCUE.name,)}
        if gone:
            with self.folder.exclusive():
                publishing.evict(self.folder, gone, run)

    def start_clocks(self) -> None:
        now = time.monotonic()
        intervals = {seconds for p in self.policies() for seconds in p.when.intervals}
        self._clocks = {seconds: now + seconds for seconds in intervals}

    def elapsed(self) -> tuple[Request, ...]:
        if not self._clocks:
            return ()
        now = time.monotonic()
        return tuple(
            Request(f"{seconds:g} s have passed", Event.BATCH_END, policy=policy.name)
            for policy in self.policies()
            for seconds in policy.when.intervals
            if now >= self._clocks[seconds]
        )
