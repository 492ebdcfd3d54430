"""A file streamed by regions on several threads is the one that the layout says, byte for byte; and fails as one."""

from __future__ import annotations

import errno
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faults import failing_at, short_writes, watching
from holdfast.catalog import layout
from holdfast.catalog.verify import Verdict, verify
from holdfast.engine.stream import Stream
from holdfast.errors import StoreError
from holdfast.store import LocalStore, MemoryStore
from holdfast.store.direct import BLOCK
from saving import NAME, load, save
from scale import sample

MIB = 2**20


class Sunk:
    """A sink in memory that says when it is written to.

    Args:
        size: Bytes.
        before: Called before each write.
    """

    def __init__(self, size: int, before=lambda: None) -> None:
        self.temporary = "sunk"
        self.data = bytearray(size)
        self._before = before

    def write_at(self, offset, data):
        self._before()
        view = memoryview(data)
        self.data[offset : offset + view.nbytes] = view.cast("B")


def laid_out(lengths):
    """Entries of these lengths, of no repeating content; their slots, contents, and the file's beginning."""
    contents = [np.random.default_rng(n).integers(0, 256, length, np.uint8) for n, length in enumerate(lengths)]
    slots = layout.compute([(f"archive/data/{n}", length) for n, length in enumerate(lengths)]).slots
    crcs = [zlib.crc32(content) for content in contents]
    file = bytearray(slots[-1].offset + slots[-1].length)
    for slot, content, crc in zip(slots, contents, crcs, strict=True):
        file[slot.header : slot.offset] = layout.local_header(slot, crc)
        file[slot.offset : slot.offset + slot.length] = content.tobytes()
    return slots, contents, crcs, file


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=12), st.sampled_from([0, 2**17, MIB]))
@example([BLOCK - 64 - 62, 20_000, 0, 1], 0)  # a header right before the end of a region
@example([BLOCK - 64 - 14, 20_000], 0)
@example([0], 0)
def test_the_file_is_what_the_layout_says_whatever_the_memory(lengths, memory):
    """With regions of one block, headers lie across them, and their checksums come into the file afterwards."""
    slots, contents, crcs, file = laid_out(lengths)
    sink = Sunk(len(file))
    assert Stream(slots, contents, sink, memory=memory).write(lambda: None) == crcs
    assert sink.data == file


def test_every_place_of_a_checksum_in_a_block_is_right():
    """Two entries after each other, at each offset around the end of a block, in as little memory as there can be."""
    for length in range(BLOCK - 160, BLOCK + 40):
        slots, contents, _, file = laid_out([length, 3 * BLOCK, 5])
        for memory in (0, 8 * BLOCK):  # without and with blocks that are held
            sink = Sunk(len(file))
            Stream(slots, contents, sink, memory=memory).write(lambda: None)
            assert sink.data == file, (length, memory)


def test_reading_does_not_wait_for_the_disk_while_there_is_memory():
    """With memory for all, everything is read before the first write is over; it is said once."""
    slots, contents, _, file = laid_out([3 * MIB] * 4)
    read, said = threading.Event(), []

    def tell():
        said.append(1)
        read.set()

    sink = Sunk(len(file), before=lambda: read.wait(60) or pytest.fail("reading waited for a write"))
    Stream(slots, contents, sink, memory=64 * MIB).write(tell)
    assert sink.data == file
    assert said == [1]


def test_a_content_may_change_once_it_is_said_to_have_been_read():
    """Neither the file nor its checksums show what happens afterwards."""
    slots, contents, crcs, file = laid_out([MIB] * 8)

    def change():
        for content in contents:
            content[:] = 0

    sink = Sunk(len(file))
    assert Stream(slots, contents, sink, memory=2 * MIB).write(change) == crcs
    assert sink.data == file


def anonymous() -> int:
    """Bytes of this process's memory that no file backs."""
    (line,) = (li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("memory", [4 * MIB, 32 * MIB])
def test_no_more_memory_is_taken_than_was_allowed(memory):
    """Whatever the size of the state; measured at every write."""
    contents = [np.zeros(200 * MIB, np.uint8)] * 2  # never touched, and so not there
    slots = layout.compute([("archive/data/0", 200 * MIB), ("archive/data/1", 200 * MIB)]).slots
    seen = []

    class Nowhere:
        temporary = "nowhere"

        def write_at(self, offset, data):
            seen.append(anonymous())

    before = anonymous()
    Stream(slots, contents, Nowhere(), memory=memory).write(lambda: None)
    assert len(seen) > 90
    assert max(seen) - before <= memory + 2 * MIB


# Through a real store


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def large():
    """Some 40 MiB, in storages of all sizes."""
    sizes = [9 * MIB + 3, 5, 12 * MIB, 0, 100_000, 4 * MIB, 15 * MIB, 33]
    return {"model": {f"w{n}": torch.randint(0, 256, (size,), dtype=torch.uint8) for n, size in enumerate(sizes)}}


def test_a_large_checkpoint_comes_back_and_verifies(store):
    """Through regions, threads and direct writes; every reader agrees."""
    state = large()
    save(store, state)
    with store.open(NAME) as reader:
        assert verify(reader).verdict is Verdict.WHOLE
    for one in (load(store), torch.load(Path(store.root) / NAME, weights_only=True, mmap=True)):
        found = one["model"] if "model" in one else one["state_dict"]
        assert all(torch.equal(found[name], tensor) for name, tensor in state["model"].items())


def test_a_large_file_is_the_same_from_every_store(store):
    """Memory or disk, short writes or whole."""
    state, memory = large(), MemoryStore()
    save(memory, state)
    with short_writes(700_000):
        save(store, state)
    with memory.open(NAME) as one, store.open(NAME) as other:
        assert one.read_at(0, one.bytes) == other.read_at(0, other.bytes)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_whichever_write_fails_on_whichever_thread_the_save_fails_once_with_the_path(code, store):
    """And nothing goes on in the background: the sink can be discarded at once."""
    state = large()
    with watching(("pwrite",)) as calls:
        save(store, state)
    assert len(calls.done) > 10
    for number in sample(range(1, len(calls.done) + 1), 10):
        with (
            failing_at(number, code, functions=("pwrite",)) as calls,
            pytest.raises(StoreError, match=r"a\.ckpt") as caught,
        ):
            save(store, state, name="a.ckpt")
        assert caught.value.errno == code
        assert calls.failed is not None
        assert not [thread for thread in threading.enumerate() if thread.name in ("holdfast-1", "holdfast-2")]
    assert [path.name for path in Path(store.root).glob("*.ckpt")] == [NAME]
    with store.open(NAME) as reader:
        assert verify(reader).verdict is Verdict.WHOLE
