"""SIGTERM at any instant of a fit leaves a checkpoint of that very step, which verifies and is gone on from exactly."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter

import pytest

from forkserver import serving
from holdfast.catalog.folder import Folder
from holdfast.catalog.resolve import check, last
from holdfast.catalog.verify import Verdict
from holdfast.store import LocalStore
from scale import whole

SIGNALS = 200 if whole else 10
LONGEST = 0.6  # seconds from the first line to the signal: some dozens of steps, with their validations and saves
MORE = 7  # steps that are trained after each
SEED = 271828


@pytest.fixture(scope="module")
def server():
    """Forks children that have imported the trainer."""
    with serving("torture.sigterm_child", "torch._dynamo", "holdfast.training.saving") as running:
        yield running


def stopped(server, folder, seconds):
    """A fit that was sent SIGTERM after so many seconds: what it was at, and the step that it left."""
    with server.start("torture.sigterm_child:train", str(folder), 1_000_000, None, False) as child:
        assert child.stdout.readline() == "begun\n"
        time.sleep(seconds)  # the instant of the signal is what is tested
        os.kill(child.pid, signal.SIGTERM)
        lines = child.stdout.read().split("\n")[:-1]
        assert child.wait() == 143
    assert lines.count("late") <= 1, "no batch is begun after the one at hand"
    kind, step, saving = next((line.split() for line in reversed(lines) if line != "late"), ("sanity", "0", "0"))
    return kind, int(step), int(saving)


def record_of(folder):
    """The newest checkpoint; every one of the folder verifies."""
    there = Folder(LocalStore(folder))
    listing = there.scan()
    assert [check(there, record).verdict for record in listing.records] == [Verdict.WHOLE] * len(listing.records)
    assert listing.strangers == ()
    return last(listing)


def test_every_sigterm_leaves_that_step_which_verifies_and_goes_on_exactly(server, tmp_path):
    """In training, in validations, in the sanity check, while a save is written; weights are compared bit for bit."""
    chance = random.Random(SEED)
    hits, ends = Counter(), {}
    for number in range(SIGNALS):
        folder = tmp_path / str(number)
        # Some come with the very first batches, the check before training among them.
        kind, step, saving = stopped(server, folder, 0.0 if number % 5 == 4 else chance.uniform(0.0, LONGEST))
        hits[kind] += 1
        hits["while a save was written"] += saving
        record = record_of(folder)
        assert record.progress.steps == step, f"signal {number}, in {kind}"
        target = step + MORE
        with server.start("torture.sigterm_child:train", str(folder), target, "last", False, 99) as child:
            said = child.stdout.read().split("\n")
            assert child.wait() == 0
        ends[number] = json.loads(said[-2])
        assert ends[number][0] == target

    most = max(step for step, _ in ends.values())
    with server.start("torture.sigterm_child:train", str(tmp_path / "whole"), most, None, True) as child:
        truth = dict(json.loads(line) for line in child.stdout.read().split("\n") if line.startswith("["))
        assert child.wait() == 0
    wrong = {number: step for number, (step, found) in ends.items() if truth[step] != found}
    assert wrong == {}
    if whole:
        print(dict(hits))
        assert min(hits[kind] for kind in ("train", "validation", "sanity", "while a save was written")) > 0, hits
