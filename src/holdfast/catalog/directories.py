"""Checkpoints that are folders: found in a listing, looked into, verified, named and removed as one thing. No torch."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from holdfast.catalog.manifest import MAX_BYTES, EntryInfo, Manifest, ManifestError
from holdfast.catalog.sharded import INDEX, STATE, Index
from holdfast.catalog.verify import Damage, Finding, Verdict, read_entries, read_manifest
from holdfast.catalog.verify import verify as verify_file
from holdfast.errors import StoreError
from holdfast.store import Entry, FolderStore, Sink, Store, temporary_owner

T = TypeVar("T")


def folded(store: Store, entries: Iterable[Entry]) -> list[Entry]:
    """A listing in which each sharded checkpoint is one entry: that of its index, by the name of the folder.

    So is each unfinished folder, by its temporary name, and one whose index is gone, by what is left of it. Second
    names of such folders are added.
    """
    plain, checkpoints, unfinished, wrecks = [], {}, {}, {}
    for entry in entries:
        temporary = _unfinished(entry.name)
        if temporary is not None:
            unfinished[temporary] = replace(entry, name=temporary)
        elif entry.name.endswith(f"/{INDEX}"):
            name = entry.name.removesuffix(f"/{INDEX}")
            checkpoints[name] = replace(entry, name=name)
        else:
            plain.append(entry)
            if entry.name.endswith(f".ckpt/{STATE}"):
                name = entry.name.removesuffix(f"/{STATE}")
                wrecks[name] = replace(entry, name=name)
    found = {**wrecks, **checkpoints}
    if not found:
        return [*plain, *unfinished.values()]
    within = tuple(f"{name}/" for name in found)
    second = _second_names(store, found)
    return [*(e for e in plain if not e.name.startswith(within)), *unfinished.values(), *found.values(), *second]


def _unfinished(name: str) -> str | None:
    """The folder on the way to ``name`` that somebody is writing or removing, if any."""
    parts = name.split("/")
    return next(("/".join(parts[: i + 1]) for i in range(len(parts) - 1) if temporary_owner(parts[i])), None)


def _second_names(store: Store, found: Mapping[str, Entry]) -> list[Entry]:
    if not isinstance(store, FolderStore):
        return []
    homes = sorted({name.rpartition("/")[0] for name in found})
    names = [name for home in homes for name in store.pointers(home) if temporary_owner(name) is None]
    return [entry for name in names if (entry := entry_of(store, name)) is not None]


def entry_of(store: Store, name: str) -> Entry | None:
    """What a name stands for: a file, or a sharded checkpoint by its index, or what is left of it; None for neither."""
    entry = store.stat(name)
    if entry is None and isinstance(store, FolderStore):
        left = store.stat(f"{name}/{INDEX}") or store.stat(f"{name}/{STATE}")
        return None if left is None else replace(left, name=name)
    return entry


def is_directory(store: Store, name: str) -> bool:
    """Whether a name leads to a folder with an index, be it by a link."""
    return isinstance(store, FolderStore) and store.stat(name) is None and store.stat(f"{name}/{INDEX}") is not None


def read_index(store: Store, name: str) -> Index:
    """The index of a sharded checkpoint; of the files that it lists, none is looked at.

    Raises:
        StoreError: There is none, or it cannot be read.
        Damage: It is not what was saved.
    """
    with store.open(f"{name}/{INDEX}") as reader:
        if reader.bytes > 2 * MAX_BYTES:
            raise Damage(f"its manifest has {reader.bytes:,} bytes")
        raw = reader.read_at(0, reader.bytes)
    try:
        return Index.from_bytes(raw)
    except ManifestError as error:
        raise Damage(f"its manifest cannot be used: {error}") from error


def manifest_of(store: Store, name: str) -> tuple[Manifest, int] | None:
    """The manifest behind a name, and the bytes of the checkpoint; None for a foreign file.

    Raises:
        StoreError: It cannot be read.
        Damage: It was a checkpoint once.
    """
    if is_directory(store, name):
        index = read_index(store, name)
        return index.manifest, index.bytes
    if isinstance(store, FolderStore) and store.stat(name) is None and store.stat(f"{name}/{STATE}") is not None:
        raise Damage("its manifest is missing, which is written last and says what its files are")
    with store.open(name) as reader:
        manifest = read_manifest(reader)
        return None if manifest is None else (manifest, reader.bytes)


def verify(store: Store, name: str, *, ours: bool = False) -> tuple[Finding, int]:
    """Look at every byte of a checkpoint, file or folder; with its size. ``ours`` as for a file.

    Raises:
        StoreError: It cannot be read.
    """
    if is_directory(store, name):
        return _verify(store, name)
    if isinstance(store, FolderStore) and store.stat(name) is None and store.stat(f"{name}/{STATE}") is not None:
        return Finding(Verdict.CORRUPT, "its manifest is missing"), 0
    with store.open(name) as reader:
        return verify_file(reader, ours=ours), reader.bytes


def _verify(store: Store, name: str) -> tuple[Finding, int]:
    try:
        index = read_index(store, name)
    except Damage as damage:
        return Finding(Verdict.CORRUPT, str(damage)), 0
    assert isinstance(store, FolderStore), "only such a store has folders"
    there = {entry.name.removeprefix(f"{name}/"): entry.bytes for entry in store.inside(name)}
    listed = {file.name: file.bytes for file in index.files}
    problems = [f"{file} is missing" for file in listed if file not in there]
    problems += [f"{file} was not saved with it" for file in sorted(there) if file not in listed and file != INDEX]
    damaged: list[str] = []
    for number, file in enumerate(index.files):
        if file.name not in there:
            damaged += [tensor.path for tensor, _ in index.entries(number)]
            continue
        if there[file.name] != file.bytes:
            problems.append(f"{file.name} has {there[file.name]:,} bytes, not {file.bytes:,} as when it was saved")
            damaged += [tensor.path for tensor, _ in index.entries(number)]
            continue
        said, hit = _damage(store, f"{name}/{file.name}", index, number)
        problems += said
        damaged += hit
    if problems:
        return Finding(Verdict.CORRUPT, "; ".join(problems), index.manifest, tuple(dict.fromkeys(damaged))), index.bytes
    return Finding(Verdict.WHOLE, "", index.manifest), index.bytes


def _damage(store: Store, path: str, index: Index, number: int) -> tuple[list[str], list[str]]:
    """What is wrong in a file of the right length, and the tensors that are hit."""
    file = index.files[number]
    with store.open(path) as reader:
        whole = EntryInfo(file.name, 0, file.bytes, file.crc)
        crc = read_entries(reader, [whole])[file.name]
        if crc == file.crc:
            return [], []
        chunks = list(index.entries(number))
        found = read_entries(reader, list({entry for _, entry in chunks}))
    bad = [(tensor.path, entry) for tensor, entry in chunks if found[entry.name] != entry.crc]
    said = [
        f"tensor {t} in {file.name} has CRC-32 {found[e.name]:08x}, not {e.crc:08x} as when it was saved"
        for t, e in bad
    ]
    return said or [f"{file.name} has CRC-32 {crc:08x}, not {file.crc:08x} as when it was saved"], [t for t, _ in bad]


def link(store: Store, source: str, name: str, *, replace: bool) -> Entry:
    """Give a checkpoint another name: ``Store.link``, and where it is a folder ``FolderStore.point``."""
    if not is_directory(store, source):
        return store.link(source, name, replace=replace)
    assert isinstance(store, FolderStore), "only such a store has folders"
    store.point(source, name, replace=replace)
    entry = entry_of(store, name)
    assert entry is not None, "it was there when it was pointed at"
    return entry


def rename(store: Store, name: str, other: str) -> Entry:
    """Give a folder another name, which is free, in place of its own."""
    assert isinstance(store, FolderStore), "only such a store has folders"
    store.place_folder(name, other)
    entry = entry_of(store, other)
    if entry is None:
        raise StoreError("publish", other, OSError(errno.ENOENT, "it is a folder without a checkpoint's manifest"))
    return entry


def is_own_name(store: Store, name: str) -> bool:
    """Whether a checkpoint is a folder of that very name: one that no other name can replace, or go without."""
    return isinstance(store, FolderStore) and store.is_folder(name)


def remove(store: Store, name: str) -> None:
    """Remove a name, and what it stands for where that is a folder: durably, and as a whole."""
    if isinstance(store, FolderStore) and store.is_folder(name):
        store.remove_folder(name)
    else:
        store.remove(name)


@dataclass
class Draft:
    """A sharded checkpoint being written, by many processes: a folder that is none until it is published.

    Args:
        store: Where.
        temporary: The folder's name until then.
        owner: The run that writes it.
    """

    store: FolderStore
    temporary: str
    owner: str

    def create(self, file: str, *, size: int) -> Sink:
        """Begin a file in it, to be published as ``path(file)``."""
        return self.store.create(self.path(file), owner=self.owner, size=size)

    def path(self, file: str) -> str:
        """The name of a file in it, until it is published."""
        return f"{self.temporary}/{file}"

    def publish(self, name: str, *, replace: bool) -> Entry:
        """Make it visible as ``name``; fails as ``Sink.publish`` does, or with ``ENOSYS`` where none can be replaced.

        Args:
            name: Its name, which is free, or that of a folder.
            replace: Whether that folder is to go.
        """
        if replace:
            self.store.exchange_folder(self.temporary, name)
        else:
            self.store.place_folder(self.temporary, name)
        entry = entry_of(self.store, name)
        if entry is None:
            raise StoreError("publish", name, OSError(errno.ENOENT, "its manifest is not there"))
        return entry

    def discard(self) -> None:
        """Remove it, whoever still writes into it. Does nothing once it is published."""
        self.store.remove_folder(self.temporary)
