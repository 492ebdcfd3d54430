"""A mesh of two dimensions: what fsdp replicates and divides works, and what it does not know is refused at once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def hybrid(ranks, tmp_path_factory):
    """Each of four ranks, two of which hold the same parts; the folder of what they saved."""
    folder = tmp_path_factory.mktemp("hybrid")
    return [rank.value for rank in ranks.run("meshes:hybrid", str(folder), 4, size=4)], folder


@pytest.mark.parametrize("state", ["full", "sharded"])
def test_replicated_and_divided_parameters_are_saved_and_read_bit_for_bit(hybrid, state):
    """Model and optimizer, as one file and as a folder."""
    (zero, *_), _ = hybrid
    assert len(zero[state]["saved"]["model"]) == 5
    assert zero[state]["read"] == zero[state]["saved"]


def test_ranks_with_the_same_part_hold_the_same_values(hybrid):
    """Also where each rank was seeded differently: ranks 0 and 2, and 1 and 3, are replicas."""
    (zero, one, two, three), _ = hybrid
    assert zero["full"]["parts"] == two["full"]["parts"] != one["full"]["parts"] == three["full"]["parts"]


def test_each_part_is_written_once(hybrid):
    """The two ranks of the first replica write; the others have nothing to write."""
    _, folder = hybrid
    assert sorted(path.name for path in (folder / "sharded.ckpt").glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]


def test_any_other_world_reads_it(hybrid, ranks):
    """One process and two ranks of ddp find what four have saved."""
    (zero, *_), folder = hybrid
    paths = [str(folder / f"{state}.ckpt") for state in ("full", "sharded")]
    for strategy, size in (("single_device", 1), ("ddp", 2)):
        first, *_ = ranks.run("meshes:elsewhere", strategy, paths, size, size=size)
        assert first.value == [zero[state]["saved"]["model"] for state in ("full", "sharded")]


def test_what_fully_shard_has_not_divided_over_all_ranks_is_refused(ranks):
    """Tensor parallel, meshes of some ranks: samples would be shared out wrongly. It is said on all ranks, at once."""
    for rank in ranks.run("meshes:refused", 4, size=4):
        for words in rank.value.values():
            assert " is divided as (" in words
            assert words.endswith("Give fully_shard a mesh of one dimension, or of two: replicate, shard.")
        assert "_StridedShard" in rank.value["tensor parallel"]
        assert "over 2 of 4 ranks" in rank.value["halves"]
