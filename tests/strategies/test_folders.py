"""Checkpoints to which every rank writes its part: saved by a fit, read by any strategy on any number of ranks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from holdfast import ConfigError
from holdfast.strategies import FSDPStrategy

WRITERS = {2: ["odd", "pair"], 4: ["odd"]}
READERS = {1: ["single_device", "fsdp"], 2: ["ddp", "fsdp"], 4: ["fsdp"]}
SAVED = [f"{kind}-sharded-{size}" for size, kinds in WRITERS.items() for kind in kinds]


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory):
    """The folder of what was saved on 2 and on 4 ranks, and what it was."""
    folder = tmp_path_factory.mktemp("sharded")
    said = {}
    for size, kinds in WRITERS.items():
        said.update(ranks.run("folders:write", str(folder), kinds, size, size=size)[0].value)
    return folder, said


def test_a_save_by_its_path_is_a_folder_of_each_ranks_file(written):
    """One shard a rank, and nothing beside the folders."""
    folder, _ = written
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.ckpt" for name in SAVED)
    for size in WRITERS:
        shards = sorted(path.name for path in (folder / f"odd-sharded-{size}.ckpt").glob("*.distcp"))
        assert shards == [f"__{rank}_0.distcp" for rank in range(size)]


@pytest.mark.parametrize("size", READERS)
def test_any_number_of_ranks_reads_it_bit_for_bit(written, ranks, size):
    """Model, optimizers by parameter name, schedulers and position, by every strategy; and the fit goes on."""
    folder, said = written
    zero, *_ = ranks.run("contract:read", str(folder), READERS[size], size, size=size)
    assert len(zero.value) == len(SAVED) * len(READERS[size])
    for name, state in zero.value.items():
        saved = said[name.split()[0]]
        ties = {"tied": state["tied"]}  # a tie is the module's; a folder holds both names of it
        assert {key: state[key] for key in saved} == {**saved, **ties}, name
        assert state["steps"] == 6 * (2 if name.startswith("pair") else 1), name


def test_a_rank_is_given_its_part_alone(written, ranks):
    """On 4 ranks, hooks see a quarter of the weights of a folder that 2 have written: the rest was not kept."""
    folder, _ = written
    every = [rank.value for rank in ranks.run("folders:shares", f"{folder}/odd-sharded-2.ckpt", 4, size=4)]
    assert {count for count, _ in every} == {8}
    assert sum(share for _, share in every) == pytest.approx(1.0, abs=0)
    assert max(share for _, share in every) < 0.4


def test_a_process_without_ranks_loads_the_weights(written, ranks):
    """``load_from_checkpoint`` of a folder, and stock torch.distributed.checkpoint, give the very same tensors."""
    folder, said = written
    (alone,) = ranks.run("contract:alone", str(folder), size=1)
    assert alone.value == {name: state["model"] for name, state in said.items()}
    for name in SAVED:
        (stock,) = ranks.run("folders:stock", f"{folder}/{name}.ckpt", 1, size=1)
        tensors = {key: value for key, value in said[name]["model"].items() if isinstance(value, str)}
        assert {key: stock.value[key] for key in tensors} == tensors


def test_what_stands_under_a_name_is_not_replaced(written, ranks):
    """A folder takes no other's place: the save says so on all ranks, and what stood there stands."""
    folder, _ = written
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    both = ranks.run("folders:write", str(folder), ["odd"], 2, size=2, ok=False)
    assert all(rank.code != 0 for rank in both)
    assert "a folder takes no other's place" in both[0].log
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


def test_a_fit_goes_on_exactly_where_it_was(ranks, tmp_path):
    """Two ranks that save folders, stopped and gone on with: weights, samples and metrics as if never stopped."""
    whole = [rank.value for rank in ranks.run("folders:course", f"{tmp_path}/a", None, 2, {"max_epochs": 3}, size=2)]
    assert whole[0]["names"] == [f"epoch={e}-step={(e + 1) * 6}.ckpt" for e in range(3)]
    path = f"{tmp_path}/a/epoch=0-step=6.ckpt"
    again = [rank.value for rank in ranks.run("folders:course", f"{tmp_path}/b", path, 2, {"max_epochs": 3}, size=2)]
    for rank in range(2):
        assert again[rank]["metrics"] == whole[rank]["metrics"]
        assert again[rank]["seen"] == [one for one in whole[rank]["seen"] if one[0] >= 1]
    assert same_tensors(tmp_path / "a" / "epoch=2-step=18.ckpt", tmp_path / "b" / "epoch=2-step=18.ckpt")


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two folders hold the same shards, byte for byte."""
    names = sorted(path.name for path in one.glob("*.distcp"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names) and names != []


def test_no_rank_begins_anew_where_shards_cannot_be_read(ranks, tmp_path):
    """Rank 0 finds it out, and the other hears it from rank 0; nothing was changed."""
    ranks.run("folders:course", f"{tmp_path}/a", None, 2, {"max_epochs": 2}, size=2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    zero, one = [rank.value for rank in ranks.run("folders:unread", f"{tmp_path}/a", 2, size=2)]
    assert (zero[0], one[0]) == ("Unreadable", "RankError")
    for _, said in (zero, one):
        assert f"checkpoint '{tmp_path}/a/epoch=1-step=12.ckpt' cannot be read: cannot open" in said
        assert "Permission denied" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_damaged_shard_fails_on_all_ranks_or_is_walked_back_from(ranks, tmp_path):
    """The shard of rank 1, which rank 0 would not read: named on all; ``auto`` goes on from the one before."""
    ranks.run("folders:course", f"{tmp_path}/a", None, 2, {"max_epochs": 2}, size=2)
    shard = tmp_path / "a" / "epoch=1-step=12.ckpt" / "__1_0.distcp"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(raw)
    both = ranks.run(
        "folders:course", f"{tmp_path}/b", str(shard.parent), 2, {"max_epochs": 3}, size=2, ok=False, patience=40.0
    )
    assert all(re.search(r"tensor \S+ in __1_0\.distcp has CRC-32", rank.log) for rank in both)
    both = ranks.run("folders:course", f"{tmp_path}/a", "auto", 2, {"max_epochs": 2}, size=2)
    assert {one[0] for rank in both for one in rank.value["seen"]} == {1}


def test_pain_46_a_full_disk_of_one_rank_fails_the_save_on_all(ranks, tmp_path):
    """In that rank's words, within moments; the checkpoints before stand, and the next save works."""
    both = [rank.value for rank in ranks.run("folders:full_disk", f"{tmp_path}/a", 2, size=2)]
    for rank in both:
        (said,) = rank["said"]
        assert "No space left on device" in said
        assert "is the newest other one" in said
        assert [names for names in rank["kept"] if "epoch=0-step=3.ckpt" in names] == []
    assert "rank 1, write" in both[0]["said"][0]
    names = [[*one] for one in both[0]["kept"]]
    assert [one[0] for one in names][:2] == ["epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt"]
    assert {one[-1] for one in names} == {"whole"}
    assert not list((tmp_path / "a").glob(".*.tmp"))


def test_state_dict_type_is_one_of_two():
    """Another word is refused at once."""
    with pytest.raises(ConfigError, match="state_dict_type is 'full' or 'sharded'"):
        FSDPStrategy(state_dict_type="local")


def test_a_copy_of_a_folder_is_read_elsewhere(written, ranks, tmp_path):
    """It holds no path: copied away, it is the same checkpoint."""
    folder, said = written
    shutil.copytree(folder / "odd-sharded-2.ckpt", tmp_path / "odd-sharded-2.ckpt")
    (alone,) = ranks.run("contract:alone", str(tmp_path), size=1)
    assert alone.value == {"odd-sharded-2": said["odd-sharded-2"]["model"]}


def test_each_element_is_written_once_however_a_tensor_is_divided(ranks):
    """Over a mesh of two dimensions too: copies are written by one rank alone, and no rank misses its part."""
    every = [rank.value for rank in ranks.run("folders:pieces", 4, size=4)]
    for name in every[0]:
        assert all(rank[name][1] for rank in every), f"{name}: a rank's part is where it says"
        found = {}
        for own, _ in (rank[name] for rank in every):
            offsets, sizes, values = own or ([0, 0], [0, 0], [])
            for i, value in enumerate(values):
                place = (offsets[0] + i // sizes[1], offsets[1] + i % sizes[1])
                assert place not in found, f"{name}: an element is written twice"
                found[place] = value
        assert found == {(i // 5, i % 5): float(i) for i in range(35)}, name
