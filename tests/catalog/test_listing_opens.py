"""Listing a thousand checkpoints reads the ledger and names, and opens only files that nobody has told of."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.store import MemoryStore, Reader
from making import Shape, image, manifest, put

MANY = 1000


class Watched:
    """A store that notes what is opened."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.opened: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def open(self, name: str) -> Reader:
        self.opened.append(name)
        return self.store.open(name)

    def since(self) -> list[str]:
        """What was opened since the last call, in order of names."""
        opened, self.opened = sorted(self.opened), []
        return opened


@pytest.fixture
def store() -> Watched:
    """A thousand checkpoints of 400 parameters, and a ledger that tells of all."""
    made = MemoryStore()
    folder = Folder(made)
    for step in range(1, MANY + 1):
        put(folder, manifest(step, scores={"loss": 1 / step}, shape=Shape(tensors=400)), f"{step:04}.ckpt")
    return Watched(made)


def test_with_its_ledger_a_folder_is_listed_without_opening_a_checkpoint(store: Watched) -> None:
    """The ledger is read once; a second look, with nothing new, reads not even that."""
    folder = Folder(store)
    assert len(folder.scan().records) == MANY
    assert store.since() == [LEDGER]
    assert len(folder.scan().records) == MANY
    assert store.since() == []


def test_only_files_that_nobody_told_of_are_opened_and_each_once(store: Watched) -> None:
    """A checkpoint without its line, a foreign file, a told file that was replaced: those, and no others."""
    put(Folder(store.store), manifest(2001), "untold.ckpt", told=False)
    store.put("foreign.ckpt", b"x")
    _, other = image(manifest(2002))
    store.put("0500.ckpt", other)
    folder = Folder(store)
    listing = folder.scan()
    assert store.since() == [LEDGER, "0500.ckpt", "foreign.ckpt", "untold.ckpt"]
    assert {listing.by_name("untold.ckpt").progress.steps, listing.by_name("0500.ckpt").progress.steps} == {
        2001,
        2002,
    }
    assert [s.name for s in listing.strangers] == ["foreign.ckpt"]
    assert folder.scan() == listing
    assert store.since() == []


def test_a_renamed_or_linked_checkpoint_is_known_without_opening_it(store: Watched) -> None:
    """What a file is goes by size, time and inode, not by its name."""
    store.link("0007.ckpt", "moved.ckpt", replace=False)
    store.remove("0007.ckpt")
    store.link("0008.ckpt", "second.ckpt", replace=False)
    listing = Folder(store).scan()
    assert store.since() == [LEDGER]
    assert listing.by_name("moved.ckpt").progress.steps == 7
    assert listing.by_name("second.ckpt").names == ("0008.ckpt", "second.ckpt")


def test_without_its_ledger_every_file_is_opened_once_and_says_the_same(store: Watched) -> None:
    """The ledger is a cache: what the manifests say is what it said."""
    told = Folder(store.store).scan()
    store.remove(LEDGER)
    folder = Folder(store)
    assert folder.scan().records == told.records
    assert store.since() == [f"{step:04}.ckpt" for step in range(1, MANY + 1)]
    assert folder.scan().records == told.records
    assert store.since() == []
