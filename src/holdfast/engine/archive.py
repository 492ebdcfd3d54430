"""Turn a snapshot into the bytes of a checkpoint, each at its final offset. Knows no folder and no names."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.catalog import layout
from holdfast.catalog.checksums import crc32
from holdfast.catalog.manifest import MAX_BYTES, EntryInfo, Manifest, TensorInfo
from holdfast.engine import pickling
from holdfast.engine.device import There
from holdfast.engine.snapshot import Snapshot
from holdfast.engine.stream import Stream
from holdfast.errors import ConfigError
from holdfast.store import Sink

MEMORY = 64 * 2**20
"""Bytes of buffers that a write takes at most, unless it is told otherwise."""
OF_A_GPU = 4 * 2**30
"""The same where a GPU lends the state: it gives much more in a second than a disk takes, and would wait for it."""


class Afar(Protocol):
    """Content that lies elsewhere, and is fetched as it is written."""

    def nbytes(self) -> int:
        """How long it is."""
        ...

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """The bytes from one place to another. Several threads may ask at once."""
        ...


Content = bytes | torch.UntypedStorage | Afar


@dataclass(frozen=True)
class Archive:
    """A checkpoint laid out: every byte has its place, none is written yet.

    Args:
        manifest: Complete but for the CRC-32s, which are zero.
        contents: Entry name to its content: small ones as bytes, storages as memory, or afar.
        layout: Where each goes; the last slot is the manifest's.
    """

    manifest: Manifest
    contents: Mapping[str, Content]
    layout: layout.Layout

    @property
    def bytes(self) -> int:
        """The length of the file."""
        return self.layout.bytes


def lay_out(snapshot: Snapshot, manifest: Manifest) -> Archive:
    """Compute the file of a snapshot.

    Args:
        snapshot: The tree, as the pickle is to hold it, and the storages.
        manifest: All that is known of the checkpoint but its bytes; tensors, entries, opaque and types are
            filled in here.

    Raises:
        ConfigError: The plain values, or the list of tensors, are longer than a reader accepts.
    """
    tree = snapshot.tree
    contents: dict[str, Content] = {
        layout.FORMAT_ENTRY: layout.FORMAT_SIGN,
        layout.PICKLE_ENTRY: pickling.dumps(tree.root, lambda key: tree.storages[key].nbytes()),
        **layout.FIXED,
    }
    contents.update({f"{layout.PREFIX}data/{key}": _here(held, snapshot) for key, held in tree.storages.items()})
    if snapshot.opaque:
        contents[layout.OPAQUE_ENTRY] = pickle.dumps(dict(snapshot.opaque), protocol=4)
    sizes = [(name, _length(content)) for name, content in contents.items()]
    places = layout.compute(sizes).slots
    whole = replace(
        manifest,
        tensors=tuple(TensorInfo(t.path, t.dtype_name, t.shape, t.stride, t.storage, t.offset) for t in tree.tensors),
        entries=tuple(EntryInfo(s.name, s.offset, s.length, 0) for s in places),
        opaque=tuple(snapshot.opaque),
        types=dict(tree.types),
    )
    length = len(whole.to_bytes())
    if length > MAX_BYTES:
        raise ConfigError(
            f"The list of {len(tree.tensors):,} tensors takes {length:,} bytes, more than {MAX_BYTES:,}.",
            remedy="Keep them stacked, as fewer and larger tensors.",
        )
    final = layout.compute([*sizes, (layout.MANIFEST_ENTRY, length)])
    return Archive(whole, contents, final)


def write(
    archive: Archive, sink: Sink, *, memory: int | None = None, read: Callable[[], None] = lambda: None
) -> Manifest:
    """Write all bytes, on a few threads; the checksums are taken on the way and filled in at the end.

    Args:
        archive: What to write.
        sink: Where to.
        memory: Bytes of memory that the threads may take for buffers, whatever the length of the file; ``MEMORY`` or
            ``OF_A_GPU`` by default. Reading is ahead of the disk by so much.
        read: Called once, on some thread, when the contents have been read for the last time.

    Returns:
        The manifest with its CRC-32s, as it stands in the file.

    Raises:
        StoreError: A write failed, on any thread.
    """
    *slots, last = archive.layout.slots
    contents = [_readable(archive.contents[slot.name]) for slot in slots]
    if memory is None:
        memory = OF_A_GPU if any(isinstance(content, There) for content in contents) else MEMORY
    crcs = Stream(slots, contents, sink, memory=memory).write(read)
    entries = [entry._replace(crc=crc) for entry, crc in zip(archive.manifest.entries, crcs, strict=True)]
    manifest = replace(archive.manifest, entries=tuple(entries))
    raw = manifest.to_bytes()
    assert len(raw) == last.length, "checksums have a fixed width"
    crc = crc32(raw)
    ending = layout.local_header(last, crc) + raw + layout.tail(archive.layout, [*crcs, crc])
    sink.write_at(last.header, ending)
    return manifest


def _here(content: Content, snapshot: Snapshot) -> Content:
    """The content as it can be had here: of a GPU's memory what fetches it."""
    if isinstance(content, torch.UntypedStorage) and content.device.type == "cuda":
        return There(content, snapshot.beside)
    return content


def _length(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.nbytes()


def _readable(content: Content) -> NDArray[np.uint8] | Afar:
    """The content as an array over its very memory, where it has one here."""
    if isinstance(content, bytes):
        return np.frombuffer(content, np.uint8)
    if not isinstance(content, torch.UntypedStorage):
        return content
    array: NDArray[np.uint8] = torch.empty(0, dtype=torch.uint8, device="cpu").set_(content).numpy()
    return array
