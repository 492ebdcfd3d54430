"""``assert_exact_resume`` passes a run that resumes exactly, and names what differs in one that does not."""

import pytest

import exact_runs
from holdfast import ConfigError
from holdfast.testing import assert_exact_resume
from holdfast.testing.exact_resume import first_difference


def test_a_run_that_resumes_exactly_passes():
    """Killed within an epoch, at its end, and after the first step: shuffling, dropout, momentum and schedule."""
    assert_exact_resume(exact_runs.trainer, exact_runs.Exact, at=[1, 4, 6])


def test_a_state_that_is_saved_nowhere_is_found():
    """A counter that changes the loss begins anew: the first metric after the resume tells."""
    with pytest.raises(AssertionError, match=r"killed at step 3 .* after batch 5 \(step 5\) the metric 'loss"):
        assert_exact_resume(exact_runs.trainer, exact_runs.Forgets, at=[3])


def test_another_order_of_samples_is_found():
    """A loader that depends on the process gives other samples."""
    with pytest.raises(AssertionError, match="has other samples"):
        assert_exact_resume(exact_runs.trainer, exact_runs.OtherOrder, at=[3])


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
    batch = {"number": 2, "steps": 2, "batch": "b", "logged": {}}
    whole = {"began_after": 0, "batches": [{**batch, "number": 1}, batch], "state": {"model.w": "1"}}
    same = {"began_after": 1, "batches": [batch], "state": {"model.w": "1"}}
    assert first_difference(whole, same) is None
    assert "'model.w'" in str(first_difference(whole, {**same, "state": {"model.w": "2"}}))
    assert "'optimizer0" in str(first_difference(whole, {**same, "state": {"model.w": "1", "optimizer0.0.m": "1"}}))
    assert "0 more batches, and 1 were left" in str(first_difference(whole, {**same, "batches": []}))
