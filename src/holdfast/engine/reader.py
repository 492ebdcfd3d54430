"""Read a one-file checkpoint back: safely, verified while it is read, in whole or by parts."""

from __future__ import annotations

import pickle
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch

from holdfast.catalog import layout
from holdfast.catalog.manifest import EntryInfo, Manifest
from holdfast.catalog.verify import Damage, check_structure, describe, read_manifest
from holdfast.engine import pickling, plain, unpickling
from holdfast.engine.statetree import TensorRef, at, dotted, put_together, references, spelled
from holdfast.errors import ConfigError, Corrupt, Foreign, Incompatible, NotFound, StoreError
from holdfast.store import Reader

_CHUNK = 8 * 2**20

Location = torch.device | str | None | Callable[[torch.UntypedStorage, str], torch.UntypedStorage]
"""Where tensors go; ``CheckpointFile.whole`` says how."""


class CheckpointFile:
    """An open checkpoint. Opening checks manifest and structure; contents are checked as they are read.

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
            Incompatible: This machine lacks the device.
        """
        return self.parts([name], location=location)[name]

    def parts(self, names: Collection[str], *, location: torch.device | str | None = "cpu") -> dict[str, Any]:
        """Several parts; tensors that share memory between them still do."""
        filled = self._filled({name: self._piece(name) for name in names}, location)
        return {name: self._exact(filled[name], self.manifest.parts[name]) for name in filled}

    def whole(
        self,
        *,
        keys: Collection[str] | None = None,
        location: Location = "cpu",
        opaque: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The dictionary that the file holds, by the keys that other readers see too, every byte of it checked.

        Args:
            keys: The keys to read, of those that it has; None for all.
            location: The device that tensors go to; None for the one they were saved from; or what moves a storage,
                given it (in host memory) and the name of the device it was saved from.
            opaque: Values to put where the file has ones that are not plain, by dotted path, as ``opaque`` gives them;
                without, there is None.

        Raises:
            Corrupt: A storage of it is damaged; the sentence names its tensors and both checksums.
            Incompatible: This machine lacks the device, or the file holds something else than a dictionary.
        """
        if not isinstance(self._root, dict):
            raise Incompatible(f"holds a {type(self._root).__name__}, not a dictionary.", checkpoint=self.name)
        wanted = self._root if keys is None else {key: self._root[key] for key in keys if key in self._root}
        found: dict[str, Any] = self._exact(self._filled(wanted, location), ())
        return self._with_opaque(found, (), opaque) if opaque else found

    def opaque(self) -> dict[str, Any]:
        """The values that are not plain, by dotted path. Unpickles them: code in the file runs.

        Call it only for a file whose writer is trusted as much as one's own code.
        """
        if not self.manifest.opaque:
            return {}
        pickles = pickle.loads(self._read(self._entries[layout.OPAQUE_ENTRY]))  # noqa: S301 # asked for in so many words
        return {path: pickle.loads(value) for path, value in pickles.items()}  # noqa: S301

    def _filled(self, tree: dict[str, Any], location: Location) -> dict[str, Any]:
        """A tree with its tensors, over storages that were read, checked and moved."""
        wanted = {ref.storage: ref.location for ref in references(tree)}
        storages = self._read_storages(wanted)
        for key, saved_from in wanted.items():
            if callable(location):
                storages[key] = location(storages[key], saved_from)
            else:
                storages[key] = self._moved(storages[key], saved_from if location is None else str(location))
        filled: dict[str, Any] = put_together(tree, lambda ref: ref.over(storages[ref.storage]))
        return filled

    def _with_opaque(self, value: Any, path: tuple[Any, ...], opaque: Mapping[str, Any]) -> Any:
        name = self._name(path)
        if name in opaque:
            return opaque[name]
        if isinstance(value, dict):
            for key in value:
                value[key] = self._with_opaque(value[key], (*path, key), opaque)
        elif type(value) in (list, tuple):
            items = [self._with_opaque(item, (*path, i), opaque) for i, item in enumerate(value)]
            value = type(value)(items)
        return value

    def _name(self, path: tuple[Any, ...]) -> str:
        """The dotted name of a path, by its part where it is in one: what the manifest calls tensors and values."""
        for part, place in self.manifest.parts.items():
            if path[: len(place)] == place:
                return dotted((part, *path[len(place) :]))
        return dotted(path)

    def _piece(self, name: str) -> Any:
        if name not in self.manifest.parts:
            there = ", ".join(self.manifest.parts)
            raise NotFound(f"holds no part '{name}'. It holds: {there}.", checkpoint=self.name)
        try:
            return at(self._root, self.manifest.parts[name])
        except (KeyError, IndexError, TypeError) as error:
            raise self._corrupt(f"its manifest places the part '{name}' where there is none") from error

    def _read_tree(self) -> Any:
        entry = self._entries.get(layout.PICKLE_ENTRY)
        if entry is None:
            raise self._corrupt("it has no data.pkl")
        if entry.length > pickling.MAX_BYTES:  # before so much memory is asked for
            raise self._corrupt(f"its data.pkl has {entry.length:,} bytes, more than {pickling.MAX_BYTES:,}")
        try:
            root = unpickling.loads(self._read(entry))
        except unpickling.PickleError as error:
            raise self._corrupt(str(error)) from error
        found = list(references(root))
        for ref in found:
            self._check_bounds(ref)
        listed = Counter((t.storage, t.dtype, t.offset, t.shape, t.stride) for t in self.manifest.tensors)
        if listed != Counter((r.storage, r.dtype_name, r.offset, r.shape, r.stride) for r in found):
            raise self._corrupt("its manifest lists other tensors than it holds")
        return root

    def _check_bounds(self, ref: TensorRef) -> None:
        entry = self._entries.get(f"{layout.PREFIX}data/{ref.storage}")
        last = ref.offset + sum((n - 1) * s for n, s in zip(ref.shape, ref.stride, strict=True))
        extent = 0 if 0 in ref.shape else (last + 1) * ref.dtype.itemsize
        if entry is None or extent > entry.length or ref.dtype.itemsize == 0:
            raise self._corrupt(f"a tensor of shape {list(ref.shape)} is not inside its storage '{ref.storage}'")

    def _moved(self, storage: torch.UntypedStorage, device: str) -> torch.UntypedStorage:
        """The storage on a device: moved as a whole, so that tensors which share it still do."""
        if device == "cpu":
            return storage
        try:
            return torch.empty(0, dtype=torch.uint8).set_(storage).to(device).untyped_storage()
        except (
            RuntimeError,
            AssertionError,
        ) as error:  # PyTorch's two ways to say that there is no such device
            raise Incompatible(
                f"cannot be loaded to the device '{device}': {str(error).partition(chr(10))[0]}.",
                checkpoint=self.name,
                good="Nothing was loaded.",
                remedy="Load it with location='cpu'.",
            ) from error

    def _exact(self, value: Any, path: tuple[Any, ...]) -> Any:
        """The values of a part as they were, where the file holds their nearest plain ones."""
        types = self.manifest.types
        if not types:
            return value
        if isinstance(value, dict):
            for key in value:
                value[key] = self._exact(value[key], (*path, key))
            if isinstance(value, OrderedDict):
                vars(value).update({k: self._exact(v, (*path, k)) for k, v in vars(value).items()})
        elif type(value) in (list, tuple):
            value = type(value)(self._exact(item, (*path, i)) for i, item in enumerate(value))
        name = types.get(spelled(path))
        try:
            return value if name is None else plain.decode(name, value)
        except ConfigError as error:
            raise self._corrupt(str(error)) from error

    def _read_storages(self, keys: Iterable[str]) -> dict[str, torch.UntypedStorage]:
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
