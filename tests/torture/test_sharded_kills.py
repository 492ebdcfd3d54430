"""SIGKILL of all ranks at any instant of a run whose ranks each write their part of a checkpoint at every step."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from forkserver import serving
from holdfast.catalog import directories, resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Verdict
from holdfast.store import LocalStore
from many_ranks import Ranks
from scale import whole

KILLS = 20 if whole else 3
LONGEST = 0.15  # seconds from a step to the kill; a save takes about a twentieth of one
SIZE = 2
SEED = 1729
CHILDREN = Path(__file__).parents[1] / "strategies"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Starts groups of ranks that save folders."""
    loaded = ("folders", "torch._dynamo", "holdfast.strategies.fsdp", "holdfast.training.saving")
    with serving(*loaded, beside=CHILDREN) as forks:
        yield Ranks(forks, tmp_path_factory.mktemp("ranks"))


def killed(ranks, folder, pipe, *, begun, seconds):
    """Let a run go on in a folder, and kill all ranks so long after so many steps have begun: the steps it told."""
    running = ranks.begin("folders:busy", str(folder), str(pipe), SIZE, size=SIZE)
    with open(pipe, encoding="utf-8") as steps:
        told = [steps.readline() for _ in range(begun)]
        time.sleep(seconds)  # the instant of the kill is what is tested
        for child in running.started:
            os.kill(child.pid, signal.SIGKILL)
        told += steps
    assert {rank.code for rank in running.end(ok=False)} == {-signal.SIGKILL}
    return [int(line) for line in told if line.endswith("\n")]


def looked_at(folder):
    """Step to what its shards hold, for each checkpoint listed: each is verified, by every name that it has."""
    place = Folder(LocalStore(folder))
    listing = place.scan()
    assert listing.strangers == (), "what bears a checkpoint's name is one"
    found = {}
    for record in listing.records:
        assert resolve.check(place, record).verdict is Verdict.WHOLE
        for name in record.names:
            assert directories.verify(place.store, name)[0].verdict is Verdict.WHOLE
        tensors = directories.read_index(place.store, record.names[0]).tensors
        found[record.progress.steps] = {t.path: [(c.offsets, c.crc) for c in t.chunks] for t in tensors}
    last = listing.by_name("last.ckpt")
    return found, 0 if last is None else last.progress.steps


def test_what_is_listed_after_a_kill_of_all_ranks_is_whole(ranks, tmp_path):
    """Killed and gone on with again and again: no durable step is lost, and each is bit for bit what it was before."""
    chance = random.Random(SEED)
    folder, pipe = tmp_path / "saved", tmp_path / "steps"
    os.mkfifo(pipe)
    seen: dict[int, dict[str, list]] = {}
    newest, steps = 0, 0
    for _ in range(KILLS):
        told = killed(ranks, folder, pipe, begun=chance.randint(1, 6), seconds=chance.uniform(0.0, LONGEST))
        found, last = looked_at(folder)
        assert told[0] == newest, "a run goes on from the newest checkpoint there is"
        newest = max(found, default=0)
        # A step begins once the save of the step before the last is durable: one is written, and one waits.
        assert newest >= told[-1] - 2
        assert newest - last <= 1, "a kill between two renames leaves the alias one save behind at most"
        assert len(found) <= 5, "three that rank, the one resumed from, and one that was about to go"
        for step, shards in found.items():
            assert seen.setdefault(step, shards) == shards, f"step {step} is not what it was before"
        steps += len(told)
    assert steps > KILLS, "kills that hit no saving would prove nothing"
