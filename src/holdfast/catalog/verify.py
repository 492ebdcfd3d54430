"""Prove that a file holds exactly what its manifest says, or say what is damaged. No zip parser, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from holdfast.catalog import layout
from holdfast.catalog.checksums import crc32, joined
from holdfast.catalog.manifest import MAX_BYTES, EntryInfo, Manifest, ManifestError
from holdfast.catalog.parallel import THREADS, spread
from holdfast.store import Reader

_CHUNK = 8 * 2**20
"""Bytes that a thread reads of one entry before it takes another piece."""
_STEP = 2**20
"""Bytes read before their checksum is taken: few enough to be in the processor's cache still."""
_HEAD_BYTES = 256
_SIGN = b".holdfast/"


class Damage(ValueError):
    """A file with a sign of ours that is not what was saved. The sentence says where."""


class Verdict(Enum):
    """What a file is."""

    WHOLE = "whole"
    CORRUPT = "corrupt"
    FOREIGN = "foreign"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Finding:
    """The outcome of looking at one file.

    Args:
        verdict: What it is.
        why: What is wrong, in a sentence; empty for a whole one.
        manifest: What it holds, where that could be read.
        damaged: Dotted paths of the tensors whose bytes are damaged.
    """

    verdict: Verdict
    why: str = ""
    manifest: Manifest | None = None
    damaged: tuple[str, ...] = field(default=())


def read_manifest(reader: Reader) -> Manifest | None:
    """The manifest of an open file; its CRC-32, the layout and the file's length are checked, no content is.

    Returns:
        The manifest, or None for a foreign file: one without any sign of ours.

    Raises:
        Damage: There is a sign of ours, and it is not one of our files any more.
    """
    size = reader.bytes
    end = reader.read_at(max(0, size - layout.TAIL_BYTES), min(size, layout.TAIL_BYTES))
    place = layout.find_manifest(end, size)
    if place is None:
        if _SIGN in end or _SIGN in reader.read_at(0, min(size, _HEAD_BYTES)):
            raise Damage("its end is not that of a checkpoint: it is cut short or overwritten")
        return None
    if place.length > MAX_BYTES:
        raise Damage(f"its manifest claims {place.length:,} bytes, more than {MAX_BYTES:,}")
    raw = reader.read_at(place.offset, place.length)
    if crc32(raw) != place.crc:
        raise Damage(f"its manifest has CRC-32 {crc32(raw):08x}, not {place.crc:08x} as when it was saved")
    try:
        manifest = Manifest.from_bytes(raw)
    except ManifestError as error:
        raise Damage(f"its manifest cannot be used: {error}") from error
    _check_layout(manifest, place, size)
    return manifest


def layout_of(manifest: Manifest, manifest_bytes: int) -> layout.Layout:
    """The layout of the file that ``manifest``, taking ``manifest_bytes`` bytes, is in."""
    sizes = [(entry.name, entry.length) for entry in manifest.entries]
    return layout.compute([*sizes, (layout.MANIFEST_ENTRY, manifest_bytes)])


def check_structure(reader: Reader, manifest: Manifest) -> None:
    """Compare every byte that is not content, or whose content is the same in every file, with what it must be.

    Raises:
        Damage: One differs.
    """
    size = reader.bytes
    place = layout.find_manifest(reader.read_at(max(0, size - layout.TAIL_BYTES), min(size, layout.TAIL_BYTES)), size)
    if place is None:
        raise Damage("it was changed while it was read")
    shape = layout_of(manifest, place.length)
    crcs = [*(entry.crc for entry in manifest.entries), place.crc]
    for offset, expected in layout.skeleton(shape, crcs):
        found = reader.read_at(offset, len(expected))
        if found != expected:
            at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            raise Damage(f"byte {offset + at:,} of its zip structure is {found[at]:#04x}, not {expected[at]:#04x}")
    for entry in manifest.entries:
        content = layout.FIXED.get(entry.name)
        if content is not None and reader.read_at(entry.offset, entry.length) != content:
            raise Damage(f"its entry {entry.name} is not {content!r}")


def damaged_entries(reader: Reader, manifest: Manifest) -> Iterator[tuple[EntryInfo, int]]:
    """Read every content; yield each entry whose CRC-32 is another, with the one found."""
    found = read_entries(reader, manifest.entries)
    for entry in manifest.entries:
        if found[entry.name] != entry.crc:
            yield entry, found[entry.name]


def read_entries(
    reader: Reader, entries: Sequence[EntryInfo], into: Mapping[str, memoryview] = MappingProxyType({})
) -> dict[str, int]:
    """Read contents, on a few threads, and take their checksums on the way: of the very bytes that are given.

    Args:
        reader: The open file.
        entries: Which.
        into: Entry name to the memory, writable and as long as the content, that it is read into. What has none is
            read into a small buffer and forgotten.

    Returns:
        Entry name to the CRC-32 that its content has.

    Raises:
        StoreError: Something could not be read.
    """
    pieces = [(e, at, min(_CHUNK, e.length - at)) for e in entries for at in range(0, e.length, _CHUNK)]
    crcs: dict[tuple[str, int], int] = {}

    def worker() -> Callable[[tuple[EntryInfo, int, int]], None]:
        spare = memoryview(bytearray(min(_STEP, max((length for _, _, length in pieces), default=0))))

        def read(piece: tuple[EntryInfo, int, int]) -> None:
            entry, start, length = piece
            crc, memory = 0, into.get(entry.name)
            for at in range(start, start + length, _STEP):
                step = min(_STEP, start + length - at)
                target = spare[:step] if memory is None else memory[at : at + step]
                reader.read_into(entry.offset + at, target)
                crc = crc32(target, crc)
            crcs[entry.name, start] = crc

        return read

    spread(pieces, worker, threads=min(THREADS, len(pieces)))
    found = dict.fromkeys((entry.name for entry in entries), 0)
    for entry, start, length in pieces:
        found[entry.name] = joined(found[entry.name], crcs[entry.name, start], length)
    return found


def tensors_in(manifest: Manifest, entry_name: str) -> tuple[str, ...]:
    """Dotted paths of the tensors that live in the entry ``entry_name``."""
    storage = entry_name.removeprefix(layout.PREFIX + "data/")
    return tuple(t.path for t in manifest.tensors if t.storage == storage)


def describe(manifest: Manifest, damaged: Mapping[str, tuple[int, int]]) -> str:
    """Say which entries are damaged, whose tensors they are, and both checksums (saved, found)."""
    sentences = []
    for name, (saved, found) in damaged.items():
        tensors = tensors_in(manifest, name)
        whose = f"tensor {', '.join(tensors)}" if tensors else f"entry {name}"
        sentences.append(f"{whose} has CRC-32 {found:08x}, not {saved:08x} as when it was saved")
    return "; ".join(sentences)


def verify(reader: Reader, *, ours: bool = False) -> Finding:
    """Look at every byte of an open file.

    Args:
        reader: The open file.
        ours: The ledger says that we wrote it: without any sign of ours it is corrupt then, not foreign.
    """
    try:
        manifest = read_manifest(reader)
    except Damage as damage:
        return Finding(Verdict.CORRUPT, str(damage))
    if manifest is None:
        if ours:
            return Finding(Verdict.CORRUPT, "the ledger says that Holdfast wrote it, and nothing of that is left")
        return Finding(Verdict.FOREIGN, "Holdfast did not write it: there is nothing to verify it by")
    try:
        check_structure(reader, manifest)
    except Damage as damage:
        return Finding(Verdict.CORRUPT, str(damage), manifest)
    bad = {entry.name: (entry.crc, found) for entry, found in damaged_entries(reader, manifest)}
    if bad:
        tensors = tuple(path for name in bad for path in tensors_in(manifest, name))
        return Finding(Verdict.CORRUPT, describe(manifest, bad), manifest, tensors)
    return Finding(Verdict.WHOLE, "", manifest)


def _check_layout(manifest: Manifest, place: layout.ManifestPlace, size: int) -> None:
    content = sum(entry.length for entry in manifest.entries)
    if content > size:
        raise Damage(f"its manifest lists entries of {content:,} bytes in a file of {size:,}")
    shape = layout_of(manifest, place.length)
    if [s.offset for s in shape.slots] != [*(e.offset for e in manifest.entries), place.offset]:
        raise Damage("its manifest places entries where they cannot be")
    if shape.bytes != size:
        raise Damage(f"it has {size:,} bytes, not {shape.bytes:,} as when it was saved")
