"""The engine over two real ranks: one decides, all hear what came of it, and none waits for ever."""

from __future__ import annotations

import signal

import pytest

DEADLINE = 2.0  # seconds; the child's own for the rank that dies
SOON = 30.0  # seconds; half of what the children's other waits are allowed


@pytest.fixture(scope="module")
def ranks(launcher, tmp_path_factory):
    """What each of two ranks saw, by rank."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return [rank.value for rank in launcher.run("engine.ranks_child:live", str(folder), size=2)]


def test_rank_0_decides_and_the_plan_is_broadcast(ranks):
    """What was best by rank 0's scores is kept on both; what rank 1 measured decides nothing."""
    zero, one = (rank["decides"] for rank in ranks)
    assert [names for _, names in zero["seen"]] == [
        ["epoch=0-step=1.ckpt", "last.ckpt"],
        ["last.ckpt"],
        ["epoch=0-step=3.ckpt", "last.ckpt"],
    ]
    assert zero["seen"] == one["seen"]
    # What each rank was told before anything was written: a rank that planned for itself would have had it otherwise.
    assert one["planned"] == zero["planned"] == [names for _, names in zero["seen"]]
    assert zero["score"] == 0.1


def test_both_ranks_tickets_become_the_one_checkpoint_that_was_written(ranks):
    """One file a save, written by rank 0; the record is the same on both."""
    zero, one = (rank["decides"] for rank in ranks)
    assert [id for id, _ in zero["seen"]] == [id for id, _ in one["seen"]]
    assert len({id for id, _ in zero["seen"]}) == 3
    assert zero["kept"] == one["kept"] == [["epoch=0-step=3.ckpt", "last.ckpt", "whole"]]
    assert (zero["lines"], one["lines"]) == (3, 0)


def test_a_failure_of_rank_0_reaches_both_in_its_words_and_the_next_save_works(ranks):
    """A full disk under rank 0: both warn of it and go on; what was saved stands."""
    for rank in ranks:
        seen = rank["write_fails"]
        assert seen["failure"]["kind"] == "warning"
        assert "No space left on device" in seen["failure"]["text"]
        assert "'epoch=0-step=1.ckpt' (step 1) is the newest other one." in seen["failure"]["text"]
        assert seen["failure"]["seconds"] < SOON
        assert seen["between"] == [["epoch=0-step=1.ckpt", "last.ckpt", "whole"]]
        assert seen["after"] == ranks[0]["write_fails"]["after"]
        assert seen["after"][1] == ["epoch=0-step=3.ckpt", "last.ckpt"]


def test_a_rank_that_cannot_give_its_state_says_so_at_once(ranks):
    """Its own error is raised there; the other need not wait for its deadline to hear of it."""
    zero, one = (rank["capture_fails"] for rank in ranks)
    assert one["failure"]["kind"] == "ValueError"
    assert zero["failure"]["kind"] == "warning"
    assert "rank 1, write: ValueError: rank 1 has no state" in zero["failure"]["text"]
    assert zero["failure"]["seconds"] < SOON
    assert zero["after"] == one["after"]
    assert zero["after"][1] == ["epoch=0-step=3.ckpt", "last.ckpt"]


def test_a_plan_that_fails_on_rank_0_fails_on_all(ranks):
    """Rank 1 hears of it in rank 0's words, and the next step is decided as ever."""
    zero, one = (rank["plan_fails"] for rank in ranks)
    assert zero["failure"]["kind"] == "ConfigError"
    assert one["failure"]["kind"] == "RankError"
    assert one["failure"]["text"].startswith("rank 0, plan: ")
    assert zero["failure"]["text"] in one["failure"]["text"]
    assert one["failure"]["seconds"] < SOON
    assert zero["after"] == one["after"]


def test_ranks_that_see_a_save_end_at_different_steps_stay_together(ranks):
    """Whether a save is over is each rank's own affair: no rank asks another because of it."""
    for rank in ranks:
        assert rank["uneven"]["tenth"] == ranks[0]["uneven"]["tenth"]
        assert rank["uneven"]["kept"] == [
            ["epoch=0-step=5.ckpt", "whole"],
            ["epoch=0-step=10.ckpt", "last.ckpt", "whole"],
        ]


def test_whether_a_busy_step_is_skipped_is_decided_by_rank_0(ranks):
    """It is free, so the step is saved, whatever rank 1 believes."""
    for rank in ranks:
        assert rank["skips"]["second"] == ranks[0]["skips"]["second"]
        assert rank["skips"]["kept"] == [
            ["epoch=0-step=1.ckpt", "whole"],
            ["epoch=0-step=2.ckpt", "last.ckpt", "whole"],
        ]


def test_saves_leave_no_keys_and_no_threads(ranks):
    """Twenty more saves leave the store as three did; closed engines have no thread."""
    assert ranks[0]["keys"]["few"] == ranks[0]["keys"]["many"]
    assert [rank["threads"] for rank in ranks] == [[], []]


def test_a_rank_that_dies_before_the_commit_is_named_within_the_deadline(launcher, tmp_path):
    """Nothing is published, the one before stands, no file and no thread is left, and the engine can be closed."""
    zero, one = launcher.run("engine.ranks_child:dies", str(tmp_path), size=2, ok=False)
    assert (zero.code, one.code) == (0, -signal.SIGKILL), zero.log
    seen = zero.value
    assert seen["failure"]["kind"] == "warning"
    assert "rank 1, " in seen["failure"]["text"]
    assert f"did not answer within {DEADLINE:g} s" in seen["failure"]["text"]
    assert DEADLINE <= seen["failure"]["seconds"] < SOON
    assert seen["kept"] == [[["epoch=0-step=1.ckpt", "last.ckpt", "whole"]]] * 2
    assert (seen["leftovers"], seen["ended"], seen["threads"]) == ([], None, [])
