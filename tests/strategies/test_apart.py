"""Ranks that log different things: nothing hangs, and no value is of other metrics or samples than its name says."""

from __future__ import annotations

import re

import pytest

ERRORS = ["instead", "turned", "left out", "hidden"]  # those of apart.py
SOON = 80.0  # seconds; whoever takes so long hangs


@pytest.fixture(scope="module")
def validated(ranks, tmp_path_factory):
    """What both ranks say of each validation. At step 4, rank 0 has measured 5 and rank 1 has measured 6."""
    return [rank.value for rank in ranks.run("apart:validations", str(tmp_path_factory.mktemp("v")), 2, size=2)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number on rank 0", 5.0), ("number on rank 1", 6.0), ("object on rank 0", 5.0), ("object on rank 1", 6.0),
        ("synchronised", 5.5), ("an object", 5.5), ("reduced by hand", 5.5),
    ],
)  # fmt: skip
def test_a_metric_of_one_rank_in_validation_is_known_to_all_and_ranks(validated, name, value):
    """It is that of the ranks that have logged it, number or metric object, and checkpoints are ranked by it."""
    for rank in validated:
        assert rank[name]["error"] is None
        assert rank[name]["metrics"]["val"] == value
        assert rank[name]["names"] == ["epoch=0.ckpt"]


def test_metric_objects_that_ranks_log_in_another_order_are_not_mixed_up(validated):
    """Each reduces itself with its like."""
    for rank in validated:
        assert rank["objects in another order"]["metrics"] == {"val": 5.5, "other": 550.0}


def test_a_monitored_metric_that_is_not_synchronised_is_said_once(validated):
    """With the values of all ranks; rank 0 says it, and decides."""
    zero, one = (rank["each its own"] for rank in validated)
    (line,) = [line for line in zero["said"] if "sync_dist" in line]
    assert line.startswith("'val' is monitored, and each rank has measured it for itself: 3, 4. ")
    assert not [line for line in one["said"] if "sync_dist" in line]


@pytest.mark.parametrize("name", ["synchronised", "an object", "reduced by hand", "number on rank 1"])
def test_one_that_is_the_same_on_all_ranks_is_not_said(validated, name):
    """However it came to be so."""
    assert not [line for rank in validated for line in rank[name]["said"] if "sync_dist" in line]


def test_a_monitored_metric_of_rank_0_alone_decides(validated):
    """Nothing fails for it; that the other lacks it is said."""
    zero, one = (rank["each its own, on rank 0"] for rank in validated)
    assert zero["error"] is one["error"] is None
    assert zero["names"] == ["epoch=0.ckpt"]
    (line,) = [line for line in zero["said"] if "sync_dist" in line]
    assert "for itself: 3, nothing. " in line


def test_a_monitored_metric_that_rank_0_lacks_is_one_error_on_all(validated):
    """It says who has logged it."""
    for rank in validated:
        said = rank["each its own, on rank 1"]
        assert said["error"].startswith(
            "ConfigError: A ModelCheckpoint looks at 'val', which was never logged on rank 0, which decides; "
            "rank 1 has logged it."
        )
        assert said["steps"] == 2, "after the first validation"


def test_whatever_decides_by_a_metric_of_one_rank_is_said(ranks):
    """Early stopping and schedulers that look at one too; rank 0's metric alone is enough to stop all."""
    zero, one = (rank.value for rank in ranks.run("apart:watched", 2, size=2))
    for name, metric in (("stops", "val"), ("schedules", "train")):
        (line,) = [line for line in zero[name]["said"] if "sync_dist" in line]
        assert line.startswith(f"'{metric}' is monitored")
    assert zero["stops on rank 0"]["error"] is one["stops on rank 0"]["error"] is None
    assert zero["stops on rank 0"]["steps"] == one["stops on rank 0"]["steps"] == 10, "it got better all the time"


@pytest.fixture(scope="module")
def failed(ranks):
    """What both ranks say of each fit that fails, and how they ended."""
    running = {name: ranks.begin("apart:error", name, 2, size=2, patience=SOON) for name in ERRORS}
    return {name: group.end(ok=False) for name, group in running.items()}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("instead", r"has logged 'first' (3|4|5) times, and rank 0 (4|5|6) times"),
        ("turned", "has logged the same metrics as rank 0 in another order"),
    ],
)
def test_single_values_of_different_metrics_are_never_taken_for_one(failed, name, what):
    """As many are reduced, so that no rank waits: all are told at the next poll which rank has logged what."""
    for rank in failed[name]:
        assert re.match(f"RankError: rank 1, metrics: {what}: ", rank.value["error"]), rank.value


def test_a_single_value_that_one_rank_leaves_out_is_named(failed):
    """The wait ends at its deadline, on whichever rank it began first; it is said which metric, and of which rank."""
    zero, one = failed["left out"]
    assert "rank 1 has logged 'first' 3 times, and rank 0 4 times" in zero.log + one.log


def test_a_metric_object_that_cannot_be_joined_is_an_error(failed):
    """Rank 1 has no part in what rank 0 computes: it says why, and rank 0 says it too."""
    zero, one = failed["hidden"]
    assert one.value["error"].startswith(
        "ConfigError: Metric 'hidden' was logged on another rank and not on this one, and its object"
    )
    assert "rank 1 failed first: ConfigError: Metric 'hidden'" in zero.log
