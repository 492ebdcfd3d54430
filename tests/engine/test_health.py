"""A save looks at the trained weights: what is not finite is marked, ranks nowhere, and replaces nothing healthy."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from holdfast import Checkpointer, best, every, last, weights_only
from holdfast.catalog.folder import Folder
from holdfast.engine import statetree
from holdfast.engine.device import Beside, greatest
from holdfast.engine.health import not_finite
from holdfast.store import MemoryStore

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
BAD = (float("nan"), float("inf"), float("-inf"))


def found(tensor):
    """What is found in a state of this one tensor."""
    return not_finite(statetree.take_apart({"w": tensor}), {"w"}, Beside(()))


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize("place", [0, 300_000, -1])
def test_one_value_among_many_is_found(kind, value, place):
    """NaN and both infinities, in every kind of float, wherever they are."""
    tensor = torch.ones(300_007, dtype=kind)
    tensor[place] = value
    assert found(tensor) == ("w",)


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_all_that_is_finite_passes(kind):
    """The largest, the smallest, zeros of both signs, numbers below the normal ones."""
    limits = torch.finfo(kind)
    values = [limits.max, limits.min, limits.tiny, limits.smallest_normal / 2, 0.0, -0.0, 1.0]
    assert found(torch.tensor(values, dtype=kind).repeat(1000)) == ()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_the_greatest_magnitude_tells_what_is_not_finite(kind):
    """As a GPU is asked: the largest number is one still, and one NaN among the rest is seen wherever it is."""
    largest = torch.finfo(kind).max
    for place in (0, 300_000, -1):
        tensor = torch.ones(300_007, dtype=kind.to_real())
        tensor[place] = -largest
        assert greatest(tensor) == largest
        for value in BAD:
            tensor[place] = value
            assert not math.isfinite(greatest(tensor))


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn], ids=str)
def test_other_kinds_are_passed_over(kind):
    """Bits that would be NaN in a float of that width are numbers here."""
    assert found(torch.full((800,), -1, dtype=torch.int8).view(torch.uint8).view(kind)) == ()


def test_only_the_tensor_is_looked_at_and_not_the_memory_around_it():
    """A piece of a larger memory, in any order of its dimensions."""
    memory = torch.ones(100, 100)
    memory[0, 0] = float("nan")
    assert found(memory[1:]) == ()
    assert found(memory[:, 1:]) == ()
    assert found(memory.t()[1:]) == ()
    assert found(memory.t()) == ("w",)
    assert found(torch.zeros(0)) == ()


def test_only_named_tensors_are_looked_at_and_tied_ones_are_all_named():
    """What shares its memory shares its fate."""
    bad = torch.full((4,), float("nan"))
    tree = statetree.take_apart({"a": bad, "b": bad, "c": bad.clone()})
    assert not_finite(tree, {"a", "b"}, Beside(())) == ("a", "b")


class Run:
    """A run over a store in memory whose weights may be spoilt."""

    def __init__(self, which, **options):
        self.store = MemoryStore()
        self.net = nn.Linear(2, 2)
        self.net.register_buffer("mask", torch.full((2,), float("-inf")))
        self.frozen = nn.Parameter(torch.tensor([float("nan")]), requires_grad=False)
        self.net.register_parameter("constant", self.frozen)
        self.ckpt = Checkpointer(self.store, when=every(steps=1), which=which, **options)

    def __enter__(self):
        self.ckpt.__enter__()
        self.ckpt.resume("fresh", model=self.net)
        return self

    def __exit__(self, *error):
        return self.ckpt.__exit__(*error)

    def save(self, *, healthy, score=None):
        """One step, saved and durable."""
        with torch.no_grad():
            self.net.weight.fill_(1.0 if healthy else float("nan"))
        self.ckpt.step()
        if score is not None:
            self.ckpt.validated({"loss": score})
        self.ckpt._engine.settle()

    def there(self):
        """Each checkpoint's step, and whether it is healthy."""
        return {r.progress.steps: r.healthy for r in Folder(self.store).scan().records}


def test_buffers_and_frozen_parameters_may_be_what_they_are():
    """A mask holds infinities on purpose, and training spoils nothing that it does not train."""
    with Run(last(1)) as run:
        run.save(healthy=True)
        assert run.there() == {1: True}


def test_the_last_healthy_checkpoint_outlives_sick_ones_of_whatever_number():
    """The sick replace each other; the healthy one stays though no rule keeps it, until the next healthy one."""
    with Run(last(1)) as run:
        for healthy in (True, True, False, False, False):
            run.save(healthy=healthy)
        assert run.there() == {2: True, 5: False}
        names = {r.progress.steps: r.names for r in Folder(run.store).scan().records}
        assert "last.ckpt" in names[5]
        assert names[2], "and it has a name"
        run.save(healthy=True)
        assert run.there() == {6: True}


def test_an_alias_that_moves_to_a_sick_checkpoint_leaves_the_healthy_one_a_name():
    """Where the alias was its only name, it gets one of its own."""
    with Run(last(1), what=weights_only) as run:
        run.save(healthy=True)
        run.save(healthy=False)
        full = [r for r in Folder(run.store).scan().records if r.what == "full"]
        assert {r.progress.steps: r.healthy for r in full} == {1: True, 2: False}
        assert all(r.names for r in full)


def test_sick_weights_never_rank_best_whatever_their_score():
    """Neither among those kept, nor when the best is asked for."""
    with Run(best(1, "loss")) as run:
        run.save(healthy=True, score=0.5)
        run.save(healthy=False, score=0.1)
        run.save(healthy=True, score=0.7)
        assert 1 in run.there()
        assert run.ckpt.load("best")["model"]["weight"].isfinite().all()


@pytest.mark.parametrize("healthy", [True, False], ids=["healthy", "sick"])
def test_who_goes_on_from_sick_weights_is_told(caplog, healthy):
    """It is the newest, and so what `auto` goes on from; nobody finds out by a loss that is NaN for a day."""
    with Run(last(1)) as run:
        run.save(healthy=True)
        run.save(healthy=healthy)
    with caplog.at_level("INFO", logger="holdfast"), Checkpointer(run.store, when=every(steps=1)) as ckpt:
        assert ckpt.resume(model=run.net).steps == 2
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any("NaN or infinity" in one and "epoch=0-step=2.ckpt" in one for one in warned) is not healthy
    assert ("weights       not finite" in caplog.text) is not healthy


def test_it_is_in_the_file_and_in_the_ledger_and_in_the_log(caplog):
    """Whoever reads any of them knows."""
    with Run(last(2)) as run, caplog.at_level("INFO", logger="holdfast"):
        run.save(healthy=True)
        run.save(healthy=False)
    assert "NOT FINITE: model.weight" in caplog.text
    with run.store.open(".holdfast/ledger.jsonl") as reader:
        facts = [json.loads(line) for line in reader.read_at(0, reader.bytes).splitlines()]
    said = {f["record"]["progress"]["steps"]: f["record"]["healthy"] for f in facts if f["fact"] == "committed"}
    assert said == {1: True, 2: False}
    run.store.remove(".holdfast/ledger.jsonl")
    assert run.there() == {1: True, 2: False}
