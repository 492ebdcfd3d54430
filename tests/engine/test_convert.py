"""A folder becomes one file and a file a folder: the same state, verified, with little memory."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faults import failing_at
from holdfast import OpaqueStateWarning
from holdfast.catalog import directories
from holdfast.catalog.manifest import RunRef
from holdfast.catalog.sharded import Chunk, Sharded
from holdfast.catalog.verify import Verdict
from holdfast.engine.convert import Elements, to_file, to_folder
from holdfast.engine.directory import CheckpointDirectory, opened
from holdfast.engine.job import Captured, prepare
from holdfast.errors import ConfigError, Corrupt, StoreError
from holdfast.policy.values import Event, Moment, Progress, Score, Tally
from holdfast.policy.what import full
from holdfast.store import LocalStore
from sameness import same


class Odd:
    """Neither plain nor a tensor; compared by what it holds."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Odd) and other.value == self.value

    __hash__ = None


def state():
    """Shapes and kinds of all sorts, tied and turned tensors, values that are not plain, exact types."""
    tied = torch.arange(24.0).reshape(4, 6)
    return {
        "epoch": 2,
        "state_dict": {
            "wide": torch.arange(30_000.0).reshape(300, 100),
            "tied": tied,
            "too": tied,
            "turned": torch.arange(12).reshape(3, 4).T,
            "none": torch.empty(0, 5),
            "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
            "flags": torch.tensor([True, False, True]),
            "deep": torch.arange(2 * 3 * 4 * 5, dtype=torch.int16).reshape(2, 3, 4, 5),
        },
        "optimizer_states": [
            {"state": {0: {"exp_avg": torch.full((300, 100), 0.25)}}, "param_groups": [{"params": [0], "lr": 0.1}]}
        ],
        "hyper_parameters": {"path": Path("some/where"), "sizes": (1, 2)},
        "callbacks": {"one": {"memory": torch.arange(5), "odd": Odd(3)}},
    }


def save(store, name, root):
    """One file that holds a state."""
    places = {"model": ("state_dict",), "optimizer": ("optimizer_states", 0), "callbacks": ("callbacks",)}
    captured = Captured(root, places, groups={"optimizer": [["wide"]]})
    moment = Moment(frozenset({Event.MANUAL}), Progress(epoch=2, steps=7), {"loss": Score(0.5, 7)})
    job = prepare(
        captured, full, moment, run=RunRef("1" * 32), sequence=4, tallies={"rules": Tally(Progress(steps=7))},
        policies=("rules",), reason="every step",
    )  # fmt: skip
    sinks = []
    job.write(store, name, sinks)
    sinks[0].publish(name, replace=False)
    return job.manifest


@pytest.fixture
def store(tmp_path):
    """A folder with one file of that state."""
    store = LocalStore(tmp_path)
    with pytest.warns(OpaqueStateWarning):
        store.saved = save(store, "one.ckpt", state())
    return store


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_there_and_back_is_the_same(store, shards):
    """The whole dictionary with its exact types and its values that are not plain, through folder and file."""
    with opened(store, "one.ckpt", name="one") as file:
        to_folder(file, store, "many.ckpt", shards=shards)
    with CheckpointDirectory(store, "many.ckpt", name="many") as folder:
        assert same(folder.whole(opaque=folder.opaque()), state())
        assert len(list((Path(store.root) / "many.ckpt").glob("*.distcp"))) == shards
        to_file(folder, store, "back.ckpt", memory=2**16)
    with opened(store, "back.ckpt", name="back") as file:
        assert same(file.whole(opaque=file.opaque()), state())
        assert same(file.part("optimizer"), state()["optimizer_states"][0])
    stock = torch.load(Path(store.root) / "back.ckpt", weights_only=True)
    assert same(stock["state_dict"], state()["state_dict"])
    assert stock["state_dict"]["tied"].data_ptr() == stock["state_dict"]["too"].data_ptr()


def test_it_is_a_checkpoint_of_its_own(store):
    """Another id, of a run whose parent is the source; all else that the manifest says of the step is kept."""
    with opened(store, "one.ckpt", name="one") as file:
        made = to_folder(file, store, "many.ckpt")
    was = store.saved
    assert (made.run.parent, made.policies, made.reason) == (was.id, (), f"converted from {was.id}")
    assert made.id != was.id
    assert made.run.id != was.run.id
    for name in ("progress", "metrics", "parts", "tallies", "types", "versions", "healthy", "saved_at"):
        assert getattr(made, name) == getattr(was, name), name


def test_weights_that_were_not_finite_stay_told(tmp_path):
    """A sick checkpoint does not become a healthy one."""
    store = LocalStore(tmp_path)
    root = {"state_dict": {"w": torch.tensor([1.0, float("nan")])}}
    captured = Captured(root, {"model": ("state_dict",)}, weights=frozenset({"model.w"}))
    moment = Moment(frozenset({Event.MANUAL}), Progress())
    job = prepare(captured, full, moment, run=RunRef("1" * 32), sequence=1, tallies={})
    sinks = []
    job.write(store, "one.ckpt", sinks)
    sinks[0].publish("one.ckpt", replace=False)
    with opened(store, "one.ckpt", name="one") as file:
        assert to_folder(file, store, "many.ckpt").healthy is False
    with CheckpointDirectory(store, "many.ckpt", name="many") as folder:
        assert to_file(folder, store, "back.ckpt").healthy is False


def test_what_is_damaged_is_not_converted(store):
    """Nothing is written from a source that does not verify."""
    with opened(store, "one.ckpt", name="one") as file:
        to_folder(file, store, "many.ckpt", shards=2)
    shard = Path(store.root) / "many.ckpt" / "__1_0.distcp"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(raw)
    with CheckpointDirectory(store, "many.ckpt", name="many") as folder, pytest.raises(Corrupt, match=r"__1_0\.distcp"):
        to_file(folder, store, "back.ckpt")
    assert not (Path(store.root) / "back.ckpt").exists()


def test_a_name_that_is_taken_and_a_full_disk_leave_nothing(store):
    """What stands there stands, and no unfinished file or folder is left."""
    before = sorted(path.name for path in Path(store.root).iterdir())
    with opened(store, "one.ckpt", name="one") as file:
        with pytest.raises(StoreError):
            to_folder(file, store, "one.ckpt")
        with failing_at(2, errno.ENOSPC, functions=("posix_fallocate",)), pytest.raises(StoreError, match="No space"):
            to_folder(file, store, "many.ckpt", shards=2)
        with pytest.raises(ConfigError, match="at least one shard"):
            to_folder(file, store, "many.ckpt", shards=0)
    assert sorted(path.name for path in Path(store.root).iterdir()) == before
    assert directories.verify(store, "one.ckpt")[0].verdict is Verdict.WHOLE


class Memory:
    """A reader over bytes."""

    def __init__(self, data):
        self.data = data

    def read_into(self, offset, target):
        target[:] = self.data[offset : offset + len(target)]


CUTS = {
    "rows": [((0, 0, 0), (2, 4, 6)), ((2, 0, 0), (3, 4, 6))],
    "columns": [((0, 0, 0), (5, 1, 6)), ((0, 1, 0), (5, 3, 6))],
    "last": [((0, 0, 0), (5, 4, 2)), ((0, 0, 2), (5, 4, 4))],
    "blocks": [((0, 0, 0), (2, 4, 6)), ((2, 0, 0), (3, 2, 6)), ((2, 2, 0), (3, 2, 5)), ((2, 2, 5), (3, 2, 1))],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_elements_come_in_their_order_however_a_tensor_is_cut(cut):
    """Every stretch of the bytes of the whole, gathered from chunks cut along any dimension."""
    whole = torch.arange(5 * 4 * 6, dtype=torch.int16).reshape(5, 4, 6)
    chunks, data = [], b""
    for offsets, sizes in cut:
        part = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))].contiguous()
        raw = part.numpy().tobytes()
        chunks.append(Chunk(offsets, sizes, 0, len(data), len(raw) + 64, 64, 0))
        data += bytes(64) + raw
    tensor = Sharded("model.w", ("state_dict", "w"), "int16", (5, 4, 6), tuple(chunks))
    elements, expected = Elements(tensor, [Memory(data)]), whole.numpy().tobytes()
    assert elements.nbytes() == len(expected)
    for start in range(0, len(expected), 7):
        for stop in (start, start + 1, start + 50, len(expected)):
            assert elements[start:stop].tobytes() == expected[start:stop]


SMALL = """
import resource, sys, torch
from pathlib import Path
from holdfast.engine import convert
from holdfast.engine.directory import CheckpointDirectory
from holdfast.store import LocalStore
root = Path(sys.argv[1])
store = LocalStore(root)
with CheckpointDirectory(store, "many.ckpt", name="many") as folder:
    now = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + 48 * 2**20, now + 48 * 2**20))
    convert.to_file(folder, store, "back.ckpt", memory=8 * 2**20)
"""


def test_a_tensor_larger_than_memory_is_converted(tmp_path):
    """96 MiB in one tensor, and 48 MiB that the process may have more: nothing holds a tensor as a whole."""
    store = LocalStore(tmp_path)
    big = {"state_dict": {"w": torch.arange(24 * 2**20, dtype=torch.float32)}}
    save(store, "one.ckpt", {**big, "optimizer_states": [{"state": {}}], "callbacks": {}})
    with opened(store, "one.ckpt", name="one") as file:
        to_folder(file, store, "many.ckpt", shards=2)
    subprocess.run([sys.executable, "-c", SMALL, str(tmp_path)], check=True)
    with opened(store, "back.ckpt", name="back") as file:
        assert torch.equal(file.part("model")["w"], big["state_dict"]["w"])
