"""What a checkpoint is read into: its own pages or memory of one's own, whole or a tensor, as it is or converted."""

from __future__ import annotations

import errno
import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faults import refusing
from holdfast import Checkpointer, every
from holdfast.catalog import verify as verifying
from holdfast.catalog.verify import Verdict, verify
from holdfast.engine.moving import Move
from holdfast.engine.reader import CheckpointFile
from holdfast.engine.statetree import TensorRef
from holdfast.errors import ConfigError, Corrupt, Incompatible, NotFound
from holdfast.store import LocalStore, MemoryStore
from saving import NAME, difference, save


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    """One store that maps, and one that does not."""
    return LocalStore(tmp_path) if request.param == "disk" else MemoryStore()


@pytest.fixture
def disk(tmp_path):
    return LocalStore(tmp_path)


def state():
    """Large and small tensors, tied ones, numbers of other kinds."""
    w = torch.randn(300, 300)
    return {
        "model": {"w": w, "tied": w, "rows": w[10:20], "empty": torch.empty(0), "count": torch.tensor(7)},
        "optimizer": {"avg": torch.randn(300, 300), "step": torch.tensor(3.0)},
    }


def of(store, **how):
    """Both parts of what is there."""
    with store.open(NAME) as reader:
        return CheckpointFile(reader, name=NAME).parts(["model", "optimizer"], **how)


def maps() -> int:
    """How many of this process's mappings are of a checkpoint."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(NAME)


def test_mapped_tensors_are_the_same_as_copied_ones(store):
    """In every bit, tied where they were tied, and after the file was closed and has lost its name."""
    saved = state()
    save(store, saved)
    found = of(store, mapped=["model"])
    store.remove(NAME)
    assert difference(found, saved) is None
    found["model"]["w"].fill_(3)
    assert (found["model"]["tied"] == 3).all()
    assert (found["model"]["rows"] == 3).all()


def test_only_what_is_let_go_lies_in_the_file(disk):
    """The map goes with the last tensor in it; what has memory of its own never had one."""
    save(disk, state())
    kept = of(disk)
    assert maps() == 0
    lent = of(disk, mapped=["model"])
    assert maps() == 1
    del lent["model"]
    assert maps() == 0
    assert kept["optimizer"]["avg"].equal(lent["optimizer"]["avg"])


def test_memory_that_a_kept_part_shares_is_its_own(disk):
    """One part lets go of what another holds on to."""
    w = torch.randn(100, 100)
    save(disk, {"model": {"w": w}, "optimizer": {"w": w}})
    found = of(disk, mapped=["model"])
    assert maps() == 0
    assert found["model"]["w"].data_ptr() == found["optimizer"]["w"].data_ptr()


def test_what_is_written_to_a_mapped_tensor_reaches_no_file(disk):
    """Nor another reader of it."""
    save(disk, state())
    first, second = of(disk, mapped=["model"]), of(disk, mapped=["model"])
    first["model"]["w"].zero_()
    assert not (second["model"]["w"] == 0).all()
    with disk.open(NAME) as reader:
        assert verify(reader).verdict is Verdict.WHOLE


@pytest.mark.parametrize("mapped", [[], ["model", "optimizer"]], ids=["own", "mapped"])
def test_damage_is_found_whatever_it_is_read_into(disk, mapped):
    """All damaged storages are named at once."""
    save(disk, state())
    path = Path(disk.root) / NAME
    with disk.open(NAME) as reader:
        entries = CheckpointFile(reader, name=NAME).manifest.entries
    raw = bytearray(path.read_bytes())
    large = [entry for entry in entries if entry.length == 360_000]
    for entry in large:
        raw[entry.offset + entry.length - 1] ^= 1
    path.unlink()
    path.write_bytes(raw)
    with pytest.raises(Corrupt, match=r"(?s)model\.w.*optimizer\.avg"):
        of(disk, mapped=mapped)


@pytest.mark.parametrize("mapped", [[], ["model", "optimizer"]], ids=["own", "mapped"])
def test_bytes_that_cannot_be_read_are_an_error_and_not_the_end(disk, mapped):
    """A broken disk is told of as damage, also where the file is mapped, which would end the process."""
    save(disk, state())
    with disk.open(NAME) as reader:
        file = CheckpointFile(reader, name=NAME)
        with refusing(preadv=errno.EIO), pytest.raises(Corrupt, match="Input/output error"):
            file.parts(["model", "optimizer"], mapped=mapped)


def test_a_long_storage_is_read_in_pieces_on_several_threads(store, monkeypatch):
    """Its checksum is that of its pieces in order."""
    saved = state()
    save(store, saved)
    monkeypatch.setattr(verifying, "_CHUNK", 10_000)
    monkeypatch.setattr(verifying, "_STEP", 3_000)
    assert difference(of(store), saved) is None
    assert difference(of(store, mapped=["model"]), saved) is None
    with store.open(NAME) as reader:
        assert verify(reader).verdict is Verdict.WHOLE


def test_one_tensor_is_read_without_the_rest(disk):
    """By its name; damage elsewhere keeps nobody from it."""
    saved = state()
    save(disk, saved)
    path = Path(disk.root) / NAME
    with disk.open(NAME) as reader:
        file = CheckpointFile(reader, name=NAME)
        for name in ("w", "rows", "empty", "count"):
            assert difference(file.tensor(f"model.{name}"), saved["model"][name]) is None
        with pytest.raises(NotFound, match=r"no tensor 'model\.nothing'.*parts model, optimizer"):
            file.tensor("model.nothing")
        damaged = next(t.storage for t in file.manifest.tensors if t.path == "optimizer.avg")
        place = next(e.offset for e in file.manifest.entries if e.name == f"archive/data/{damaged}")
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.unlink()
    path.write_bytes(raw)
    with disk.open(NAME) as reader:
        file = CheckpointFile(reader, name=NAME)
        assert file.tensor("model.w").equal(saved["model"]["w"])
        with pytest.raises(Corrupt, match=r"optimizer\.avg"):
            file.tensor("optimizer.avg")


def test_tensors_come_in_the_data_type_that_is_asked_for(store):
    """Floating-point ones; the others stay, what was tied is tied, and no file is held on to."""
    saved = state()
    save(store, saved)
    found = of(store, dtype=torch.bfloat16, mapped=["model"])
    model = found["model"]
    assert model["w"].equal(saved["model"]["w"].bfloat16())
    assert model["rows"].data_ptr() == model["w"][10:20].data_ptr()
    assert (model["count"].dtype, int(model["count"])) == (torch.int64, 7)
    assert found["optimizer"]["step"].dtype is torch.bfloat16
    with store.open(NAME) as reader:
        assert CheckpointFile(reader, name=NAME).tensor("model.w", dtype=torch.float64).dtype is torch.float64


def test_tensors_go_to_another_device_converted(store):
    """Device and data type at once, as a whole."""
    save(store, state())
    found = of(store, location="meta", dtype=torch.float16)["model"]
    assert (found["w"].device.type, found["w"].dtype) == ("meta", torch.float16)
    assert found["w"].untyped_storage()._cdata == found["rows"].untyped_storage()._cdata


def test_a_conversion_that_cannot_keep_what_is_shared_is_refused(store):
    """Such a memory is none that we write; and nothing becomes an integer, which no weights are."""
    one = TensorRef("model.w", "0", "cpu", torch.float32, (10,), (1,), 0)
    with pytest.raises(Incompatible, match=r"torch\.float32 and torch\.int32 at once"):
        Move([one, replace(one, dtype=torch.int32)], "cpu", torch.float16, checkpoint=NAME)
    save(store, state())
    with pytest.raises(ConfigError, match=r"dtype=torch\.int8"):
        of(store, dtype=torch.int8)


def test_a_run_gives_single_tensors_and_other_data_types(tmp_path):
    """By the names that people use, from the front door."""
    model = torch.nn.Linear(3, 2)
    with Checkpointer(tmp_path, when=every(steps=1)) as checkpointer:
        checkpointer.resume(model=model)
        checkpointer.step()
        assert checkpointer.load_tensor("model.weight").equal(model.weight)
        half = checkpointer.load("last", parts=["model"], dtype=torch.float16)["model"]
        assert half["bias"].equal(model.bias.half())
        assert checkpointer.load_tensor("model.bias", dtype=torch.float16).equal(half["bias"])
        with pytest.raises(NotFound, match=r"step=1\.ckpt' holds no tensor 'weight'"):
            checkpointer.load_tensor("weight")


def test_after_a_resume_nothing_lies_in_the_file(tmp_path):
    """Modules have copied, and what an optimizer keeps was read into memory of its own."""
    built = []
    for _ in range(2):
        model = torch.nn.Linear(200, 200)
        optimizer = torch.optim.AdamW(model.parameters())
        with Checkpointer(tmp_path, when=every(steps=1000)) as checkpointer:
            checkpointer.resume(model=model, optimizer=optimizer)
            model(torch.randn(4, 200)).sum().backward()
            if not built:
                optimizer.step()
                checkpointer.save("a")
        built.append({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert difference(built[1], built[0]) is None
    gc.collect()
    assert ".ckpt" not in Path("/proc/self/maps").read_text()
