"""One rank of the engines that test_ranks.py examines: each function says what it saw."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from faults import failing_at
from holdfast.catalog import resolve, runs
from holdfast.catalog.folder import Folder
from holdfast.catalog.manifest import RunRef
from holdfast.catalog.runs import Run
from holdfast.engine.engine import Engine, SaveFailedWarning
from holdfast.engine.group import TorchGroup
from holdfast.engine.job import Captured
from holdfast.errors import HoldfastError
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress, Score
from holdfast.policy.what import full
from holdfast.policy.when import every
from holdfast.policy.where import Where
from holdfast.policy.which import best, last
from holdfast.store import LocalStore

PATIENCE = 60.0  # seconds; only ever waited out by a test that fails
SHORT = 2.0


class Place:
    """An engine of this rank in a folder of its own, and what it needs to be driven."""

    def __init__(self, group, root, name, *, which, when=None, filename="{epoch}-{step}", capture=None, **options):
        self.group = group
        self.folder = Folder(LocalStore(root / name))
        if group.rank == 0:
            self.folder.store.prepare()
            run = runs.begin(self.folder)
            group.broadcast(vars(run.ref), phase="run")
        else:
            run = Run(RunRef(**group.broadcast(None, phase="run")))
        when = when or every(steps=1)
        policies = (
            Policy("rules", when, which, where=Where(filename)),
            Policy("last", when, last(1), where=Where(None, alias="last")),
        )
        self.lines = []
        self.planned = []
        self.engine = Engine(
            self.folder,
            run,
            policies,
            capture or self.capture,
            group=group,
            report=self.lines.append,
            **{"commit_timeout": PATIENCE, **options},
        )

    def capture(self, what):
        """A state that tells whose it is."""
        assert what == full
        return Captured({"model": torch.full((8,), float(self.group.rank))}, {"model": ("model",)})

    def step(self, step, score=None, *, settle=True):
        """One step; the id and the names of the checkpoint that came of it. What this rank was told is ``planned``."""
        metrics = {} if score is None else {"loss": Score(score, step)}
        progress = Progress(steps=step, batches=step, batch=step)
        ticket = self.engine.consider(Moment(frozenset({Event.BATCH_END}), progress, metrics))
        self.planned.append(None if ticket is None else list(ticket.names))
        if not settle:
            return ticket
        record = self.engine.settle()
        return None if record is None else [record.id, list(record.names)]

    def kept(self):
        """The names of all checkpoints, each verified in full."""
        found = self.folder.scan().records
        return [[*record.names, resolve.check(self.folder, record).verdict.value] for record in found]


def failure_of(call):
    """The error, or the warning, that came of a call, and the seconds that it took."""
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaveFailedWarning)
        try:
            call()
        except HoldfastError as error:
            return {"kind": type(error).__name__, "text": str(error), "seconds": time.monotonic() - start}
    texts = [str(warning.message) for warning in caught]
    return {"kind": "warning", "text": texts[0], "seconds": time.monotonic() - start} if texts else None


def decides(group, root):
    """Each rank has metrics of its own; rank 1's would keep the first step only."""
    place = Place(group, root, "decides", which=best(1, "loss"))
    scores = ([0.5, 0.9, 0.1], [0.1, 0.2, 0.9])[group.rank]
    seen = [place.step(step, score) for step, score in enumerate(scores, start=1)]
    place.engine.close(clean=True)
    group.barrier(phase="closed")
    record = place.folder.scan().records[-1]
    return {
        "seen": seen,
        "planned": place.planned,
        "kept": place.kept(),
        "score": record.scores["loss"],
        "lines": len(place.lines),
    }


def write_fails(group, root):
    """Rank 0's disk is full for one save."""
    place = Place(group, root, "write_fails", which=last(1))
    place.step(1)
    if group.rank == 0:
        with failing_at(1, errno.ENOSPC, functions=("posix_fallocate",)):
            failure = failure_of(lambda: place.step(2))
    else:
        failure = failure_of(lambda: place.step(2))
    between = place.kept()
    after = place.step(3)
    place.engine.close(clean=True)
    return {"failure": failure, "between": between, "after": after}


def capture_fails(group, root):
    """Rank 1's state cannot be captured at one step."""

    def capture(what):
        if group.rank == 1 and place.failing:
            raise ValueError("rank 1 has no state")
        return place.capture(what)

    place = Place(group, root, "capture_fails", which=last(1), capture=capture)
    place.failing = False
    place.step(1)
    place.failing = True
    try:
        failure = failure_of(lambda: place.step(2))
    except ValueError as error:
        failure = {"kind": "ValueError", "text": str(error), "seconds": 0}
    place.failing = False
    after = place.step(3)
    place.engine.close(clean=True)
    return {"failure": failure, "after": after}


def plan_fails(group, root):
    """Rank 0 cannot make a file name of the step's score."""
    place = Place(group, root, "plan_fails", which=last(1), filename="{step}-{loss:.200f}")
    failure = failure_of(lambda: place.step(1, 1e60))
    after = place.step(2, 0.5)
    place.engine.close(clean=True)
    return {"failure": failure, "after": after}


class Held:
    """A mailbox that gives out the outcome of a save only when the gate is open."""

    def __init__(self, box, gate):
        self.box, self.gate = box, gate
        self.post, self.clear = box.post, box.clear

    def collect(self, key, **options):
        if key.endswith("/outcome"):
            assert self.gate.wait(PATIENCE)
        return self.box.collect(key, **options)


def uneven(group, root):
    """A save is over for rank 0 long before it is for rank 1: their plans stay in step all the same."""
    box, gate = group.mailbox, threading.Event()
    place = Place(group, root, "uneven", which=last(5), when=every(steps=5))
    if group.rank == 1:
        group.mailbox = Held(box, gate)
    for step in range(1, 5):
        assert place.step(step, settle=False) is None
    ticket = place.step(5, settle=False)
    if group.rank == 0:
        assert ticket.record is not None  # waits until it is durable
    for step in range(6, 10):
        assert place.step(step, settle=False) is None
    gate.set()
    tenth = place.step(10)
    place.engine.close(clean=True)
    group.mailbox = box
    return {"tenth": tenth, "kept": place.kept()}


def skips(group, root):
    """Rank 0 is free, rank 1 believes that the save is under way: what rank 0 sees holds for both."""
    box, gate = group.mailbox, threading.Event()
    place = Place(group, root, "skips", which=last(5), when_busy="skip")
    if group.rank == 1:
        group.mailbox = Held(box, gate)
    ticket = place.step(1, settle=False)
    if group.rank == 0:
        assert ticket.record is not None
    else:
        gate.set()
    second = place.step(2)
    place.engine.close(clean=True)
    group.mailbox = box
    return {"second": second, "kept": place.kept()}


def keys(group, root):
    """Keys in the store at rest, after few saves and after many."""
    place = Place(group, root, "keys", which=last(1))

    def count_at_rest(name):
        if group.rank == 1:
            group.mailbox.post(f"{name} resting", None)
            group.mailbox.collect(f"{name} counted", ranks=[0], deadline=PATIENCE)
            group.mailbox.clear(f"{name} counted")
            return None
        group.mailbox.collect(f"{name} resting", ranks=[1], deadline=PATIENCE)
        count = _get_default_store().num_keys()
        group.mailbox.clear(f"{name} resting")
        group.mailbox.post(f"{name} counted", None)
        return count

    for step in range(1, 4):
        place.step(step)
    few = count_at_rest("few")
    for step in range(4, 24):
        place.step(step)
    many = count_at_rest("many")
    place.engine.close(clean=True)
    return {"few": few, "many": many}


def dies(root):
    """Rank 1 is killed while the state is captured: what rank 0 sees of that."""
    group = _group()

    def capture(what):
        if group.rank == 1 and place.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return place.capture(what)

    place = Place(group, Path(root), "dies", which=last(1), capture=capture)
    place.killed = False
    place.step(1)
    place.killed, place.engine.mover._commit_timeout = True, SHORT  # no earlier save is a matter of seconds
    before = place.kept()
    failure = failure_of(lambda: place.step(2))
    leftovers = place.folder.scan().leftovers
    ended = failure_of(lambda: place.engine.close(clean=False))
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("holdfast")]
    return {
        "failure": failure,
        "kept": [before, place.kept()],
        "leftovers": leftovers,
        "ended": ended,
        "threads": threads,
    }


def live(root):
    """All that two ranks see of each other while both live."""
    group = _group()
    seen = {}
    for check in (decides, write_fails, capture_fails, plan_fails, uneven, skips, keys):
        seen[check.__name__] = check(group, Path(root))
        group.barrier(phase=check.__name__)
    seen["threads"] = [t.name for t in threading.enumerate() if t.name.startswith("holdfast")]
    return seen


def _group():
    dist.init_process_group("gloo")
    return TorchGroup(PATIENCE)
