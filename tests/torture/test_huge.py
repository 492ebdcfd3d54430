"""A checkpoint with more than 4 GiB in one storage is the same to zipfile, to torch and to us."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import forging
import scale
from holdfast.catalog import layout
from holdfast.catalog.manifest import EntryInfo, TensorInfo
from holdfast.catalog.verify import Verdict, verify
from holdfast.engine import pickling
from holdfast.engine.reader import CheckpointFile
from holdfast.engine.statetree import TensorRef
from holdfast.store import LocalStore

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]

HUGE = 2**32 + 12_345
END = b"the end"
SMALL = b"\x07" * 16


def pieces() -> Iterator[bytes]:
    """The huge storage: zeros, and a few bytes at its end."""
    zeros = bytes(2**24)
    left = HUGE - len(END)
    while left:
        yield zeros[: min(left, len(zeros))]
        left -= min(left, len(zeros))
    yield END


def make(path: Path) -> None:
    """Write it as a sparse file, without its zeros."""
    lengths = {"0": HUGE, "1": len(SMALL)}
    refs = {key: TensorRef("", key, "cpu", torch.uint8, (n,), (1,), 0) for key, n in lengths.items()}
    pickle = pickling.dumps({"state_dict": {"huge": refs["0"], "small": refs["1"]}}, lengths.__getitem__)
    contents = forging.contents_of(pickle, [END, SMALL])
    huge = f"{layout.PREFIX}data/0"
    crcs = {name: zlib.crc32(content) for name, content in contents.items()}
    crcs[huge] = 0
    if scale.whole:
        for piece in pieces():
            crcs[huge] = zlib.crc32(piece, crcs[huge])
    sizes = [(name, HUGE if name == huge else len(content)) for name, content in contents.items()]
    tensors = [TensorInfo(f"model.{key}", "uint8", (n,), (1,), key, 0) for key, n in lengths.items()]
    manifest = forging.manifest_of(contents, tensors)
    entries = [EntryInfo(s.name, s.offset, s.length, crcs[s.name]) for s in layout.compute(sizes).slots]
    raw = forging.edited(manifest, lambda d: d.update(entries=[[*e[:3], f"{e.crc:08x}"] for e in entries]))
    place = layout.compute([*sizes, (layout.MANIFEST_ENTRY, len(raw))])
    with path.open("wb") as file:
        file.truncate(place.bytes)
        for offset, piece in layout.skeleton(place, [*crcs.values(), zlib.crc32(raw)]):
            file.seek(offset)
            file.write(piece)
        for slot in place.slots:
            content = raw if slot.name == layout.MANIFEST_ENTRY else contents[slot.name]
            file.seek(slot.offset + slot.length - len(content))
            file.write(content)


def test_a_storage_past_4_gib_is_the_same_to_all_readers(tmp_path):
    """It and the tensor after it are read by zipfile, by torch through a mapping, and (whole runs) verified by us."""
    make(tmp_path / "huge.ckpt")
    with zipfile.ZipFile(tmp_path / "huge.ckpt") as archive:
        sizes = [archive.getinfo(f"archive/data/{key}").file_size for key in (0, 1)]
        assert sizes == [HUGE, len(SMALL)]
        assert archive.getinfo("archive/data/1").header_offset > 2**32
        assert archive.read("archive/data/1") == SMALL
    state = torch.load(tmp_path / "huge.ckpt", weights_only=True, mmap=True)["state_dict"]
    assert state["huge"].shape == (HUGE,)
    assert bytes(state["huge"][-len(END) :].tolist()) == END
    assert bytes(state["small"].tolist()) == SMALL
    with LocalStore(tmp_path).open("huge.ckpt") as reader:
        file = CheckpointFile(reader, name="huge.ckpt")  # the structure is right to the byte
        assert [t.path for t in file.manifest.tensors] == ["model.0", "model.1"]
        if scale.whole:
            assert verify(reader).verdict is Verdict.WHOLE


def test_the_file_is_sparse(tmp_path):
    """The test itself takes next to no space."""
    make(tmp_path / "huge.ckpt")
    info = (tmp_path / "huge.ckpt").stat()
    assert info.st_size > HUGE
    assert info.st_blocks * 512 < 2**20
