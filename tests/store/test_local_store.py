"""The store in a folder keeps the contract, and what only a folder can be asked."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults import Call, refusing, short_writes, watching
from holdfast.store import LocalStore, temporary_name
from store.contract import PAYLOAD, StoreContract, names, published, read, refused, written


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "made" / "root")


class TestLocalStore(StoreContract):
    """In a root that does not exist yet."""


def test_a_relative_root_is_fixed_when_the_store_is_made(tmp_path, monkeypatch):
    """A training script that changes its working directory still saves to the same place."""
    monkeypatch.chdir(tmp_path)
    store = LocalStore("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put("a", b"a")
    assert (tmp_path / "here" / "a").read_bytes() == b"a"


# Space and permissions


def test_space_is_reserved_before_anything_is_written(store):
    """The file system has given the blocks at ``create``."""
    sink = store.create("a", owner="run", size=1 << 20)
    info = (Path(store.root) / sink.temporary).stat()
    assert info.st_size == 1 << 20
    assert info.st_blocks * 512 >= 1 << 20


def test_a_full_disk_is_noticed_at_create(store):
    """The error names the path and says what to do, and nothing is left."""
    with refusing(posix_fallocate=errno.ENOSPC), refused(errno.ENOSPC) as caught:
        store.create("a", owner="run", size=1 << 20)
    assert f"{store.root}/a" in str(caught.value)
    assert "Free space" in str(caught.value)
    assert names(store) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_is_written_to_all_the_same(store, code):
    """The size is set, and the bytes arrive."""
    with refusing(posix_fallocate=code):
        sink = store.create("a", owner="run", size=len(PAYLOAD) + 100)
    sink.write_at(0, PAYLOAD)
    sink.publish("a", replace=False)
    assert read(store, "a") == PAYLOAD + bytes(100)


def test_short_writes_are_continued(store):
    """However little the system writes at a time, everything arrives."""
    with short_writes(7) as calls:
        published(store, "a", PAYLOAD)
        store.append("log", b"a line of some length\n")
    assert len(calls.done) > len(PAYLOAD) // 7
    assert read(store, "a") == PAYLOAD
    assert read(store, "log") == b"a line of some length\n"


def test_a_line_is_appended_in_one_write(store):
    """Two who append at once do not mix lines; the newline that ends a torn one is part of the write."""
    store.put("log", b"torn")
    with short_writes(1 << 20) as calls:
        store.append("log", b"whole\n")
    assert calls.functions() == ["write"]


@pytest.mark.parametrize(("umask", "readable"), [(0o022, 0o444), (0o027, 0o440), (0o077, 0o400)])
def test_what_is_published_is_read_only_for_those_who_may_read_it(store, umask, readable):
    """The umask says who may read; nobody may write. What is put stays writable."""
    before = os.umask(umask)
    try:
        published(store, "a", b"a")
        store.put("b", b"b")
    finally:
        os.umask(before)
    assert (Path(store.root) / "a").stat().st_mode & 0o777 == readable
    assert (Path(store.root) / "b").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_system_without_permissions_is_no_obstacle(store):
    """Where the mode cannot be changed, publishing works without."""
    with refusing(fchmod=errno.EPERM):
        published(store, "a", b"a")
    assert read(store, "a") == b"a"


# Where there are no hard links


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_a_link_is_a_copy(store, code):
    """The bytes are the same, the object is another; ``replace`` still decides."""
    first = published(store, "a", PAYLOAD)
    published(store, "b", b"b")
    with refusing(link=code):
        with refused(errno.EEXIST):
            store.link("a", "b", replace=False)
        assert read(store, "b") == b"b"
        entry = store.link("a", "b", replace=True)
        store.link("a", "c", replace=False)
    assert entry.inode != first.inode
    assert read(store, "b") == read(store, "c") == PAYLOAD
    assert names(store) == ["a", "b", "c"]


def test_without_hard_links_publishing_still_refuses_a_name_that_is_taken(store):
    """The name is looked up before the rename."""
    published(store, "a", b"first")
    sink = written(store, "a", b"second")
    with refusing(link=errno.EPERM):
        with refused(errno.EEXIST):
            sink.publish("a", replace=False)
        sink.publish("b", replace=False)
    assert (read(store, "a"), read(store, "b")) == (b"first", b"second")
    assert names(store) == ["a", "b"]


def test_the_link_of_a_symbolic_link_is_of_what_it_leads_to(store):
    """An alias that is a symbolic link can be the source: the object gets the name, not the alias."""
    first = published(store, "folder/a", b"a")
    (Path(store.root) / "last").symlink_to("folder/a")
    assert store.link("last", "b", replace=False).inode == first.inode
    assert not (Path(store.root) / "b").is_symlink()
    assert store.link("folder/a", "last", replace=True).inode == first.inode
    assert not (Path(store.root) / "last").is_symlink()


def test_a_leftover_of_an_interrupted_link_is_no_obstacle(store):
    """Its temporary name is taken over."""
    published(store, "a", b"a")
    published(store, "b", b"b")
    store.put(temporary_name("b", "link"), b"left over")
    store.link("a", "b", replace=True)
    assert read(store, "b") == b"a"
    assert names(store) == ["a", "b"]


def test_a_symbolic_link_to_a_folder_is_replaced(store):
    """The link goes; the folder that it led to stays as it was."""
    published(store, "folder/a", b"a")
    (Path(store.root) / "last").symlink_to("folder")
    published(store, "last", b"new")
    assert read(store, "last") == b"new"
    assert names(store) == ["folder/a", "last"]


def test_a_temporary_name_that_is_taken_meanwhile_is_not_written_to(store, monkeypatch):
    """Two who begin the same object in the same instant never share a file."""
    store.put(temporary_name("a", "run"), b"another's")
    monkeypatch.setattr(os, "unlink", lambda _path: None)
    with refused(errno.EEXIST):
        store.create("a", owner="run", size=1)
    assert read(store, temporary_name("a", "run")) == b"another's"


def test_only_plain_files_are_changed_in_place(store):
    """A FIFO is neither appended to nor locked."""
    store.prepare()
    os.mkfifo(Path(store.root) / "fifo")
    for change in (lambda: store.append("fifo", b"x\n"), lambda: store.lock("fifo")):
        with refused(errno.EINVAL):
            change()


# Listing


def test_listing_follows_links_to_files_and_not_to_folders(store):
    """A dangling or circular link, a FIFO, and a name that no store accepts are no objects."""
    published(store, "folder/a", b"12345")
    for target, name in [
        ("folder/a", "file"),
        ("folder", "linked"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
    ]:
        (Path(store.root) / name).symlink_to(target)
    os.mkfifo(Path(store.root) / "fifo")
    (Path(store.root) / "back\\slash").touch()
    assert {entry.name: entry.bytes for entry in store.list()} == {"folder/a": 5, "file": 5}
    assert store.stat("dangling") is None
    assert store.stat("loop") is None
    assert store.stat("fifo") is None
    with refused(errno.EINVAL):
        store.open("fifo")


def test_a_folder_that_vanishes_while_listing_is_skipped(store, monkeypatch):
    """Another process may clean up at any time; what it leaves is still listed."""
    store.put("gone/a", b"a")
    store.put("kept/b", b"b")
    scandir = os.scandir

    def scandir_after_cleaning(path):
        if path.rstrip("/").endswith("gone"):
            (Path(path) / "a").unlink()
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_after_cleaning)
    assert names(store) == ["kept/b"]


def test_a_folder_that_cannot_be_read_is_an_error(store):
    """Whatever else goes wrong while listing is not taken for an empty folder."""
    store.put("folder/a", b"a")
    with refusing(scandir=errno.EACCES), refused(errno.EACCES):
        list(store.list())


def test_a_root_that_is_a_file_is_an_error(tmp_path):
    """Listing and preparing say so."""
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path / "file")
    with refused(errno.ENOTDIR):
        list(store.list())
    with refused(errno.ENOTDIR) as caught:
        store.prepare()
    assert str(tmp_path / "file") in str(caught.value)


@pytest.mark.parametrize(
    ("function", "code", "advice"),
    [
        ("open", errno.EACCES, "permissions"),
        ("open", errno.EROFS, "read-only"),
        ("pwrite", errno.EDQUOT, "quota"),
        ("fsync", errno.EIO, ""),
    ],
)
def test_preparing_finds_out_early_what_will_not_work(store, function, code, advice):
    """A root that cannot be written to or synced fails before the first save, with advice."""
    store.prepare()
    with refusing(**{function: code}), refused(code) as caught:
        store.prepare()
    assert f"cannot prepare '{store.root}'" in str(caught.value)
    assert advice in str(caught.value)
    assert names(store) == []


def test_preparing_syncs_what_it_writes(store):
    """File and folder: a file system on which either fails is found out."""
    store.prepare()
    with watching() as calls:
        store.prepare()
    [probe] = {call.target for call in calls.done if call.function == "pwrite"}
    root = Path(store.root).stat().st_ino
    assert calls.in_order(Call("pwrite", probe), Call("fsync", probe), Call("fsync", root))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(store):
    """Bytes that were there at opening and are gone are missed, not made up."""
    store.put("a", bytes(100))
    with store.open("a") as reader:
        os.truncate(Path(store.root) / "a", 60)
        with refused(errno.ENODATA) as caught:
            reader.read_at(50, 20)
    assert "ends at byte 60, wanted 50 to 70" in str(caught.value)


# Locks between processes

HOLD = """
import os, signal, sys
from holdfast.store import LocalStore
lock = LocalStore(sys.argv[1]).lock("folder/lease")
print("held" if lock else "refused", flush=True)
signal.pause()
"""
HOLD_AND_FORK = """
import os, signal, sys
from holdfast.store import LocalStore
lock = LocalStore(sys.argv[1]).lock("folder/lease")
if os.fork() == 0:
    print("held" if lock else "refused", flush=True)
    sys.stdin.read()
    lock.release()
    os._exit(0)
signal.pause()
"""


@pytest.fixture
def holder(store):
    """Starts another process that takes the lease, and returns when it has it; ends it after the test."""
    started = []

    def start(script: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", script, store.root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_keeps_other_processes_out_until_its_holder_dies(store, holder):
    """A killed process releases it; the file stays, and says who took it."""
    process = holder(HOLD)
    assert store.lock("folder/lease") is None
    assert read(store, "folder/lease") == f"process {process.pid} on {os.uname().nodename}\n".encode()
    process.kill()
    process.wait()
    lock = store.lock("folder/lease")
    assert lock is not None
    lock.release()
    assert read(store, "folder/lease") == f"process {os.getpid()} on {os.uname().nodename}\n".encode()


def test_a_lock_file_says_nothing_of_earlier_holders(store):
    """However long their names were."""
    store.put("lease", b"process 1 on a host with a very long name" * 10 + b"\n")
    store.lock("lease").release()
    assert read(store, "lease") == f"process {os.getpid()} on {os.uname().nodename}\n".encode()


@pytest.mark.parametrize("how", ["removed", "replaced", "another has it", "another has had it", "another has the new"])
def test_a_lock_that_was_lost_says_so(store, holder, how):
    """With its file, or as a network file system loses it; it lets go without harm to who has it now."""
    lock, path = store.lock("folder/lease"), Path(store.root, "folder/lease")
    if how in ("removed", "replaced", "another has the new"):
        path.unlink()
    else:
        fcntl.flock(lock._fd, fcntl.LOCK_UN)  # no call of ours would do it
    if how == "replaced":
        path.touch()
    other = holder(HOLD) if how.startswith("another") else None
    if how == "another has had it":
        other.kill()
        other.wait()
        other = None
    assert not lock.held()
    lock.release()
    again = store.lock("folder/lease")
    assert (again is None) == (other is not None)
    if again is not None:
        assert again.held()
        again.release()


def test_a_lock_that_got_lost_and_that_nobody_wanted_is_held_again(store):
    """To look is to take it."""
    lock = store.lock("lease")
    fcntl.flock(lock._fd, fcntl.LOCK_UN)
    assert lock.held()
    assert store.lock("lease") is None
    lock.release()


def test_a_lock_is_never_one_of_a_file_that_was_removed_meanwhile(store, monkeypatch):
    """Between the opening of a file and its lock another process may remove it: then it is made and locked anew."""
    path, locked = Path(store.root, "lease"), fcntl.flock
    there = [path]

    def flock(fd: int, operation: int) -> None:
        while there:
            there.pop().unlink()
        locked(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = store.lock("lease")
    assert path.read_text().startswith(f"process {os.getpid()}")
    assert lock.held()
    assert store.lock("lease") is None
    lock.release()


def test_a_forked_child_does_not_hold_its_parents_lock(store, holder):
    """A data loader's worker that outlives a killed trainer keeps nobody from resuming."""
    process = holder(HOLD_AND_FORK)
    assert store.lock("folder/lease") is None
    process.kill()
    process.wait()  # the child still waits for its standard input to end
    assert store.lock("folder/lease") is not None


def test_a_file_system_without_locks_is_an_error_with_a_remedy(store, monkeypatch):
    """Not a lock that is none."""

    def flock(_fd, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with refused(errno.ENOLCK) as caught:
        store.lock("lease")
    assert "flock" in str(caught.value)
