"""What is left of a save that a rank took no part in, and of one whose report raised."""

from __future__ import annotations

import pytest

from holdfast import SaveFailedWarning, every, last
from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.engine.commit import commit, withdraw
from holdfast.engine.engine import Engine
from holdfast.engine.group import Solo
from holdfast.engine.job import Captured
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress
from holdfast.store import MemoryStore


class Posted:
    """A mailbox that tells what lies in it."""

    def __init__(self):
        self.held = {}

    def post(self, key, value):
        """Put something in."""
        self.held[key] = value

    def collect(self, key, *, ranks=None, deadline, phase):
        """What this one rank has put there."""
        return {0: self.held[key]}

    def clear(self, key):
        """Take it out."""
        self.held.pop(key, None)


def test_what_a_rank_posted_that_took_no_part_is_cleared_by_the_save_after_it():
    """A run whose captures fail leaves nothing behind in the mailbox, however long it goes on."""
    group, spent = Solo(), []
    group.mailbox = Posted()
    withdraw(group, "first", ValueError("no state"), spent)
    assert set(group.mailbox.held) == {"first/written", "first/outcome"}
    commit(group, "second", write=lambda: None, publish=lambda told: {}, deadline=1.0, spent=spent)
    assert set(group.mailbox.held) == {"second/written", "second/outcome"}


def test_a_report_that_raises_fails_no_save():
    """The checkpoint is there; what the callback raised is told once, as what it is."""
    folder = Folder(MemoryStore())

    def report(line):
        raise ValueError("the log is full")

    run = runs.begin(folder, source=None)
    capture = lambda what: Captured({"step": 1}, {"loop": ("step",)})  # noqa: E731
    engine = Engine(folder, run, [Policy("all", every(steps=1), last(1))], capture, report=report)
    moment = Moment(frozenset({Event.BATCH_END}), Progress(batches=1, steps=1))
    assert engine.consider(moment).record.names
    with pytest.warns(SaveFailedWarning, match="the report of it raised ValueError: the log is full"):
        engine.settle()
    engine.close(clean=True)
    assert len(folder.scan().records) == 1
