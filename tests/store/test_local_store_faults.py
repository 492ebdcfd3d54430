"""Whatever call of the system fails, what stood before stands; and which call comes before which."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from faults import Call, each_failure, failing_at, refusing, watching
from holdfast.errors import StoreError
from holdfast.store import LocalStore, temporary_owner
from store.contract import names, read, refused

OLD = b"old bytes\n" * 100
NEW = bytes(range(256)) * 64


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path)
    store.put("folder/other", NEW)
    return store


def publish(store: LocalStore, name: str, *, replace: bool) -> None:
    """Create, write in two pieces, publish; discard on failure, as the engine does."""
    sink = store.create(name, owner="run", size=len(NEW))
    try:
        half = len(NEW) // 2
        sink.write_at(half, NEW[half:])
        sink.write_at(0, NEW[:half])
        sink.publish(name, replace=replace)
    except StoreError:
        sink.discard()
        raise


def without_links(store: LocalStore, *, replace: bool) -> None:
    """Link where there are no hard links."""
    with refusing(link=errno.EPERM):
        store.link("folder/other", "folder/a", replace=replace)


# The operation, the name that it makes, what stood there, and the call that commits.
MAKING = {
    "publish over": (lambda s: publish(s, "folder/a", replace=True), "folder/a", OLD, "rename"),
    "publish to a free name": (lambda s: publish(s, "folder/a", replace=False), "folder/a", None, "link"),
    "publish in a new folder": (
        lambda s: publish(s, "new/deep/a", replace=True),
        "new/deep/a",
        None,
        "rename",
    ),
    "put over": (lambda s: s.put("folder/a", NEW), "folder/a", OLD, "rename"),
    "put in a new folder": (lambda s: s.put("new/deep/a", NEW), "new/deep/a", None, "rename"),
    "link over": (lambda s: s.link("folder/other", "folder/a", replace=True), "folder/a", OLD, "rename"),
    "copy over": (lambda s: without_links(s, replace=True), "folder/a", OLD, "rename"),
    "copy to a free name": (lambda s: without_links(s, replace=False), "folder/a", None, "rename"),
    "link to a free name": (lambda s: s.link("folder/other", "b", replace=False), "b", None, "link"),
}


def set_scene(store: LocalStore, name: str, old: bytes | None) -> None:
    """``name`` is ``old`` again, and folders made for it are gone."""
    store.remove(name)
    if old is not None:
        store.put(name, old)
    for folder in ("new/deep", "new"):
        path = Path(store.root) / folder
        if path.is_dir():
            path.rmdir()


def content(store: LocalStore, name: str) -> bytes | None:
    return None if store.stat(name) is None else read(store, name)


def leftovers(store: LocalStore) -> list[str]:
    return [name for name in names(store) if temporary_owner(name) is not None]


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def check_report(store: LocalStore, failure) -> None:
    """The failure reached the caller, with errno and path."""
    assert isinstance(failure.caught, StoreError), failure.calls.failed
    assert failure.caught.errno == failure.code
    assert failure.caught.path.startswith(store.root)
    assert type(failure.caught.__cause__) is not StoreError, "told twice"


@pytest.mark.parametrize("at_most", [None, 5000], ids=["whole writes", "short writes"])
@pytest.mark.parametrize(("operation", "name", "old", "commit"), MAKING.values(), ids=MAKING)
def test_a_failure_of_any_call_leaves_the_old_or_the_new_object(store, operation, name, old, commit, at_most):
    """Old before the call that commits and new after it, never a part; nothing is left over or open."""
    before = descriptors()
    committed = set()
    failures = each_failure(lambda: operation(store), scene=lambda: set_scene(store, name, old), at_most=at_most)
    for failure in failures:
        check_report(store, failure)
        committed.add(commit in failure.calls.functions())
        assert content(store, name) == (NEW if commit in failure.calls.functions() else old)
        assert leftovers(store) == []
        assert descriptors() == before
        assert read(store, "folder/other") == NEW
        set_scene(store, name, old)
        operation(store)
        assert content(store, name) == NEW
    assert committed == {False, True}


def test_a_failure_of_any_call_leaves_what_was_appended_before(store):
    """A part of the new line may be there, on a line of its own; appending again adds the whole line."""
    old, new = b"the old line\n", b"the new line\n"
    before = descriptors()
    found = set()
    failures = each_failure(lambda: store.append("log", new), scene=lambda: store.put("log", old), at_most=5)
    for failure in failures:
        check_report(store, failure)
        assert descriptors() == before
        kept = read(store, "log").removeprefix(old)
        assert new.startswith(kept)
        store.append("log", new)
        torn = kept if kept in (b"", new) else kept + b"\n"
        assert read(store, "log") == old + torn + new
        found.add(kept)
    assert found == {b"", new[:5], new[:10], new}


def test_a_failure_of_any_call_of_a_first_append_can_be_made_good(store):
    """Where the object and its folder are made by appending."""
    failures = each_failure(
        lambda: store.append("new/deep/a", b"line\n"), scene=lambda: set_scene(store, "new/deep/a", None)
    )
    for failure in failures:
        check_report(store, failure)
        assert content(store, "new/deep/a") in (None, b"", b"line\n")
        store.append("new/deep/a", b"line\n")
        assert read(store, "new/deep/a").endswith(b"line\n")


def test_a_failure_of_any_call_while_removing_leaves_the_whole_or_nothing(store):
    """A name is there with all its bytes until it is unlinked; removing again then works."""
    failures = each_failure(lambda: store.remove("folder/a"), scene=lambda: store.put("folder/a", OLD))
    for failure in failures:
        check_report(store, failure)
        assert content(store, "folder/a") == (None if "unlink" in failure.calls.functions() else OLD)
        store.remove("folder/a")
        assert content(store, "folder/a") is None


def test_a_failure_of_any_call_while_preparing_leaves_no_probe(store):
    """Unless it is the probe's removal itself that fails."""
    before = descriptors()
    for failure in each_failure(store.prepare, scene=lambda: None):
        check_report(store, failure)
        assert descriptors() == before
        if failure.calls.failed.function == "unlink" and "open" in failure.calls.functions():
            [probe] = leftovers(store)
            store.remove(probe)
        assert leftovers(store) == []


def test_a_failure_of_any_call_while_locking_leaves_it_free(store):
    """A lock that was not given is not held, nor is one whose release failed."""
    before = descriptors()
    for failure in each_failure(lambda: store.lock("folder/lease").release(), scene=lambda: None):
        check_report(store, failure)
        assert descriptors() == before
        store.lock("folder/lease").release()


@pytest.mark.parametrize("again", [lambda sink: sink.sync(), lambda sink: sink.publish("folder/a", replace=True)])
@pytest.mark.parametrize("first", [lambda sink: sink.sync(), lambda sink: sink.publish("folder/a", replace=True)])
def test_a_failed_sync_is_not_tried_again(store, first, again):
    """The system drops the bytes that it failed to write, and says "fine" if asked again."""
    sink = store.create("folder/a", owner="run", size=len(NEW))
    with failing_at(1, errno.EIO, functions=("fsync",)), refused(errno.EIO):
        first(sink)
    with refused(errno.EBADF):
        again(sink)
    assert content(store, "folder/a") is None
    sink.discard()
    assert leftovers(store) == []


def test_what_was_synced_is_not_synced_again_by_publishing(store):
    """All shards are made durable first, and publishing them then costs the folder's fsync alone."""
    sink = store.create("folder/a", owner="run", size=len(NEW))
    sink.write_at(0, NEW)
    with watching() as calls:
        sink.sync()
    temporary = inode(store, sink.temporary)
    assert calls.done == [Call("fchmod", temporary), Call("fsync", temporary)]
    with watching() as calls:
        sink.publish("folder/a", replace=True)
    assert [call.target for call in calls.done if call.function == "fsync"] == [inode(store, "folder")]


# What comes before what: a loss of power cannot be had in a test, the order of the calls can.


def inode(store: LocalStore, name: str) -> int:
    return (Path(store.root) / name).stat().st_ino


def path(store: LocalStore, name: str) -> str:
    return f"{store.root}/{name}"


@pytest.mark.parametrize(("replace", "commit"), [(True, "rename"), (False, "link")])
def test_bytes_are_synced_before_the_name_and_the_name_before_the_return(store, replace, commit):
    """Every write and the mode, fsync of the file, the name, fsync of the folder."""
    with watching() as calls:
        publish(store, "folder/a", replace=replace)
    file, folder = inode(store, "folder/a"), inode(store, "folder")
    assert calls.in_order(
        Call("pwrite", file),
        Call("pwrite", file),
        Call("fchmod", file),
        Call("fsync", file),
        Call(commit, path(store, "folder/a")),
        Call("fsync", folder),
    )


def test_what_is_put_is_synced_before_the_name_and_the_name_before_the_return(store):
    """The same for small objects."""
    with watching() as calls:
        store.put("folder/a", NEW)
    file, folder = inode(store, "folder/a"), inode(store, "folder")
    assert calls.in_order(
        Call("pwrite", file),
        Call("fsync", file),
        Call("rename", path(store, "folder/a")),
        Call("fsync", folder),
    )


def test_what_is_appended_is_synced_and_so_is_its_name(store):
    """The line, then the name of the file that holds it."""
    with watching() as calls:
        store.append("folder/log", b"line\n")
    file, folder = inode(store, "folder/log"), inode(store, "folder")
    assert calls.in_order(Call("write", file), Call("fsync", file), Call("fsync", folder))


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_link_is_synced_even_if_it_is_there_already(store, again):
    """Who linked it before may have died before the folder was synced."""
    if again:
        store.link("folder/other", "folder/a", replace=True)
    with watching() as calls:
        store.link("folder/other", "folder/a", replace=True)
    assert ("rename" in calls.functions()) != again
    assert calls.done[-2:] == [Call("fsync", inode(store, "folder")), Call("close", inode(store, "folder"))]


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_removal_is_synced_even_if_it_is_done_already(store, again):
    """Who removed it before may have died before the folder was synced."""
    store.put("folder/a", OLD)
    if again:
        store.remove("folder/a")
    with watching() as calls:
        store.remove("folder/a")
    assert calls.in_order(Call("unlink", path(store, "folder/a")), Call("fsync", inode(store, "folder")))


def test_a_new_folder_is_synced_into_its_parent_before_anything_is_in_it(store):
    """Each level, from the top."""
    with watching() as calls:
        store.put("new/deep/a", NEW)
    assert calls.in_order(
        Call("mkdir", path(store, "new")),
        Call("fsync", inode(store, "")),
        Call("mkdir", path(store, "new/deep")),
        Call("fsync", inode(store, "new")),
        Call("rename", path(store, "new/deep/a")),
    )
