"""Forge checkpoints: every checksum and every byte of zip structure is right, whatever they hold. Without torch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import making
from holdfast.catalog import layout
from holdfast.catalog.manifest import EntryInfo, Manifest, TensorInfo

Edit = Callable[[dict[str, Any]], object]
EMPTY = b"\x80\x02}."


def contents_of(pickle: bytes, storages: Sequence[bytes] = (), opaque: bytes | None = None) -> dict[str, bytes]:
    """The entries of a checkpoint but the manifest, in the order of the file."""
    contents = {
        layout.FORMAT_ENTRY: layout.FORMAT_SIGN,
        layout.PICKLE_ENTRY: pickle,
        layout.PREFIX + "byteorder": b"little",
        layout.PREFIX + "version": b"3\n",
        **{f"{layout.PREFIX}data/{key}": data for key, data in enumerate(storages)},
    }
    return contents if opaque is None else {**contents, layout.OPAQUE_ENTRY: opaque}


def manifest_of(contents: dict[str, bytes], tensors: Sequence[TensorInfo] = ()) -> Manifest:
    """The manifest that tells the truth of these entries."""
    slots = layout.compute([(name, len(data)) for name, data in contents.items()]).slots
    entries = tuple(EntryInfo(s.name, s.offset, s.length, zlib.crc32(contents[s.name])) for s in slots)
    opaque = ("model.thing",) if layout.OPAQUE_ENTRY in contents else ()
    return replace(making.manifest(1), tensors=tuple(tensors), entries=entries, opaque=opaque)


def edited(of: Manifest, edit: Edit) -> bytes:
    """The JSON of a manifest after ``edit`` has changed it."""
    data = json.loads(of.to_bytes())
    edit(data)
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def assemble(contents: dict[str, bytes], raw: bytes) -> bytes:
    """A zip of these entries with ``raw`` for a manifest."""
    contents = {**contents, layout.MANIFEST_ENTRY: raw}
    place = layout.compute([(name, len(data)) for name, data in contents.items()])
    file = bytearray(place.bytes)
    for offset, piece in layout.skeleton(place, [zlib.crc32(data) for data in contents.values()]):
        file[offset : offset + len(piece)] = piece
    for slot in place.slots:
        file[slot.offset : slot.offset + slot.length] = contents[slot.name]
    return bytes(file)


def forge(
    pickle: bytes = EMPTY,
    storages: Sequence[bytes] = (),
    *,
    tensors: Sequence[TensorInfo] = (),
    opaque: bytes | None = None,
    edit: Edit = lambda data: None,
    extra: dict[str, bytes] | None = None,
) -> bytes:
    """A checkpoint.

    Args:
        pickle: Its ``data.pkl``.
        storages: Contents of its storages.
        tensors: What the manifest says of its tensors.
        opaque: Its ``opaque.pkl``, if any.
        edit: Changes the manifest's JSON; checksums and structure are made to fit what comes out.
        extra: More entries, listed in the manifest like the others.
    """
    contents = {**contents_of(pickle, storages, opaque), **(extra or {})}
    return assemble(contents, edited(manifest_of(contents, tensors), edit))
