"""Compute where every byte of a one-file checkpoint is, before the first is written. Pure: no I/O, no torch.

The file is a stored zip (docs/format.md, "The file"). From names, lengths and CRC-32s follows every byte that
is not content; a writer uses that to place storages in any order, a verifier to know what each must be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PREFIX = "archive/"
FORMAT_ENTRY = PREFIX + ".holdfast/format"
MANIFEST_ENTRY = PREFIX + ".holdfast/manifest.json"
OPAQUE_ENTRY = PREFIX + ".holdfast/opaque.pkl"
PICKLE_ENTRY = PREFIX + "data.pkl"
FORMAT_SIGN = b"holdfast 1\n"
FIXED = {FORMAT_ENTRY: FORMAT_SIGN, PREFIX + "byteorder": b"little", PREFIX + "version": b"3\n"}
"""Entries whose content is the same in every file."""

_LIMIT = 0xFFFFFFFF
_MANY = 0xFFFF
_LOCAL = struct.Struct("<IHHHHHIIIHH")
CRC_PLACE = struct.calcsize("<IHHHHH")
"""Where in a local header the CRC-32 is."""
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_END = struct.Struct("<IHHHHIIH")
_LOCAL_SIGN, _CENTRAL_SIGN, _END64_SIGN, _LOCATOR_SIGN, _END_SIGN = (
    0x04034B50,
    0x02014B50,
    0x06064B50,
    0x07064B50,
    0x06054B50,
)
_DATE = 0x21  # 1980-01-01, the earliest a zip can say: the same state makes the same bytes
_PADDING_ID = 0x4246  # "FB", the field that PyTorch pads with


@dataclass(frozen=True)
class Slot:
    """One entry's place.

    Args:
        name: Full name in the zip.
        header: Offset of its local header.
        offset: Offset of its content.
        length: Bytes of content.
    """

    name: str
    header: int
    offset: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Every entry's place, the central directory's, and the length of the file."""

    slots: tuple[Slot, ...]
    directory: int
    bytes: int


def alignment(length: int) -> int:
    """What the offset of ``length`` bytes of content is a multiple of: a page where mapping is worth it."""
    return 4096 if length >= 16384 else 64


def compute(sizes: Sequence[tuple[str, int]]) -> Layout:
    """Lay out entries, given as (name, length) in the order of the file."""
    slots: list[Slot] = []
    position = 0
    for name, length in sizes:
        start = position + _LOCAL.size + len(name.encode()) + len(_zip64_sizes(length)) + 4
        start += -start % alignment(length)
        slots.append(Slot(name, position, start, length))
        position = start + length
    directory = position
    return Layout(tuple(slots), directory, directory + sum(map(_central_size, slots)) + _tail_size(slots, directory))


def local_header(slot: Slot, crc: int) -> bytes:
    """All bytes from the entry's header to its content."""
    name = slot.name.encode()
    extra = _zip64_sizes(slot.length)
    padding = slot.offset - slot.header - _LOCAL.size - len(name) - len(extra) - 4
    size = min(slot.length, _LIMIT)
    head = _LOCAL.pack(
        _LOCAL_SIGN,
        45 if extra else 20,
        0,
        0,
        0,
        _DATE,
        crc,
        size,
        size,
        len(name),
        len(extra) + 4 + padding,
    )
    return head + name + extra + struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)


def tail(layout: Layout, crcs: Sequence[int]) -> bytes:
    """The central directory and the end records: all bytes from ``layout.directory`` on."""
    central = b"".join(_central_header(slot, crc) for slot, crc in zip(layout.slots, crcs, strict=True))
    count, length, offset = len(layout.slots), len(central), layout.directory
    end = b""
    if _needs_zip64_end(count, length, offset):
        end += _END64.pack(_END64_SIGN, 44, 45, 45, 0, 0, count, count, length, offset)
        end += _LOCATOR.pack(_LOCATOR_SIGN, 0, offset + length, 1)
    count, length, offset = min(count, _MANY), min(length, _LIMIT), min(offset, _LIMIT)
    return central + end + _END.pack(_END_SIGN, 0, 0, count, count, length, offset, 0)


def skeleton(layout: Layout, crcs: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Every byte that is not content, as (offset, bytes), in the order of the file."""
    for slot, crc in zip(layout.slots, crcs, strict=True):
        yield slot.header, local_header(slot, crc)
    yield layout.directory, tail(layout, crcs)


@dataclass(frozen=True)
class ManifestPlace:
    """Where the manifest's content is, and its CRC-32, as the file's tail claims: nothing is proved yet."""

    offset: int
    length: int
    crc: int


TAIL_BYTES = _END.size + _LOCATOR.size + _END64.size + _CENTRAL.size + len(MANIFEST_ENTRY) + 12


def find_manifest(end: bytes, size: int) -> ManifestPlace | None:
    """Read the manifest's place off the last bytes of a file.

    Args:
        end: The last ``TAIL_BYTES`` bytes of the file, or all of it where it is shorter.
        size: The file's length.

    Returns:
        The place that the tail claims, inside the file; None where the tail is not one that we write.
    """
    if len(end) < _END.size:
        return None
    sign, _, _, _, _, length, directory, _ = _END.unpack_from(end, len(end) - _END.size)
    if sign != _END_SIGN:
        return None
    finish = len(end) - _END.size
    if directory == _LIMIT or length == _LIMIT or _is_zip64(end, finish):
        finish -= _LOCATOR.size + _END64.size
        if finish < 0:
            return None
        fields = _END64.unpack_from(end, finish)
        if fields[0] != _END64_SIGN:
            return None
        directory = fields[9]
    name = MANIFEST_ENTRY.encode()
    for extra in (0, 12):
        start = finish - _CENTRAL.size - len(name) - extra
        if start < 0 or end[start + _CENTRAL.size : start + _CENTRAL.size + len(name)] != name:
            continue
        fields = _CENTRAL.unpack_from(end, start)
        if fields[0] == _CENTRAL_SIGN:
            crc, manifest = fields[7], fields[9]
            if 0 < manifest <= directory <= size:
                return ManifestPlace(directory - manifest, manifest, crc)
    return None


def _is_zip64(end: bytes, finish: int) -> bool:
    start = finish - _LOCATOR.size
    return start >= 0 and end[start : start + 4] == struct.pack("<I", _LOCATOR_SIGN)


def _zip64_sizes(length: int) -> bytes:
    return struct.pack("<HHQQ", 1, 16, length, length) if length >= _LIMIT else b""


def _zip64_central(slot: Slot) -> bytes:
    values = [slot.length] * 2 if slot.length >= _LIMIT else []
    values += [slot.header] if slot.header >= _LIMIT else []
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _central_size(slot: Slot) -> int:
    return _CENTRAL.size + len(slot.name.encode()) + len(_zip64_central(slot))


def _central_header(slot: Slot, crc: int) -> bytes:
    name, extra = slot.name.encode(), _zip64_central(slot)
    version, size = (45 if extra else 20), min(slot.length, _LIMIT)
    return (
        _CENTRAL.pack(
            _CENTRAL_SIGN,
            version,
            version,
            0,
            0,
            0,
            _DATE,
            crc,
            size,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            min(slot.header, _LIMIT),
        )
        + name
        + extra
    )


def _needs_zip64_end(count: int, length: int, offset: int) -> bool:
    return count >= _MANY or length >= _LIMIT or offset >= _LIMIT


def _tail_size(slots: Sequence[Slot], directory: int) -> int:
    length = sum(map(_central_size, slots))
    zip64 = _END64.size + _LOCATOR.size if _needs_zip64_end(len(slots), length, directory) else 0
    return zip64 + _END.size
