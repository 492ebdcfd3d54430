"""The index of a sharded checkpoint: what lies in which of its files. Immutable, JSON; no torch, no I/O."""

from __future__ import annotations

import builtins
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.catalog.checksums import crc32
from holdfast.catalog.manifest import (
    ITEM_BYTES,
    MAX_BYTES,
    EntryInfo,
    Manifest,
    ManifestError,
    checksum,
    count,
    key,
    parse,
    rows,
    text,
)

FORMAT = 1
INDEX = ".holdfast/manifest.json"
STATE = "state.ckpt"
STOCK = ".metadata"
_SHARD = re.compile(r"__\d+_\d+\.distcp")
_HEAD = re.compile(rb'\{"crc":"([0-9a-f]{8})","index":')
_HEAD_BYTES = len(b'{"crc":"00000000","index":')


class Chunk(NamedTuple):
    """A part of a tensor, in a file.

    Args:
        offsets: Of its first element in the whole tensor, by dimension.
        sizes: Its own size, by dimension.
        file: Which of the index's files, from 0.
        offset: Of the first byte in that file.
        length: In bytes, with what makes of it a file of PyTorch's.
        start: Of the first element's byte, counted from ``offset``; all lie in a row from there.
        crc: CRC-32 of all those bytes.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: int
    offset: int
    length: int
    start: int
    crc: int


class Sharded(NamedTuple):
    """A tensor in chunks.

    Args:
        path: Dotted name, which begins with its part's; optimizer state by the name of its parameter.
        place: Keys and indices that lead to it in the state.
        dtype: Data type by name.
        shape: Of the whole.
        chunks: Together they are the whole.
    """

    path: str
    place: tuple[str | int, ...]
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class FileInfo(NamedTuple):
    """One file of the folder: name, length in bytes, CRC-32."""

    name: str
    bytes: int
    crc: int


@dataclass(frozen=True)
class Index:
    """All that lies in the folder of a sharded checkpoint; docs/format.md, "Sharded checkpoints", says each field.

    Args:
        manifest: What the checkpoint is, and what its ``state.ckpt`` holds.
        files: Every file but the index itself.
        tensors: Those that are in chunks.
    """

    manifest: Manifest
    files: tuple[FileInfo, ...]
    tensors: tuple[Sharded, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files but the index itself."""
        return sum(file.bytes for file in self.files)

    def to_bytes(self) -> builtins.bytes:
        """The JSON of the index, with its own CRC-32 in front."""
        data = {
            "format": FORMAT,
            "manifest": json.loads(self.manifest.to_bytes()),
            "files": [[f.name, f.bytes, f"{f.crc:08x}"] for f in self.files],
            "tensors": [
                [t.path, list(t.place), t.dtype, list(t.shape), [[*c[:-1], f"{c.crc:08x}"] for c in t.chunks]]
                for t in self.tensors
            ],
        }
        inner = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        return b'{"crc":"%08x","index":%s}\n' % (crc32(inner), inner)

    @classmethod
    def from_bytes(cls, raw: builtins.bytes) -> Index:
        """Read and check an index.

        Raises:
            ManifestError: It is damaged, of a later format, or contradicts itself.
        """
        head = _HEAD.match(raw)
        inner = raw[_HEAD_BYTES:-2]
        if head is None or not raw.endswith(b"}\n") or crc32(inner) != int(head[1], 16):
            raise ManifestError("it is cut short or changed: its bytes have another CRC-32 than it says")
        data = parse(inner)
        known = data.get("format")
        if type(known) is not int or known != FORMAT:
            raise ManifestError(f"format {known!r:.80} is not {FORMAT}, the one this version reads")
        try:
            index = cls(
                Manifest.from_bytes(json.dumps(data["manifest"]).encode()),
                tuple(FileInfo(text(n), count(size), checksum(c)) for n, size, c in rows(data["files"])),
                tuple(map(_sharded, rows(data["tensors"]))),
            )
        except ManifestError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ManifestError(f"a field is missing or of the wrong kind: {error!r}") from error
        _check(index)
        return index

    def entries(self, file: int) -> Iterator[tuple[Sharded, EntryInfo]]:
        """The chunks in one of the files, as ranges of it."""
        for tensor in self.tensors:
            for chunk in tensor.chunks:
                if chunk.file == file:
                    yield tensor, entry(chunk)


def entry(chunk: Chunk) -> EntryInfo:
    """A chunk as a range of its file."""
    return EntryInfo(f"{chunk.file}@{chunk.offset}", chunk.offset, chunk.length, chunk.crc)


def _sharded(row: Sequence[Any]) -> Sharded:
    path, place, dtype, shape, chunks = row
    if dtype not in ITEM_BYTES:
        raise ManifestError(f"tensor {path!r:.200} has a data type that is not known: {dtype!r:.80}")
    found = tuple(_chunk(chunk) for chunk in rows(chunks))
    return Sharded(text(path), tuple(map(key, rows(place))), dtype, tuple(map(count, rows(shape))), found)


def _chunk(row: Sequence[Any]) -> Chunk:
    offsets, sizes, file, offset, length, start, crc = row
    places = tuple(map(count, rows(offsets))), tuple(map(count, rows(sizes)))
    return Chunk(*places, count(file), count(offset), count(length), count(start), checksum(crc))


def _check(index: Index) -> None:
    """What the fields say of each other: files are those of such a folder, chunks lie in them and make up tensors."""
    names = [file.name for file in index.files]
    if names[:2] != [STATE, STOCK] or len(set(names)) != len(names) or not all(map(_SHARD.fullmatch, names[2:])):
        raise ManifestError("it lists other files than a sharded checkpoint has")
    if sum(file.bytes for file in index.files) > 2**62 or len(index.tensors) > MAX_BYTES:
        raise ManifestError("it lists more than a disk can hold")
    for tensor in index.tensors:
        if len(tensor.shape) > 64 or not tensor.place:
            raise ManifestError(f"tensor {tensor.path} is nowhere, or has too many dimensions")
        if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.shape):
            raise ManifestError(f"the chunks of tensor {tensor.path} do not make up the whole of it")
        if len({chunk.offsets for chunk in tensor.chunks}) != len(tensor.chunks):
            raise ManifestError(f"two chunks of tensor {tensor.path} are the same part of it")
        for chunk in tensor.chunks:
            _check_chunk(tensor, chunk, index.files)


def _check_chunk(tensor: Sharded, chunk: Chunk, files: Sequence[FileInfo]) -> None:
    if not 2 <= chunk.file < len(files) or chunk.offset + chunk.length > files[chunk.file].bytes:
        raise ManifestError(f"a chunk of tensor {tensor.path} is not inside its file")
    if not len(chunk.offsets) == len(chunk.sizes) == len(tensor.shape) or any(
        offset + size > whole for offset, size, whole in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True)
    ):
        raise ManifestError(f"a chunk of tensor {tensor.path} is not inside it")
    if chunk.start + math.prod(chunk.sizes) * ITEM_BYTES[tensor.dtype] > chunk.length or chunk.start % 64:
        raise ManifestError(f"the elements of a chunk of tensor {tensor.path} are not inside it")
