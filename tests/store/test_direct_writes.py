"""Large objects go past the page cache where the file system allows it, and otherwise through it: the bytes agree."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults import each_failure, short_writes
from holdfast.errors import StoreError
from holdfast.store import LocalStore, temporary_owner
from holdfast.store.direct import BLOCK, aligned_memory
from store.contract import names, read, refused

PATTERN = bytes(range(251)) * (5 * BLOCK) + b"tail"  # enough to be written directly
HALF = len(PATTERN) // 2 // BLOCK * BLOCK
DIRECT = getattr(os, "O_DIRECT", 0)

pytestmark = pytest.mark.skipif(not DIRECT, reason="this system has no direct writes")


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def aligned(data: bytes) -> memoryview:
    """The same bytes in memory that can be written from directly."""
    memory = memoryview(aligned_memory(len(data)))
    memory[:] = data
    return memory[: len(data)]


def descriptors() -> set[str]:
    """What this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def publish(store: LocalStore) -> None:
    """Write the pattern in two pieces, the second with a tail that is no whole block."""
    sink = store.create("a", owner="run", size=len(PATTERN))
    try:
        sink.write_at(HALF, aligned(PATTERN[HALF:]))
        sink.write_at(0, aligned(PATTERN[:HALF]))
        sink.publish("a", replace=True)
    except StoreError:
        sink.discard()
        raise


@contextmanager
def writes(refuse=None):
    """Every write of the block, as (direct or not, bytes asked for); ``refuse`` says which fail with EINVAL."""
    made, real = [], os.pwrite

    def pwrite(fd, data, offset):
        direct = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & DIRECT)
        made.append((direct, len(data)))
        if refuse is not None and refuse(direct, len(made)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data, offset)

    os.pwrite = pwrite
    try:
        yield made
    finally:
        os.pwrite = real


def allowed(folder: Path) -> bool:
    """Whether this folder's file system has direct writes."""
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | DIRECT))
    except OSError:
        return False
    return True


def test_what_is_aligned_is_written_directly_and_the_rest_is_not(store, tmp_path):
    """All but the last, broken block passes the page cache."""
    if not allowed(tmp_path):
        pytest.skip("this file system has no direct writes")
    with writes() as made:
        publish(store)
    tail = (len(PATTERN) - HALF) % BLOCK
    assert made == [(True, len(PATTERN) - HALF - tail), (False, tail), (True, HALF)]
    assert read(store, "a") == PATTERN


@pytest.mark.parametrize("data", [PATTERN, memoryview(bytearray(PATTERN))[1:]], ids=["read-only", "not aligned"])
def test_memory_that_the_disk_cannot_take_goes_through_the_cache(store, data):
    """Whoever does not align still has it written."""
    with writes() as made:
        sink = store.create("a", owner="run", size=len(data))
        sink.write_at(0, data)
        sink.publish("a", replace=True)
    assert made == [(False, len(data))]
    assert read(store, "a") == bytes(data)


def test_a_place_that_is_not_aligned_goes_through_the_cache(store):
    """Aligned memory at an odd offset."""
    sink = store.create("a", owner="run", size=len(PATTERN))
    with writes() as made:
        sink.write_at(100, aligned(PATTERN[100:]))
    sink.write_at(0, PATTERN[:100])
    sink.publish("a", replace=True)
    assert made == [(False, len(PATTERN) - 100)]
    assert read(store, "a") == PATTERN


def test_small_objects_take_no_second_descriptor(store):
    """A ledger's line or a marker is not worth it."""
    before = len(descriptors())
    sink = store.create("a", owner="run", size=1000)
    assert len(descriptors()) == before + 1
    sink.discard()


def test_a_file_system_that_refuses_to_open_directly_gets_plain_writes(store):
    """As tmpfs did for long."""
    real = os.open

    def refusing(path, flags, *rest, **named):
        if flags & DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, *rest, **named)

    os.open = refusing
    try:
        with writes() as made:
            publish(store)
    finally:
        os.open = real
    assert {direct for direct, _ in made} == {False}
    assert read(store, "a") == PATTERN


@pytest.mark.parametrize("when", ["always", "later"])
def test_a_file_system_that_refuses_a_direct_write_gets_a_plain_one(store, when):
    """It wants more alignment than we have, or has lost it; each refused write is made good at once."""
    with writes(refuse=lambda direct, count: direct and (when == "always" or count > 1)) as made:
        publish(store)
    assert any(not direct and length >= HALF for direct, length in made)
    assert read(store, "a") == PATTERN


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a tmpfs")  # noqa: PTH112
def test_a_file_system_in_memory_takes_all_the_same():
    """A real one without a disk below it."""
    root = Path("/dev/shm") / f"holdfast-{os.getpid()}"
    try:
        publish(LocalStore(root))
        assert read(LocalStore(root), "a") == PATTERN
    finally:
        for path in root.iterdir():
            path.unlink()
        root.rmdir()


@pytest.mark.parametrize("at_most", [8 * BLOCK, 8 * BLOCK + 100], ids=["whole blocks", "broken blocks"])
def test_short_writes_are_gone_on_with(store, at_most):
    """Directly where the place is aligned still, else through the cache."""
    with short_writes(at_most):
        publish(store)
    assert read(store, "a") == PATTERN


@pytest.mark.parametrize("at_most", [None, 64 * BLOCK], ids=["whole writes", "short writes"])
def test_a_failure_of_any_call_leaves_the_old_or_the_new_object(store, at_most):
    """Opening a second time, each direct write, either close: told once, nothing left over, nothing open."""
    before = descriptors()
    seen = set()
    for failure in each_failure(lambda: publish(store), scene=lambda: store.put("a", b"old"), at_most=at_most):
        assert isinstance(failure.caught, StoreError), failure.calls.failed
        assert (failure.caught.errno, failure.caught.path.startswith(store.root)) == (failure.code, True)
        seen.add(failure.calls.failed.function)
        assert read(store, "a") == (PATTERN if "rename" in failure.calls.functions() else b"old")
        assert [name for name in names(store) if temporary_owner(name) is not None] == []
        assert descriptors() == before
    assert {"open", "pwrite", "close", "fsync"} <= seen


def test_nothing_is_written_after_it_was_discarded(store):
    """Neither way."""
    sink = store.create("a", owner="run", size=len(PATTERN))
    sink.discard()
    with refused(errno.EBADF):
        sink.write_at(0, aligned(PATTERN))


def test_a_reader_maps_what_it_reads(store, tmp_path):
    """The memory is private and writable, and outlives the reader and the name."""
    publish(store)
    with store.open("a") as reader:
        memory = memoryview(reader.mapped())
    store.remove("a")
    assert bytes(memory) == PATTERN
    publish(store)
    memory[0] = 255
    with store.open("a") as reader:
        memoryview(reader.mapped())[1] = 255
    assert read(store, "a") == PATTERN


def test_an_empty_object_has_no_map(store):
    """The system maps no nothing."""
    store.put("a", b"")
    with store.open("a") as reader:
        assert reader.mapped() is None
