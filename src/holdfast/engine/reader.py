"""Read a one-file checkpoint back: safely, verified while it is read, in whole or by parts."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from holdfast.catalog import layout
from holdfast.catalog.manifest import MAX_BYTES, EntryInfo, Manifest
from holdfast.catalog.verify import Damage, check_structure, describe, read_entries, read_manifest
from holdfast.engine import plain, unpickling
from holdfast.engine.moving import Location, Move
from holdfast.engine.statetree import TensorRef, at, dotted, put_together, references, spelled
from holdfast.errors import ConfigError, Corrupt, Foreign, Incompatible, NotFound, StoreError
from holdfast.store import Reader


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

    def part(self, name: str, *, location: torch.device | str | None = "cpu", dtype: torch.dtype | None = None) -> Any:
        """One part's state, with every byte of it checked.

        Args:
            name: A name among ``manifest.parts``.
            location: The device that tensors go to; None for the one they were saved from.
            dtype: The data type that floating-point tensors get; None for the one they were saved with.

        Raises:
            NotFound: There is no such part; the sentence lists those there are.
            Corrupt: A storage of it is damaged; the sentence names its tensors and both checksums.
            Incompatible: This machine lacks the device, or a memory is seen through several data types.
        """
        return self.parts([name], location=location, dtype=dtype)[name]

    def parts(
        self,
        names: Collection[str],
        *,
        location: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
        mapped: Collection[str] = (),
    ) -> dict[str, Any]:
        """Several parts, as ``part`` gives one; tensors that share memory between them still do.

        Args:
            names: Names among ``manifest.parts``.
            location: As for ``part``.
            dtype: As for ``part``.
            mapped: Those of them whose tensors are copied from and let go, as ``Module.load_state_dict`` does. They lie
                in the pages of the file, where its store has them, and take no memory that the system cannot have
                back. Kept for longer they are private and may be written to, but keep the file's space on the disk.
        """
        states = {name: self._piece(name) for name in names}
        filled = self._filled(states, location, dtype, {name for name in names if name not in mapped})
        return {name: self._exact(filled[name], self.manifest.parts[name]) for name in filled}

    def tensor(
        self, name: str, *, location: torch.device | str | None = "cpu", dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """One tensor; the storage that it is in is read and checked, and nothing else.

        Args:
            name: Its dotted path, which begins with its part's name, as ``manifest.tensors`` has it.
            location: As for ``part``.
            dtype: As for ``part``.

        Raises:
            NotFound: There is no tensor of that name.
            Corrupt: Its storage is damaged.
            Incompatible: This machine lacks the device.
        """
        info = next((tensor for tensor in self.manifest.tensors if tensor.path == name), None)
        if info is None:
            parts = ", ".join(self.manifest.parts)
            raise NotFound(f"holds no tensor '{name}'. It holds the parts {parts}.", checkpoint=self.name)
        saved_as = getattr(torch, info.dtype)
        ref = TensorRef(name, info.storage, "cpu", saved_as, info.shape, info.stride, info.offset)
        self._check_bounds(ref)
        found: torch.Tensor = self._filled({name: ref}, location, dtype, {name})[name]
        return found

    def whole(
        self,
        *,
        keys: Collection[str] | None = None,
        location: Location = "cpu",
        opaque: Mapping[str, Any] | None = None,
        mapped: Collection[str] = (),
    ) -> dict[str, Any]:
        """The dictionary that the file holds, by the keys that other readers see too, every byte of it checked.

        Args:
            keys: The keys to read, of those that it has; None for all.
            location: The device that tensors go to; None for the one they were saved from; or what moves a storage,
                given it (in host memory) and the name of the device it was saved from.
            opaque: Values to put where the file has ones that are not plain, by dotted path, as ``opaque`` gives them;
                without, there is None.
            mapped: Keys whose tensors are copied from and let go, as for ``parts``.

        Raises:
            Corrupt: A storage of it is damaged; the sentence names its tensors and both checksums.
            Incompatible: This machine lacks the device, or the file holds something else than a dictionary.
        """
        if not isinstance(self._root, dict):
            raise Incompatible(f"holds a {type(self._root).__name__}, not a dictionary.", checkpoint=self.name)
        wanted = self._root if keys is None else {key: self._root[key] for key in keys if key in self._root}
        kept = {key for key in wanted if key not in mapped}
        found: dict[str, Any] = self._exact(self._filled(wanted, location, None, kept), ())
        return self._with_opaque(found, (), opaque) if opaque else found

    def opaque(self) -> dict[str, Any]:
        """The values that are not plain, by dotted path. Unpickles them: code in the file runs.

        Call it only for a file whose writer is trusted as much as one's own code.
        """
        if not self.manifest.opaque:
            return {}
        pickles = pickle.loads(self._content(self._entries[layout.OPAQUE_ENTRY]))  # noqa: S301 # asked for in so many words
        return {path: pickle.loads(value) for path, value in pickles.items()}  # noqa: S301

    def pickles(self) -> dict[str, bytes]:
        """The values that are not plain, by dotted path, each as the pickle that it was made: runs no code."""
        if not self.manifest.opaque:
            return {}
        try:
            found = _NoClasses(io.BytesIO(self._content(self._entries[layout.OPAQUE_ENTRY]))).load()
        except Exception as error:  # a pickle may raise anything
            raise self._corrupt(f"its {layout.OPAQUE_ENTRY} is no table of pickles: {error}") from error
        if not isinstance(found, dict) or not all(type(v) is bytes for v in found.values()):
            raise self._corrupt(f"its {layout.OPAQUE_ENTRY} is no table of pickles")
        return found

    def lent(self) -> tuple[Any, dict[str, torch.UntypedStorage]]:
        """The state as the file holds it, with a ``TensorRef`` for each tensor, and the storages behind them.

        They are read and checked, and lie in the pages of the file, where its store has them.
        """
        keys = dict.fromkeys((ref.storage for ref in references(self._root)), False)
        return self._root, self._read_storages(keys)

    def _filled(
        self, tree: dict[str, Any], location: Location, dtype: torch.dtype | None, kept: Collection[str]
    ) -> dict[str, Any]:
        """A tree with its tensors, over storages that were read, checked, converted and moved.

        Args:
            tree: What to fill.
            location: Where to.
            dtype: For floating-point tensors.
            kept: Keys of ``tree`` whose tensors somebody keeps, and so are to have memory of their own.
        """
        wanted: dict[str, list[TensorRef]] = defaultdict(list)
        for ref in references(tree):
            wanted[ref.storage].append(ref)
        moves = {key: Move(refs, location, dtype, checkpoint=self.name) for key, refs in wanted.items()}
        own = {ref.storage for key in kept for ref in references(tree[key])}
        storages = self._read_storages({key: key in own and move.stays for key, move in moves.items()})
        for key, move in moves.items():
            storages[key] = move.made(storages[key])
        filled: dict[str, Any] = put_together(tree, lambda ref: moves[ref.storage].ref(ref).over(storages[ref.storage]))
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
        root = self._root
        try:
            return at(root, self.manifest.parts[name])
        except (KeyError, IndexError, TypeError) as error:
            raise self._corrupt(f"its manifest places the part '{name}' where there is none") from error

    @cached_property
    def _root(self) -> Any:
        """The tree, read when the first part is asked for."""
        entry = self._entries.get(layout.PICKLE_ENTRY)
        if entry is None:
            raise self._corrupt("it has no data.pkl")
        if entry.length > MAX_BYTES:  # before so much memory is asked for
            raise self._corrupt(f"its data.pkl has {entry.length:,} bytes, more than {MAX_BYTES:,}")
        try:
            root = unpickling.loads(self._content(entry))
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

    def _read_storages(self, own: Mapping[str, bool]) -> dict[str, torch.UntypedStorage]:
        """Read storages and check them; all damage is reported at once.

        Args:
            own: Key to whether it is to have memory of its own; others lie in the mapped file, where there is a map.
        """
        entries = {key: self._entries[f"{layout.PREFIX}data/{key}"] for key in own}
        map = None if all(own.values()) else self._reader.mapped()
        storages: dict[str, torch.UntypedStorage] = {}
        into: dict[str, memoryview] = {}
        for key, entry in entries.items():
            if map is not None and not own[key] and entry.length:
                pages = torch.frombuffer(map, dtype=torch.uint8, offset=entry.offset, count=entry.length)
                storages[key] = pages.untyped_storage()
            else:
                storages[key] = torch.UntypedStorage(entry.length)  # type: ignore[no-untyped-call]  # torch's stubs lack it
                memory: Any = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storages[key]).numpy()
                into[entry.name] = memory.data
        self._read(list(entries.values()), into)
        return storages

    def _content(self, entry: EntryInfo) -> bytes:
        buffer = bytearray(entry.length)
        self._read([entry], {entry.name: memoryview(buffer)})
        return bytes(buffer)

    def _read(self, entries: Sequence[EntryInfo], into: Mapping[str, memoryview]) -> None:
        """Read contents into memory, and check every one. What is mapped has been read too, and so can be touched."""
        try:
            found = read_entries(self._reader, entries, into)
        except StoreError as error:
            raise self._corrupt(str(error)) from error
        damaged = {entry.name: (entry.crc, found[entry.name]) for entry in entries if found[entry.name] != entry.crc}
        if damaged:
            raise self._corrupt(describe(self.manifest, damaged))

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(
            f"is corrupt: {why.rstrip('.')}.",
            checkpoint=self.name,
            good=self._good,
            remedy="Nothing was loaded.",
        )


class _NoClasses(pickle.Unpickler):
    """Builds what needs no class: texts, bytes and dictionaries of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")
