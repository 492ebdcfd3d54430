"""``assert_exact_resume`` passes a run that resumes exactly, and names what differs in one that does not."""

import fcntl
from functools import partial

import pytest

import exact_runs
from holdfast import ConfigError
from holdfast.testing import assert_exact_resume
from holdfast.testing.exact_resume import first_difference


def test_a_run_that_resumes_exactly_passes():
    """Killed within an epoch, at its end, and after the first step: shuffling, dropout, momentum and schedule."""
    assert_exact_resume(exact_runs.trainer, exact_runs.Exact, at=[1, 4, 6])


def test_a_state_that_is_saved_nowhere_is_found():
    """A counter that changes the loss begins anew: the weights tell at once, before any metric does."""
    with pytest.raises(AssertionError, match=r"killed at step 3 .* after batch 4 \(step 4\) 'model.layers.0.bias"):
        assert_exact_resume(exact_runs.trainer, exact_runs.Forgets, at=[3])


def test_a_metric_that_goes_on_otherwise_is_found():
    """Though nothing that is trained hangs on it; with what to do."""
    with pytest.raises(AssertionError, match=r"after batch 4 \(step 4\) the metric 'calls' .* has to be in it"):
        assert_exact_resume(exact_runs.trainer, exact_runs.Miscounts, at=[3])


@pytest.mark.timeout(120)  # a worker that is left holds its lock for ever
def test_workers_are_those_of_a_run_by_itself_and_none_is_left(tmp_path):
    """They begin as the program's own do, and end with the process that was killed: its output ends too."""
    assert_exact_resume(exact_runs.trainer, partial(exact_runs.InWorkers, tmp_path), at=[3])
    held = list(tmp_path.iterdir())
    assert len(held) >= 3
    for path in held:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_another_order_of_samples_is_found():
    """A loader that goes by what is not saved gives other samples."""
    with pytest.raises(AssertionError, match=r"killed at step 3 .* has other samples"):
        assert_exact_resume(exact_runs.trainer, exact_runs.OtherOrder, at=[3])


def test_a_run_that_is_another_one_each_time_is_told_of_as_that():
    """It depends on the process: no checkpoint could help, and none is blamed."""
    with pytest.raises(AssertionError, match=r"before any stop, .* after batch 1 \(step 1\) the metric 'loss"):
        assert_exact_resume(exact_runs.trainer, exact_runs.Unlike, at=[3])


@pytest.mark.parametrize(
    ("make", "at", "says"),
    [
        (lambda: None, [1], "sent to other processes"),
        (exact_runs.fails, [1], "The run failed"),
        (exact_runs.trainer, [], "at= takes optimizer steps"),
        (exact_runs.trainer, [0], "at= takes optimizer steps"),
        (exact_runs.trainer, [99], "never came to the end of step 99"),
    ],
)
def test_what_cannot_be_examined_is_an_error_and_not_a_pass(make, at, says):
    """Functions that cannot be sent, runs that fail, steps that are never reached."""
    with pytest.raises(ConfigError, match=says):
        assert_exact_resume(make, exact_runs.Exact, at=at)


def test_differences_at_the_end_and_in_length_are_found():
    """Weights, optimizers, schedulers, and how many batches were trained on."""
    batch = {"number": 2, "steps": 2, "batch": "b", "logged": {}, "weights": {}}
    whole = {"began_after": 0, "batches": [{**batch, "number": 1}, batch], "state": {"model.w": "1"}}
    same = {"began_after": 1, "batches": [batch], "state": {"model.w": "1"}}
    assert first_difference(whole, same) is None
    assert "'model.w'" in str(first_difference(whole, {**same, "state": {"model.w": "2"}}))
    assert "'optimizer0" in str(first_difference(whole, {**same, "state": {"model.w": "1", "optimizer0.0.m": "1"}}))
    assert "0 more batches, and 1 were left" in str(first_difference(whole, {**same, "batches": []}))
