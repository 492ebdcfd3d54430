"""What ranks train is read in place by their saves: never torn, and no rank waits for another's disk for long."""

from __future__ import annotations

import pytest

TIMEOUT = 4.0  # seconds that ranks wait for each other, as lendings.py says

LARGE = [
    "model.second.weight", "optimizer.state.second.weight.exp_avg", "optimizer.state.second.weight.exp_avg_sq",
]  # fmt: skip


@pytest.fixture(scope="module")
def parts(ranks, tmp_path_factory):
    """What each rank says of its part."""
    return [rank.value for rank in ranks.run("lendings:parts", str(tmp_path_factory.mktemp("parts")), 2, size=2)]


def test_no_byte_of_a_large_part_is_copied(parts):
    """The weight and the optimizer's state of it are read where they are; what is small is copied."""
    for rank in parts:
        assert rank["in place"] == LARGE
        assert "model.second.bias" in rank["copied"]


def test_a_step_waits_until_its_part_has_been_read(parts):
    """And the part that was written is whole."""
    for rank in parts:
        assert rank["the step waits"]
        assert rank["written meanwhile"] == "written"
        assert rank["the step has ended"]


def test_whatever_else_changes_a_part_is_noticed(parts):
    """Through the divided tensor, through this rank's part, and past all that torch counts; then it is copied."""
    for rank in parts:
        assert rank["noticed"] == dict.fromkeys(("divided", "the part", "data of the part"), "model.second.weight")
        assert rank["not lent again"] == "written"


@pytest.mark.parametrize("meddles", [False, True], ids=["steps alone", "a change by hand"])
def test_a_folder_holds_what_each_rank_held_at_its_steps_end(ranks, tmp_path, meddles):
    """Six saves in a row, each while training goes on; one whose part was changed by hand fails on both ranks."""
    zero, one = (rank.value for rank in ranks.run("lendings:saved", str(tmp_path), 2, meddles, size=2))
    assert zero["wrong"] == one["wrong"] == []
    assert zero["steps"] == one["steps"]
    if not meddles:
        assert zero["steps"] == [1, 2, 3, 4, 5, 6]
        assert zero["said"] == one["said"] == []
        return
    assert set(range(1, 7)) - set(zero["steps"]) <= {3}
    if 3 not in zero["steps"]:  # it was read before the change otherwise
        assert "model.second.weight changed while being read" in one["said"][0]
        assert "rank 1" in zero["said"][0]


def test_a_file_holds_what_all_ranks_held_at_its_steps_end(ranks, tmp_path):
    """By ddp rank 0 reads the weights and their optimizer's state in place, while all ranks train on."""
    for rank in ranks.run("lendings:saved_by_ddp", str(tmp_path), 2, size=2):
        assert rank.value == {"wrong": [], "steps": [1, 2, 3, 4, 5, 6], "said": []}


def test_pain_44_a_disk_that_does_not_answer_holds_up_no_other_rank_for_long(ranks, tmp_path):
    """Rank 0 gives what it had lent up after a quarter of the timeout; the save fails, and the next one works."""
    zero, one = (rank.value for rank in ranks.run("lendings:slow_disk", str(tmp_path), 2, size=2, patience=120))
    assert zero["step"] == one["step"] == 320
    assert zero["names"] == ["epoch=0-step=320.ckpt"], "the one at step 160 came to nothing"
    assert "could not be read in 1 s, and other ranks do not wait longer for this one" in zero["said"][0]
    assert "rank 0" in one["said"][0]
    assert max(zero["longest"], one["longest"]) < TIMEOUT
