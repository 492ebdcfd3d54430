"""Ranks that see or were told different things do one thing all the same: rank 0's."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Verdict
from holdfast.store import LocalStore


def test_pain_47_the_folder_of_rank_0_counts_for_all(ranks, tmp_path):
    """Where a path has the time in it: one folder is made, all ranks find what is in it, and go on from it."""
    zero, one = (rank.value for rank in ranks.run("together:folders", str(tmp_path), 2, size=2))
    assert zero == one
    assert zero["dirpath"] == str(tmp_path / "rank-0")
    assert zero["best"].startswith(f"{tmp_path}/rank-0/")
    assert zero["there"] == ["rank-0"]
    assert zero["step"] == 12


@pytest.mark.parametrize("sharded", [False, True])
def test_a_save_by_path_ends_alike_on_all_ranks(ranks, tmp_path, sharded):
    """Where it fails on one rank, it fails on all with that rank's words, leaves nothing, and the next one works."""
    both = [rank.value for rank in ranks.run("together:by_hand", str(tmp_path), 2, sharded, size=2)]
    wanted = {
        "taken": ["name is taken", "Give a name that is free"] if sharded else ["there is a folder", "Name a file"],
        "full": ["No space left on device", "Free space on that disk"],
    }
    for rank, told in enumerate(both):
        assert told["good"] == told["after"] == "saved"
        assert "What stood there stands." in told["taken"]
        for name, words in wanted.items():
            failed = f"SaveFailed: checkpoint '{tmp_path}/{name}.ckpt' (rank {rank}) was not saved: "
            assert told[name].startswith(failed)
            assert [one for one in words if one not in told[name]] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.ckpt", "good.ckpt", "taken.ckpt"]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_save_by_path_in_the_background_ends_alike_on_all_ranks(ranks, tmp_path, sharded):
    """All have its record; one that failed, which nobody asked for, is raised on all at fit's end."""
    zero, one = (r.value for r in ranks.run("together:in_background", str(tmp_path), 2, sharded, size=2))
    assert (zero["id"], zero["steps"], zero["step"]) == (one["id"], one["steps"], one["step"])
    assert zero["steps"] == 2
    for rank, told in enumerate((zero["raised"], one["raised"])):
        assert told.startswith(f"SaveFailed: checkpoint '{tmp_path}/taken.ckpt' (rank {rank}) was not saved: ")
    place = Folder(LocalStore(tmp_path))
    (record,) = place.scan().records
    assert (record.id, record.names) == (zero["id"], ("good.ckpt",))
    assert resolve.check(place, record).verdict is Verdict.WHOLE


def test_several_folders_share_a_write_on_many_ranks(ranks, tmp_path):
    """Rank 0 writes once and names it in each; all ranks know the names, and go on from the second folder."""
    zero, one = (rank.value for rank in ranks.run("together:several_folders", str(tmp_path), 2, size=2))
    assert zero == one
    assert zero[1] == [f"{tmp_path}/{name}/epoch=2.ckpt" for name in "ab"]
    for name in ("epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"):
        assert (tmp_path / "a" / name).samefile(tmp_path / "b" / name)


def test_a_rank_that_sees_a_file_later_waits_for_that_very_file(ranks, tmp_path):
    """It sees nothing, or an older one of that name, for a second: the id tells, and it goes on with the others."""
    for sees in ("nothing", "another"):
        (tmp_path / sees).mkdir()
        ended = ranks.run("together:stale", str(tmp_path / sees), 2, sees, size=2)
        assert [rank.value for rank in ended] == [12, 12]


def test_a_rank_that_never_sees_a_file_says_so(ranks, tmp_path):
    """Within its deadline, and all end."""
    ended = ranks.run("together:stale", str(tmp_path), 2, "nothing for ever", size=2)
    zero, one = (rank.value for rank in ended)
    assert one.startswith("NotFound: checkpoint ")
    assert "(rank 1) that rank 0 reads is not to be read here within 1 s" in one
    assert "rank 1" in zero


@pytest.mark.parametrize(("strategy", "is_a"), [("ddp", [True, False, False]), ("fsdp", [False, True, False])])
def test_programs_ask_and_gather_between_ranks(ranks, tmp_path, strategy, is_a):
    """Tensors and numbers are stacked by rank, gradients come back to their rank; values and decisions are one."""
    zero, one = (rank.value for rank in ranks.run("together:asking", str(tmp_path), 2, strategy, size=2))
    assert zero["gathered"] == one["gathered"] == [[0, 1], [[1.5, 0.0], [1.5, 1.0]]]
    assert (zero["gradient"], one["gradient"]) == ([0.0, 0.0], [9.0, 9.0])  # 3 times (1 + 2), of what is rank 1's
    assert zero["said"] == one["said"] == repr({"rank": 0, "path": Path("x")})
    assert zero["from 1"] == one["from 1"] == "(1,)"
    assert zero["decisions"] == one["decisions"] == [False, True]
    assert (zero["who"], one["who"]) == ([0, 2, True, "cpu"], [1, 2, False, "cpu"])
    assert zero["is"] == one["is"] == is_a
