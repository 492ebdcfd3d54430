"""The front door for plain loops: save by rules, resume, load. Whatever trains goes through here."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn

from holdfast import checks, resumed
from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.engine.engine import Engine, SaveFailedWarning
from holdfast.engine.job import Captured
from holdfast.errors import ConfigError, SaveFailed
from holdfast.formats import lightning
from holdfast.log import logger, warn
from holdfast.policy.plan import BY_HAND, Policy
from holdfast.policy.values import Event, Moment, Progress, Request, Score, Tally
from holdfast.policy.what import What, full
from holdfast.policy.when import When, at
from holdfast.policy.where import COUNTERS, Where
from holdfast.policy.which import Which, last
from holdfast.reading import OWN, RANDOM, Reading
from holdfast.state import random
from holdfast.state.fingerprint import KEY
from holdfast.state.loaders import Place, placed, tell_epoch
from holdfast.state.signals import Signals, stop
from holdfast.store import LocalStore, Store
from holdfast.strategies.base import Strategy
from holdfast.strategies.single import Single

_RESERVED, _LAST = (*OWN, "progress"), "last"


class Checkpointer(Reading):
    """Checkpoints for a loop of your own.

    ::

        with Checkpointer("runs/a", when=every(steps=500), which=best(3, "val_loss") | last(2)) as ckpt:
            start = ckpt.resume(model=model, optimizer=optimizer, loader=loader)
            for epoch in range(start.epochs, 10):
                for batch in ckpt.batches(loader):
                    train_on(batch)
                    ckpt.step()
                ckpt.validated({"val_loss": validate(model)})
                ckpt.epoch_end()

    Saves happen in the background, whole and verified or not at all. ``last.ckpt`` is always the newest of them, and
    leaving the block without an error saves once more if there is anything new. SIGTERM and Ctrl-C are answered at the
    next call of ``step``, ``validated`` or ``epoch_end``: it saves, waits until that is durable, then ends the program
    as the signal would have. An error in the block saves nothing, for the state may be half a step; what was saved
    stands.

    Args:
        directory: The folder, or a store.
        when: When to save; ``every(...)``, ``at(...)``, joined by ``|``.
        which: Which checkpoints to keep; ``best(...)``, ``last(...)``, joined by ``|``. A rule that ranks by a metric
            waits for the validation that follows its trigger.
        what: Which parts of the state those hold. ``last.ckpt`` always holds everything.
        filename: Template of file names: ``{epoch}``, ``{step}`` and any metric, with format specifications.
        on_save_error: ``"warn"`` when a save in the background fails and try again at the next trigger, raising if it
            is the third in a row or the last of the run; ``"raise"`` at once.
        when_busy: What a trigger does while a save is being written: ``"wait"`` or ``"skip"``.
        signals: The signals to answer.
        memory: Bytes of buffers that a save may take, whatever the size of the state; by default 64 MiB, and 4 GiB
            where a GPU lends it. What only an optimizer's step changes is not copied; ``step()`` waits until it has
            been read, which runs ahead of the disk by so much.
        strategy: How the state is spread over processes.

    Raises:
        ConfigError: The rules contradict each other.
        StoreError: The folder cannot be made or written to.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | Store,
        *,
        when: When,
        which: Which | None = None,
        what: What = full,
        filename: str = "{epoch}-{step}",
        on_save_error: Literal["warn", "raise"] = "warn",
        when_busy: Literal["wait", "skip"] = "wait",
        signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
        memory: int | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        which = last(1) if which is None else which
        options = {"on_save_error": on_save_error, "when_busy": when_busy, "memory": memory}
        checks.arguments(
            directory=directory, when=when, which=which, what=what, filename=filename, alias=_LAST, options=options
        )
        ends = when | at(Event.FIT_END)
        self._policies = (
            Policy("rules", ends, which, what, Where(filename)),
            Policy("last", ends, last(1), full, Where(None, alias=_LAST)),
        )
        self._when, self._which = when, which
        self._filename_metrics = [name for name in Where(filename).fields if name not in COUNTERS]
        self._on_save_error: Literal["warn", "raise"] = on_save_error
        self._when_busy: Literal["wait", "skip"] = when_busy
        self._memory = memory
        self._folder = Folder(directory if isinstance(directory, Store) else LocalStore(directory))
        self._strategy: Strategy = strategy or Single()
        self._signals = Signals(signals)
        self._objects: dict[str, Any] = {}
        self._fingerprint: dict[str, Any] = {}
        self._metrics: dict[str, Score] = {}
        self._engine: Engine | None = None
        self._entered = False
        self._began = Progress()
        self._clocks: dict[float, float] = {}
        self._alarm = math.inf
        self.progress = Progress()
        self._folder.store.prepare()

    def __enter__(self) -> Checkpointer:
        self._signals.__enter__()
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine, ended = self._engine, False
        try:
            if engine is not None and error is None:
                if self._signals.pending or self.progress != self._began:
                    self._consider(Event.FIT_END)
                ended = True
        finally:
            self._engine, self._entered = None, False
            try:
                if engine is not None:
                    _close(engine, clean=ended, error=error)
            finally:
                self._signals.__exit__(kind, error, trace)
        if error is None and self._signals.pending is not None:  # it came while the last save was written
            stop(self._signals.pending)

    def resume(
        self, source: str | os.PathLike[str] = "auto", /, *, fresh: Collection[str] = (), **objects: Any
    ) -> Progress:
        """Put the newest checkpoint's state into ``objects``, and begin or go on with the run.

        Args:
            source: ``"auto"``: the newest checkpoint of the folder that verifies, or a fresh start where there is none;
                ``"fresh"``: a new run from the objects as they are, whatever the folder holds, which stays;
                ``"last"`` or ``"best"`` of the folder; or the path of a checkpoint, here or elsewhere.
            fresh: Names among ``objects`` that the checkpoint need not hold: they stay as they are then.
            objects: What makes up the state, by part name: whatever has ``state_dict`` and ``load_state_dict``, torch's
                loaders that are trained on, and dicts or lists of plain values. The names ``model``, ``optimizer`` and
                ``scheduler`` become the keys that other readers know.

        Returns:
            How far the run had come; a fresh ``Progress`` at a fresh start.

        Raises:
            ConfigError: An object has no state, or a name is reserved.
            NotFound: There is no such checkpoint.
            Corrupt: The named checkpoint is damaged; nothing was changed.
            Unreadable: One that may be the newest cannot be read; nothing was changed.
            Incompatible: It does not fit the objects; nothing was changed.
        """
        objects = placed(objects)
        self._check_begin(objects, fresh)
        loaded = self._load(source, objects, fresh)
        self._fingerprint = resumed.taken(objects, self._strategy.group.size)
        self._objects = dict(objects)
        self.progress, self._metrics = Progress(), {}
        tallies: Mapping[str, Tally] = {}
        if loaded is not None:
            parts = {name: state for name, state in loaded.parts.items() if name not in OWN}
            with resumed.fitting():
                self._strategy.restore(objects, parts, checkpoint=loaded.path, groups=loaded.manifest.groups)
            self.progress = loaded.manifest.progress
            self._metrics = dict(loaded.manifest.metrics)
            tallies = loaded.manifest.tallies
        else:
            logger.info("a fresh start in %s", self._folder.store.root)
        self._began = self.progress
        run = runs.begin(
            self._folder,
            source=loaded.record if loaded else None,
            elsewhere=loaded is not None and loaded.elsewhere,
        )
        try:
            self._engine = Engine(
                self._folder,
                run,
                self._policies,
                self._capture,
                group=self._strategy.group,
                tallies=tallies,
                on_error=self._on_save_error,
                when_busy=self._when_busy,
                memory=self._memory,
                report=logger.info,
            )
        except BaseException:
            if run.lease is not None:
                run.lease.release()  # this process may try again, and is to find the run free
            raise
        self._start_clocks()
        if loaded is not None and RANDOM in loaded.parts:
            for sentence in random.restore(loaded.parts[RANDOM]):
                logger.warning(sentence)
        if loaded is not None:
            self._fingerprint, report = resumed.compared(loaded, objects, self._fingerprint, OWN)
            report.tell()
        return self.progress

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the epoch that the run is in, without those that are done: they are not even read.

        Iterate a loader that is trained on by this, once an epoch; one for validation as ever.

        Args:
            loader: One that was given to ``resume``.

        Raises:
            ConfigError: It was not.
        """
        self._ready()
        for given in self._objects.values():
            if isinstance(given, Place) and given.loader is loader:
                return given.batches(self.progress.epochs)
            if given is loader:  # it knows its place itself
                tell_epoch(loader, self.progress.epochs)
                return iter(loader)
        raise ConfigError(
            f"batches() was called with a {type(loader).__name__} that resume() was not.",
            remedy="Give the loader to resume() too: resume(model=model, optimizer=optimizer, loader=loader).",
        )

    def step(self, *, metrics: Mapping[str, Any] | None = None, samples: int = 0) -> None:
        """Say that an optimizer step is done. Costs a comparison of integers, unless a checkpoint is due.

        Args:
            metrics: Plain numbers or one-element tensors measured at this step.
            samples: Samples in its batch.

        Raises:
            SaveFailed: An earlier save failed for the third time in a row.
            SystemExit: After SIGTERM, when the state is durable; KeyboardInterrupt after Ctrl-C.
        """
        engine, p = self._ready(), self.progress
        over = p.complete
        self.progress = Progress(
            p.epoch + over,
            1 if over else p.batch + 1,
            False,
            p.batches + 1,
            p.steps + 1,
            p.samples + samples,
        )
        self._measure(metrics)
        if self._signals.pending or self._alarm <= time.monotonic() or not engine.idle(self.progress):
            self._consider(Event.BATCH_END)

    def validated(self, metrics: Mapping[str, Any]) -> None:
        """Say that a validation has run at this step, and what it measured. Rules that rank decide here."""
        self._ready()
        self._measure(metrics)
        self._check_measured()
        self._consider(Event.VALIDATION_END)

    def epoch_end(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Say that an epoch is over, after the schedulers have stepped.

        Args:
            metrics: What was measured at its end; with any, this is a validation's end as well.
        """
        self._ready()
        self.progress = replace(self.progress, complete=True)
        if metrics:
            self._measure(metrics)
            self._check_measured()
            self._consider(Event.TRAIN_EPOCH_END, Event.VALIDATION_END)
        else:
            self._consider(Event.TRAIN_EPOCH_END)

    def save(self, label: str | None = None) -> Path | str:
        """Save this step now, and keep it whatever the rules say. Returns when it is durable.

        Args:
            label: A name for it, which becomes part of its file name.

        Returns:
            Its path.

        Raises:
            SaveFailed: It was not saved.
        """
        engine = self._ready()
        before = self._folder.scan().names
        reason = "by hand" if label is None else f"by hand: {label}"
        engine.consider(self._moment(Event.MANUAL, requests=(Request(reason, Event.MANUAL, label=label),)))
        engine.settle(manual=True)
        own = self._folder.scan().of_run(engine.run.ref.id)
        saved = [r for r in own if r.progress == self.progress and BY_HAND in r.policies][-1]
        new = [name for name in saved.names if name not in before]
        return self._path((new or saved.names)[0])

    def fence(self) -> None:
        """Return when no save reads the state in place: from then on anything may change it.

        A save reads large parameters, and the state of their optimizer, while training goes on; ``optimizer.step()``
        waits for it by itself. Call this before you change them in another way: before weights are averaged in
        place, swapped for a validation, clipped, or loaded.
        """
        self._ready().fence()

    def _capture(self, what: What) -> Captured:
        held = self._strategy.capture(self._objects, what)
        own = {RANDOM: random.capture(), KEY: self._fingerprint} if what.wants_part(RANDOM) else {}
        root, places = lightning.arrange({**held.parts, **own}, self.progress)
        return Captured(root, places, held.frozen, held.groups, held.weights, held.lent)

    def _consider(self, *events: Event) -> None:
        engine = self._ready()
        pending = self._signals.pending
        requests = [*self._elapsed()]
        if pending is not None:
            requests.append(Request(pending.name, Event.SIGNAL, policy="last"))
            events = (*events, Event.SIGNAL)
        ticket = engine.consider(self._moment(*events, requests=tuple(requests)))
        if ticket is not None and requests:
            self._start_clocks()
        if pending is not None:
            self._end(pending)

    def _end(self, pending: signal.Signals) -> NoReturn:
        """After a signal: the state is durable, then the program ends as the signal would have ended it."""
        engine = self._ready()
        engine.settle(last=True)
        logger.info("%s: saved at step %s, stopping", pending.name, f"{self.progress.steps:,}")
        self._signals.__exit__(None, None, None)
        stop(pending)

    def _start_clocks(self) -> None:
        now = time.monotonic()
        self._clocks = {seconds: now + seconds for seconds in self._when.intervals}
        self._alarm = min(self._clocks.values(), default=math.inf)

    def _elapsed(self) -> Iterable[Request]:
        now = time.monotonic()
        for seconds, due in self._clocks.items():
            if now >= due:
                yield Request(f"{seconds:g} s have passed", Event.BATCH_END)

    def _moment(self, *events: Event, requests: tuple[Request, ...] = ()) -> Moment:
        return Moment(frozenset(events), self.progress, dict(self._metrics), requests=requests)

    def _measure(self, metrics: Mapping[str, Any] | None) -> None:
        for name, number in checks.numbers(metrics).items():
            self._metrics[name] = Score(number, self.progress.steps)

    def _check_measured(self) -> None:
        checks.measured(self._metrics, which=self._which.metrics, filename=self._filename_metrics)

    def _ready(self) -> Engine:
        if self._engine is None:
            raise ConfigError(
                "The run has not begun.", remedy="Call resume(model=..., optimizer=...) first, inside the with block."
            )
        return self._engine

    def _check_begin(self, objects: Mapping[str, Any], fresh: Collection[str]) -> None:
        if not self._entered:
            raise ConfigError(
                "resume() was called outside the with block.",
                remedy="Write: with Checkpointer(...) as ckpt: ckpt.resume(...).",
            )
        if self._engine is not None:
            raise ConfigError("resume() is called once, before the first step.")
        checks.objects(objects, fresh, _RESERVED)


def _close(engine: Engine, *, clean: bool, error: BaseException | None) -> None:
    try:
        engine.close(clean=clean)
    except SaveFailed as failed:
        if error is None:
            raise
        # The error on its way is the one to see; that the save under way failed as well is not kept quiet.
        warn(str(failed), SaveFailedWarning)
