"""Folders of a local store: they appear, are pointed at, replaced and removed as a whole, durably."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from faults import failing_at
from holdfast.errors import StoreError
from holdfast.store import FolderStore, LocalStore, MemoryStore, temporary_owner


@pytest.fixture
def store(tmp_path):
    """A store with an unfinished folder of two objects."""
    store = LocalStore(tmp_path / "root")
    for name in ("a", "deep/b"):
        store.put(f".new.me.tmp/{name}", name.encode())
    return store


def names(store):
    """All names of objects, sorted."""
    return sorted(entry.name for entry in store.list())


def test_which_stores_have_folders():
    """The local one does; one in memory does not, and nobody takes it for one that does."""
    assert isinstance(LocalStore("x"), FolderStore)
    assert not isinstance(MemoryStore(), FolderStore)


def test_a_folder_appears_as_a_whole(store):
    """Under its name are its objects, and none under the temporary one."""
    store.place_folder(".new.me.tmp", "sub/new")
    assert names(store) == ["sub/new/a", "sub/new/deep/b"]
    assert store.is_folder("sub/new")
    assert [entry.name for entry in store.inside("sub/new")] == ["sub/new/a", "sub/new/deep/b"]
    assert store.inside("nothing") == []


@pytest.mark.parametrize("there", ["a file", "a folder", "an empty folder", "a link"])
def test_a_name_that_is_taken_is_not_replaced(store, tmp_path, there):
    """Whatever has it: the folder keeps its temporary name."""
    taken = tmp_path / "root" / "new"
    if there == "a file":
        taken.write_bytes(b"x")
    elif there == "a link":
        taken.symlink_to("nowhere")
    else:
        taken.mkdir()
        if there == "a folder":
            (taken / "x").write_bytes(b"x")
    with pytest.raises(StoreError) as raised:
        store.place_folder(".new.me.tmp", "new")
    assert raised.value.errno == errno.EEXIST
    assert store.is_folder(".new.me.tmp")


def test_a_second_name_is_a_relative_link_that_can_move(store, tmp_path):
    """It can be read through, leads on after the root has moved, and never takes a folder's place."""
    store.place_folder(".new.me.tmp", "new")
    store.put("other/c", b"c")
    store.put("file", b"f")
    store.point("new", "sub/alias", replace=False)
    assert Path(tmp_path / "root" / "sub" / "alias").readlink() == Path("../new")
    assert (store.pointers("sub"), store.pointers(""), store.pointers("missing")) == (["sub/alias"], [], [])
    assert not store.is_folder("sub/alias")
    with pytest.raises(StoreError) as raised:
        store.point("other", "sub/alias", replace=False)
    assert raised.value.errno == errno.EEXIST
    store.point("other", "sub/alias", replace=True)
    store.point("sub/alias", "file", replace=True)  # of a link, what it leads to
    assert Path(tmp_path / "root" / "file").readlink() == Path("other")
    with pytest.raises(StoreError) as raised:
        store.point("other", "new", replace=True)
    assert raised.value.errno == errno.EISDIR
    (tmp_path / "root").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "sub" / "alias" / "c").read_bytes() == b"c"
    assert [name for name in names(LocalStore(tmp_path / "moved")) if "tmp" in name] == []


def test_a_folder_takes_anothers_place(store):
    """The new one has the name, and nothing is left of the old."""
    store.put("new/old", b"old")
    store.exchange_folder(".new.me.tmp", "new")
    assert names(store) == ["new/a", "new/deep/b"]


def test_where_names_cannot_be_exchanged_nothing_changes(store, monkeypatch):
    """A system that lacks it is told apart by its errno."""
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    store.put("new/old", b"old")
    before = names(store)
    with pytest.raises(StoreError) as raised:
        store.exchange_folder(".new.me.tmp", "new")
    assert raised.value.errno == errno.ENOSYS
    assert names(store) == before


def test_a_folder_goes_as_a_whole_before_its_first_object(store):
    """Stopped after the first step, what is left is under a name that says so, and is swept by anybody."""
    store.place_folder(".new.me.tmp", "new")
    with failing_at(1, errno.EIO, functions=("unlink",)), pytest.raises(StoreError):
        store.remove_folder("new")
    (left,) = {name.split("/")[0] for name in names(store)}
    assert temporary_owner(left) == "removed"
    store.remove_folder(left)
    store.remove_folder("new")  # gone already
    assert names(store) == []
