"""I4: rank 0 decides; every other rank does what it is told, whatever its own rules and metrics say."""

from __future__ import annotations

import torch

from holdfast import last, never
from holdfast.catalog.folder import Folder
from holdfast.catalog.manifest import RunRef
from holdfast.catalog.runs import Run
from holdfast.engine.engine import Engine
from holdfast.engine.job import Captured
from holdfast.policy import plan as planning
from holdfast.policy.plan import Plan, Policy, Save
from holdfast.policy.values import Event, Moment, Progress
from holdfast.policy.what import full
from holdfast.store import LocalStore

NAME = "epoch=7-step=70.ckpt"


class Told:
    """Rank 1 of two, seen from inside: rank 0 sends one plan, and its part of the save succeeds."""

    rank, size = 1, 2

    def __init__(self, plan):
        self.plan = plan
        self.mailbox = self

    def broadcast(self, value, *, phase):
        assert (value, phase) == (None, "plan"), "it has nothing to say"
        return {"plan": planning.to_json(self.plan), "error": None}

    def post(self, key, value):
        """Its part went well: rank 0 would read that."""
        assert value == {"error": None, "told": []}

    def collect(self, key, *, ranks, deadline, phase):
        return {0: {"error": None, "result": {"folders": [{"error": None, "records": []}]}}}


def test_another_rank_does_what_it_is_told_and_nothing_else(tmp_path):
    """Its rules never save; told to take part, it does, and told not to, it does not."""
    captured = []

    def capture(what):
        captured.append(what)
        return Captured({"state_dict": {"weight": torch.zeros(1)}}, {"model": ("state_dict",)})

    group = Told(Plan(saves=(Save(full, (NAME,)),)))
    engine = Engine(
        Folder(LocalStore(tmp_path)), Run(RunRef("1" * 32)), [Policy("rules", never(), last(1))], capture, group=group
    )
    moment = Moment(frozenset({Event.VALIDATION_END}), Progress(steps=1, batches=1))
    ticket = engine.consider(moment)
    assert ticket is not None
    assert ticket.names == (NAME,)
    assert captured == [full], "taking the state apart may need all ranks, so this one takes part"
    group.plan = Plan()
    assert engine.consider(moment) is None
    engine.close(clean=True)
    assert list(tmp_path.iterdir()) == [], "rank 0 alone writes"
