"""Read a one-file checkpoint back: safely, verified while it is read, in whole or by parts."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Collection
from typing import Any

import torch

from holdfast.catalog import layout
from holdfast.catalog.manifest import EntryInfo, Manifest
from holdfast.catalog.verify import Damage, check_structure, describe, read_manifest
from holdfast.engine import pickling, plain
from holdfast.engine.statetree import TensorRef, at, put_together, references
from holdfast.errors import Corrupt, Foreign, NotFound, StoreError
from holdfast.store import Reader

_CHUNK = 8 * 2**20


class CheckpointFile:
    """An open checkpoint. Opening reads and checks the manifest and the structure; contents are checked as they are read.

    Args:
        reader: The open file; closed by whoever opened it.
        name: What to call it in an error.
        good: What is still good, said by an error about damage.

    Raises:
        Corrupt: It is damaged.
        Foreign: Holdfast did not write it.
    """

    def __init__(self, reader: Reader, *, name: str, good: str = "") -> None:
        self.name = name
        self._reader = reader
        self._good = good
        try:
            manifest = read_manifest(reader)
            if manifest is not None:
                check_structure(reader, manifest)
        except (Damage, StoreError) as error:
            raise self._corrupt(str(error)) from error
        if manifest is None:
            raise Foreign("was not written by Holdfast, and says nothing of its parts.", checkpoint=name)
        self.manifest: Manifest = manifest
        self._entries = {entry.name: entry for entry in manifest.entries}
        self._root = self._read_tree()

    def part(self, name: str, *, location: torch.device | str | None = "cpu") -> Any:
        """One part's state, with every byte of it checked.

        Args:
            name: A name among ``manifest.parts``.
            location: The device that tensors go to; None for the one they were saved from.

        Raises:
            NotFound: There is no such part; the sentence lists those there are.
            Corrupt: A storage of it is damaged; the sentence names its tensors and both checksums.
        """
        return self.parts([name], location=location)[name]

    def parts(self, names: Collection[str], *, location: torch.device | str | None = "cpu") -> dict[str, Any]:
        """Several parts; tensors that share memory between them still do."""
        found = {name: self._piece(name) for name in names}
        wanted = dict.fromkeys(ref.storage for ref in references(found))
        storages = self._read_storages(tuple(wanted))

        def fill(ref: TensorRef) -> torch.Tensor:
            tensor = ref.over(storages[ref.storage])
            device = ref.location if location is None else location
            return tensor if str(device) == "cpu" else tensor.to(device)

        filled = put_together(found, fill)
        return {name: _exact(filled[name], name, self.manifest.types) for name in found}

    def opaque(self) -> dict[str, Any]:
        """The values that are not plain, by dotted path. Unpickles them: code in the file runs.

        Call it only for a file whose writer is trusted as much as one's own code.
        """
        if not self.manifest.opaque:
            return {}
        pickles = pickle.loads(self._read(self._entries[layout.OPAQUE_ENTRY]))  # noqa: S301 # asked for in so many words
        return {path: pickle.loads(value) for path, value in pickles.items()}  # noqa: S301

    def _piece(self, name: str) -> Any:
        try:
            return at(self._root, self.manifest.parts[name])
        except (KeyError, IndexError, TypeError) as error:
            there = ", ".join(self.manifest.parts)
            raise NotFound(f"holds no part '{name}'. It holds: {there}.", checkpoint=self.name) from error

    def _read_tree(self) -> Any:
        entry = self._entries.get(layout.PICKLE_ENTRY)
        if entry is None:
            raise self._corrupt("it has no data.pkl")
        try:
            root = pickling.loads(self._read(entry))
        except pickling.PickleError as error:
            raise self._corrupt(str(error)) from error
        for ref in references(root):
            self._check_bounds(ref)
        return root

    def _check_bounds(self, ref: TensorRef) -> None:
        entry = self._entries.get(f"{layout.PREFIX}data/{ref.storage}")
        last = ref.offset + sum((n - 1) * s for n, s in zip(ref.shape, ref.stride, strict=True))
        extent = 0 if 0 in ref.shape else (last + 1) * ref.dtype.itemsize
        if entry is None or extent > entry.length or ref.dtype.itemsize == 0:
            raise self._corrupt(f"a tensor of shape {list(ref.shape)} lies outside its storage '{ref.storage}'")

    def _read_storages(self, keys: Collection[str]) -> dict[str, torch.UntypedStorage]:
        """Read storages and check them; all damage is reported at once."""
        storages: dict[str, torch.UntypedStorage] = {}
        damaged: dict[str, tuple[int, int]] = {}
        for key in keys:
            entry = self._entries[f"{layout.PREFIX}data/{key}"]
            storage = torch.UntypedStorage(entry.length)  # type: ignore[no-untyped-call]  # torch's stubs lack it
            memory: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
            found = self._read_into(entry, memoryview(memory))
            if found != entry.crc:
                damaged[entry.name] = (entry.crc, found)
            storages[key] = storage
        if damaged:
            raise self._corrupt(describe(self.manifest, damaged))
        return storages

    def _read(self, entry: EntryInfo) -> bytes:
        buffer = bytearray(entry.length)
        found = self._read_into(entry, memoryview(buffer))
        if found != entry.crc:
            raise self._corrupt(describe(self.manifest, {entry.name: (entry.crc, found)}))
        return bytes(buffer)

    def _read_into(self, entry: EntryInfo, target: memoryview) -> int:
        crc = 0
        for start in range(0, entry.length, _CHUNK):
            piece = target[start : start + _CHUNK]
            try:
                self._reader.read_into(entry.offset + start, piece)
            except StoreError as error:
                raise self._corrupt(str(error)) from error
            crc = zlib.crc32(piece, crc)
        return crc

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(
            f"is corrupt: {why.rstrip('.')}.",
            checkpoint=self.name,
            good=self._good,
            remedy="Nothing was loaded.",
        )


def _exact(value: Any, path: str, types: dict[str, str] | Any) -> Any:
    """The values of a part as they were, where the file holds their nearest plain ones."""
    if not any(name == path or name.startswith(path + ".") for name in types):
        return value
    if isinstance(value, dict):
        for key in value:
            value[key] = _exact(value[key], f"{path}.{key}", types)
    elif type(value) in (list, tuple):
        value = type(value)(_exact(item, f"{path}.{i}", types) for i, item in enumerate(value))
    return plain.decode(types[path], value) if path in types else value
