"""A checkpoint file in a second folder: the very file where that can be, else a copy that is read before it counts."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import making
from faults import refusing
from holdfast.catalog import directories
from holdfast.catalog.second import second
from holdfast.catalog.verify import Verdict
from holdfast.errors import Corrupt, StoreError
from holdfast.store import LocalStore

OWNER = "1" * 32
IMAGE = making.image(making.manifest(1))[1]


@pytest.fixture
def stores(tmp_path):
    """Two folders; the first has a checkpoint."""
    first, other = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    first.put("one.ckpt", IMAGE)
    return first, other


def test_it_is_the_very_file(stores, tmp_path):
    """Nothing is written; its name is its own, and is taken only where that was said."""
    first, other = stores
    with refusing(pwrite=errno.ENOSPC):
        second(first, "one.ckpt", other, "mine.ckpt", owner=OWNER).publish("mine.ckpt", replace=False)
    assert (tmp_path / "a/one.ckpt").samefile(tmp_path / "b/mine.ckpt")
    again = second(first, "one.ckpt", other, "mine.ckpt", owner=OWNER)
    with pytest.raises(StoreError) as caught:
        again.publish("mine.ckpt", replace=False)
    assert caught.value.errno == errno.EEXIST
    again.discard()
    assert [entry.name for entry in other.list()] == ["mine.ckpt"]


def test_where_no_second_name_can_be_it_is_a_copy_that_verifies(stores, tmp_path):
    """As on another file system: durable, read-only, whole."""
    first, other = stores
    with refusing(link=errno.EXDEV):
        sink = second(first, "one.ckpt", other, "mine.ckpt", owner=OWNER)
        sink.publish("mine.ckpt", replace=False)
    assert not (tmp_path / "a/one.ckpt").samefile(tmp_path / "b/mine.ckpt")
    assert directories.verify(other, "mine.ckpt", ours=True)[0].verdict is Verdict.WHOLE
    assert not Path(tmp_path / "b/mine.ckpt").stat().st_mode & 0o222


def test_a_copy_that_is_not_what_was_saved_is_no_checkpoint(stores):
    """What the disk gave back for the first is read once more before the copy has a name."""
    first, other = stores
    bytes = bytearray(IMAGE)
    bytes[len(bytes) // 3] ^= 1
    first.put("one.ckpt", bytes)
    with refusing(link=errno.EXDEV), pytest.raises(Corrupt, match="changed while it was copied"):
        second(first, "one.ckpt", other, "mine.ckpt", owner=OWNER)
    assert list(other.list()) == []


def test_a_second_name_that_was_begun_can_be_given_up(stores, tmp_path):
    """The first stays as it is."""
    first, other = stores
    second(first, "one.ckpt", other, "mine.ckpt", owner=OWNER).discard()
    assert list(other.list()) == []
    assert (tmp_path / "a/one.ckpt").read_bytes() == IMAGE


def test_what_is_not_there_is_told(stores):
    """By what failed, and nothing is left."""
    first, other = stores
    with pytest.raises(StoreError, match="No such file"):
        second(first, "two.ckpt", other, "mine.ckpt", owner=OWNER)
    assert list(other.list()) == []
