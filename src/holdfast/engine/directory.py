"""Read a sharded checkpoint back: verified while it is read, whole tensors or this rank's part of them."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from typing_extensions import Self

from holdfast.catalog import directories
from holdfast.catalog.manifest import Manifest
from holdfast.catalog.sharded import INDEX, STATE, Chunk, Sharded, entry
from holdfast.catalog.verify import Damage, Verdict, read_entries
from holdfast.engine.moving import Location, Move
from holdfast.engine.reader import CheckpointFile
from holdfast.engine.statetree import TensorRef, at
from holdfast.errors import Corrupt, StoreError
from holdfast.store import Reader, Store

Like = Callable[[str], torch.Tensor | None]
"""Given a tensor's name, the tensor that it is to replace: where that is divided, only this rank's part is read."""

_STRAIGHT = torch.device("cpu")


class CheckpointDirectory:
    """An open sharded checkpoint. Opening reads its index; what lies in its files is checked as it is read.

    Args:
        store: Where it is.
        directory: Its name there.
        name: What to call it in an error.
        good: What is still good, said by an error about damage.

    Raises:
        Corrupt: It is damaged.
        StoreError: It is gone (``errno.ENOENT``), or cannot be read.
    """

    def __init__(self, store: Store, directory: str, *, name: str, good: str = "") -> None:
        self.name = name
        self._store, self._directory, self._good = store, directory, good
        self._stack = ExitStack()
        self._readers: dict[int, Reader] = {}
        try:
            self.index = directories.read_index(store, directory)
        except Damage as error:
            raise self._corrupt(str(error)) from error
        self.manifest: Manifest = self.index.manifest
        try:
            self._file = CheckpointFile(self._reader(0), name=f"{name}/{STATE}", good=good)
            if self._file.manifest.id != self.manifest.id:
                raise self._corrupt(f"its {STATE} is of another checkpoint")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def rest(self) -> CheckpointFile:
        """The file with all that is not in shards; None stands for what is."""
        return self._file

    @property
    def readers(self) -> list[Reader]:
        """All files, in the order of the index, open as long as this is."""
        return [self._reader(number) for number in range(len(self.index.files))]

    def verify(self) -> None:
        """Look at every byte of every file.

        Raises:
            Corrupt: Something is damaged, missing, or of another checkpoint.
        """
        finding, _ = directories.verify(self._store, self._directory, ours=True)
        if finding.verdict is not Verdict.WHOLE:
            raise self._corrupt(finding.why)

    def part(self, name: str, *, location: torch.device | str | None = "cpu", dtype: torch.dtype | None = None) -> Any:
        """One part's state, as ``CheckpointFile.part`` gives it."""
        return self.parts([name], location=location, dtype=dtype)[name]

    def parts(
        self,
        names: Collection[str],
        *,
        location: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
        mapped: Collection[str] = (),
    ) -> dict[str, Any]:
        """Several parts, as ``CheckpointFile.parts`` gives them; ``mapped`` has no effect.

        Raises:
            NotFound: There is no such part.
            Corrupt: A tensor of it is damaged; the sentence names it, its file and both checksums.
        """
        states = self._file.parts(names, location=location, dtype=dtype)
        for tensor in self.index.tensors:
            for name in names:
                place = self.manifest.parts[name]
                if tensor.place[: len(place)] == place:
                    whole = self._moved(self._whole(tensor), location or "cpu", dtype)
                    if tensor.place == place:
                        states[name] = whole
                    else:
                        self._put(states[name], tensor, tensor.place[len(place) :], whole)
        return states

    def tensor(
        self, name: str, *, location: torch.device | str | None = "cpu", dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """One tensor, as ``CheckpointFile.tensor`` gives it."""
        found = next((tensor for tensor in self.index.tensors if tensor.path == name), None)
        if found is None:
            return self._file.tensor(name, location=location, dtype=dtype)
        return self._moved(self._whole(found), location or "cpu", dtype)

    def whole(
        self,
        *,
        keys: Collection[str] | None = None,
        location: Location = "cpu",
        opaque: Mapping[str, Any] | None = None,
        mapped: Collection[str] = (),
        like: Like = lambda name: None,
    ) -> dict[str, Any]:
        """The dictionary that was saved, as ``CheckpointFile.whole`` gives it; ``mapped`` has no effect.

        Args:
            keys: As there.
            location: As there.
            opaque: As there.
            mapped: As there.
            like: What each tensor is to replace: of one that is divided over ranks, this rank's part alone is read, and
                given divided alike.

        Raises:
            Corrupt: A tensor is damaged, or a file is missing.
        """
        state = self._file.whole(keys=keys, location=location, opaque=opaque)
        for tensor in self.index.tensors:
            if tensor.place[0] in state:
                self._put(state, tensor, tensor.place, self._alike(tensor, like(tensor.path), location))
        return state

    def opaque(self) -> dict[str, Any]:
        """The values that are not plain, as ``CheckpointFile.opaque`` gives them: code in the file runs."""
        return self._file.opaque()

    def _alike(self, tensor: Sharded, like: torch.Tensor | None, location: Location) -> torch.Tensor:
        if like is None or not hasattr(like, "device_mesh") or tuple(like.shape) != tensor.shape:
            return self._moved(self._whole(tensor), location, None)
        from torch.distributed.tensor import DTensor

        from holdfast.engine.shards import region

        assert isinstance(like, DTensor), "only that has a mesh"
        offsets, local = region(like)
        part = self._read(tensor, offsets, tuple(local.shape)).to(local.device)
        return DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def _whole(self, tensor: Sharded) -> torch.Tensor:
        return self._read(tensor, (0,) * len(tensor.shape), tensor.shape)

    def _read(self, tensor: Sharded, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
        """A part of a tensor; only the chunks that have something of it are read, one at a time."""
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        found = None
        for chunk in tensor.chunks:
            both = _overlap(offsets, sizes, chunk)
            if both is None:
                continue
            part = self._elements(tensor, chunk, dtype)
            if (chunk.offsets, chunk.sizes) == (offsets, sizes):
                return part
            found = torch.zeros(sizes, dtype=dtype, device="cpu") if found is None else found
            here = tuple(slice(a - o, b - o) for (a, b), o in zip(both, offsets, strict=True))
            there = tuple(slice(a - o, b - o) for (a, b), o in zip(both, chunk.offsets, strict=True))
            found[here] = part[there]
        return torch.zeros(sizes, dtype=dtype, device="cpu") if found is None else found

    def _elements(self, tensor: Sharded, chunk: Chunk, dtype: torch.dtype) -> torch.Tensor:
        """All of a chunk, checked."""
        memory = torch.empty(chunk.length, dtype=torch.uint8, device="cpu")
        file, place = self.index.files[chunk.file].name, entry(chunk)
        try:
            crc = read_entries(self._reader(chunk.file), [place], {place.name: memory.numpy().data})[place.name]
        except StoreError as error:
            raise self._corrupt(f"tensor {tensor.path} in {file} cannot be read: {error}") from error
        if crc != chunk.crc:
            raise self._corrupt(
                f"tensor {tensor.path} in {file} has CRC-32 {crc:08x}, not {chunk.crc:08x} as when it was saved"
            )
        bytes = math.prod(chunk.sizes) * dtype.itemsize
        return memory[chunk.start : chunk.start + bytes].view(dtype).reshape(chunk.sizes)

    def _reader(self, file: int) -> Reader:
        if file not in self._readers:
            name = self.index.files[file].name
            try:
                reader = self._stack.enter_context(self._store.open(f"{self._directory}/{name}"))
            except StoreError as error:
                if error.errno == errno.ENOENT and self._store.stat(f"{self._directory}/{INDEX}") is None:
                    raise  # evicted while it was read
                raise self._corrupt(f"its file {name} cannot be opened: {error}") from error
            if reader.bytes != self.index.files[file].bytes:
                there = self.index.files[file].bytes
                raise self._corrupt(f"{name} has {reader.bytes:,} bytes, not {there:,} as when it was saved")
            self._readers[file] = reader
        return self._readers[file]

    def _moved(self, tensor: torch.Tensor, location: Location, dtype: torch.dtype | None) -> torch.Tensor:
        if location is None:
            location = "cpu"
        if dtype is None and not callable(location) and torch.device(location) == _STRAIGHT:
            return tensor
        tensor = tensor.clone(memory_format=torch.contiguous_format)  # of its own memory, and nothing else in it
        ref = TensorRef("", "0", "cpu", tensor.dtype, tuple(tensor.shape), tensor.stride(), 0)
        move = Move([ref], location, dtype, checkpoint=self.name)
        return move.ref(ref).over(move.made(tensor.untyped_storage()))

    def _put(self, state: Any, tensor: Sharded, place: tuple[str | int, ...], value: torch.Tensor) -> None:
        try:
            home = at(state, place[:-1])
            if home[place[-1]] is not None:
                raise self._corrupt(f"its {STATE} has something in the place of tensor {tensor.path}")
            home[place[-1]] = value
        except (KeyError, IndexError, TypeError) as error:
            raise self._corrupt(f"its manifest places tensor {tensor.path} where there is nothing") from error

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(
            f"is corrupt: {why.rstrip('.')}.", checkpoint=self.name, good=self._good, remedy="Nothing was loaded."
        )


Checkpoint = CheckpointFile | CheckpointDirectory


@contextmanager
def opened(store: Store, checkpoint: str, *, name: str, good: str = "") -> Iterator[Checkpoint]:
    """A checkpoint, whether it is a file or a folder.

    Args:
        store: Where it is.
        checkpoint: Its name there.
        name: What to call it in an error.
        good: What is still good, said by an error about damage.

    Raises:
        StoreError: It cannot be read.
        Corrupt: It is damaged.
        Foreign: Holdfast did not write it.
    """
    if directories.is_directory(store, checkpoint):
        with CheckpointDirectory(store, checkpoint, name=name, good=good) as found:
            yield found
    else:
        with store.open(checkpoint) as reader:
            yield CheckpointFile(reader, name=name, good=good)


def _overlap(offsets: tuple[int, ...], sizes: tuple[int, ...], chunk: Chunk) -> list[tuple[int, int]] | None:
    """What of a chunk lies in a part of the tensor, from and to, by dimension; None where nothing does."""
    found = [
        (max(o, co), min(o + s, co + cs))
        for o, s, co, cs in zip(offsets, sizes, chunk.offsets, chunk.sizes, strict=True)
    ]
    return found if all(a < b for a, b in found) else None
