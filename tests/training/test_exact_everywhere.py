"""A run that was killed after any batch and goes on in a new process is the run that never stopped, however it trains.

``tests/exact_configurations.py`` has the ways to train. Every batch of each is a case; a whole run does all of them.
"""

from __future__ import annotations

import json
import signal
import time

import pytest

from exact_configurations import CONFIGURATIONS, RANKS, files
from forkserver import serving
from holdfast.testing.exact_resume import first_difference
from many_ranks import Ranks
from scale import sample

PATIENCE = 300.0  # seconds; only ever waited out by a test that fails
CASES = [(name, batch) for name, one in CONFIGURATIONS.items() for batch in range(1, one.batches + 1)]
CHOSEN: dict[str, list[int]] = {}
for _name, _batch in sample(CASES, 20):
    CHOSEN.setdefault(_name, []).append(_batch)

# Not among these: gradients that wait for more batches, which are saved as their mean over all ranks; running means of
# batch norm, saved as rank 0 has them; a plateau of what each rank measures for itself.
OF_RANKS = [
    "plain", "adam, noise in the training process", "workers, noise in them", "bf16", "two optimizers by hand",
    "validated twice an epoch", "metric objects by hand", "metric objects", "stateful",
    "weighted", "distributed",
]  # fmt: skip
RANK_CASES = [(name, batch) for name in OF_RANKS for batch in range(1, CONFIGURATIONS[name].batches // RANKS + 1)]

# Imported once, and not by each child anew.
_PRELOADED = (
    "torch", "torch._dynamo", "torchmetrics", "torchdata.stateful_dataloader", "exact_configurations",
    *(f"holdfast.training.{name}" for name in ("trainer", "saving", "resume", "finding")),
)  # fmt: skip


@pytest.fixture(scope="module")
def forks(request):
    """Forks children that can train; says at the end how many cases there were, and how long they took."""
    began, done = time.monotonic(), []
    with serving(*_PRELOADED) as server:

        def run(target, *arguments):
            with server.start(f"exact_configurations:{target}", *map(str, arguments)) as child:
                done.extend([target] * (target == "resumed"))
                return child.wait()

        yield run
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{len(done)} of {len(CASES)} resumes in {time.monotonic() - began:.0f} s")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs one thing as two ranks that talk by gloo; their exit codes."""
    with serving(*_PRELOADED, "torch.distributed") as server:
        ranks = Ranks(server, tmp_path_factory.mktemp("ranks"))

        def run(*arguments):
            ended = ranks.run(
                "exact_configurations:ranked", *map(str, arguments), size=RANKS, patience=PATIENCE, ok=False
            )
            return {rank.code for rank in ended}

        yield run


def difference(untouched, resumed):
    """What differs first: batches, what is logged after each, the end; what hooks and loggers saw; validations."""
    found = first_difference(untouched, resumed)
    if found is not None:
        return found
    for what in ("ends", "validated", "rows"):
        left = untouched[what][len(untouched[what]) - len(resumed[what]) :]
        for number, (expected, seen) in enumerate(zip(left, resumed[what], strict=True)):
            if expected != seen:
                return f"of {what}, number {number} after the resume is {seen}, and was {expected}"
    if untouched["metrics"] != resumed["metrics"]:
        return f"at the end the metrics are {resumed['metrics']}, and were {untouched['metrics']}"
    return None


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_killed_after_any_batch_is_the_run_that_was_not(name, forks, tmp_path):
    """Checkpoints of a ModelCheckpoint and of ``save_checkpoint`` by turns; each resumed where other seeds were set."""
    record = tmp_path / "record.json"
    assert forks("whole", name, record) == 0
    untouched = json.loads(record.read_text())
    assert len(untouched["batches"]) == CONFIGURATIONS[name].batches
    assert forks("saved", name, tmp_path) == -signal.SIGKILL
    there = files(name, tmp_path)
    differing = {}
    for batch in CHOSEN[name]:
        assert forks("resumed", name, there[batch], record) == 0, (batch, there[batch])
        found = difference(untouched, json.loads(record.read_text()))
        if found is not None:
            differing[batch, there[batch].name] = found
    assert not differing


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sample(OF_RANKS, 2))
def test_two_ranks_go_on_after_any_batch(name, together, tmp_path):
    """Each as the rank that never stopped: its own batches, metrics and random state."""
    chosen = [batch for one, batch in RANK_CASES if one == name]
    assert together("whole", name, tmp_path / "whole.{rank}") == {0}
    assert together("saved", name, tmp_path) == {-signal.SIGKILL}
    there = files(name, tmp_path, chosen[-1])
    differing = {}
    for batch in sample(chosen, 2):
        assert together("resumed", name, there[batch], tmp_path / "resumed.{rank}") == {0}, (batch, there[batch])
        for rank in range(RANKS):
            records = [json.loads((tmp_path / f"{what}.{rank}").read_text()) for what in ("whole", "resumed")]
            found = difference(*records)
            if found is not None:
                differing[batch, rank, there[batch].name] = found
    assert not differing


def test_there_are_enough_cases():
    """What is claimed of them, and that a sample meets many ways to train."""
    assert len(CASES) >= 300
    assert len(CHOSEN) >= 20
