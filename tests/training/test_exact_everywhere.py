"""A run that was killed after any batch and goes on in a new process is the run that never stopped, however it trains.

``tests/exact_configurations.py`` has the ways to train. Every batch of each is a case; a whole run does all of them.
"""

from __future__ import annotations

import json
import signal
import time

import pytest

from exact_configurations import CONFIGURATIONS, files
from forkserver import serving
from holdfast.testing.exact_resume import first_difference
from scale import sample

CASES = [(name, batch) for name, one in CONFIGURATIONS.items() for batch in range(1, one.batches + 1)]
CHOSEN: dict[str, list[int]] = {}
for _name, _batch in sample(CASES, 20):
    CHOSEN.setdefault(_name, []).append(_batch)

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
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\n{len(done)} of {len(CASES)} exact resumes in {time.monotonic() - began:.0f} s")


def difference(whole, resumed):
    """What differs first: batches, what is logged after each, the end; what hooks and loggers saw; validations."""
    found = first_difference(whole, resumed)
    if found is not None:
        return found
    for what in ("ends", "validated", "rows"):
        left = whole[what][len(whole[what]) - len(resumed[what]) :]
        for number, (expected, seen) in enumerate(zip(left, resumed[what], strict=True)):
            if expected != seen:
                return f"of {what}, number {number} after the resume is {seen}, and was {expected}"
    if whole["metrics"] != resumed["metrics"]:
        return f"at the end the metrics are {resumed['metrics']}, and were {whole['metrics']}"
    return None


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_killed_after_any_batch_is_the_run_that_was_not(name, forks, tmp_path):
    """Checkpoints of a ModelCheckpoint and of ``save_checkpoint`` by turns; each resumed where other seeds were set."""
    record = tmp_path / "record.json"
    assert forks("whole", name, record) == 0
    whole = json.loads(record.read_text())
    assert len(whole["batches"]) == CONFIGURATIONS[name].batches
    assert forks("saved", name, tmp_path) == -signal.SIGKILL
    there = files(name, tmp_path)
    differing = {}
    for batch in CHOSEN[name]:
        assert forks("resumed", name, there[batch], record) == 0, (batch, there[batch])
        found = difference(whole, json.loads(record.read_text()))
        if found is not None:
            differing[batch, there[batch].name] = found
    assert not differing


def test_there_are_enough_cases():
    """What is claimed of them, and that a sample meets many ways to train."""
    assert len(CASES) >= 300
    assert len(CHOSEN) >= 20
