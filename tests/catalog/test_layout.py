"""The layout of a checkpoint is the layout that other people's zip readers find."""

from __future__ import annotations

import bisect
import io
import os
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.catalog import layout
from holdfast.catalog.layout import MANIFEST_ENTRY, TAIL_BYTES, Layout, ManifestPlace, find_manifest

FOUR_GIB = 0xFFFFFFFF  # where zip's 32-bit fields end
FIRST = 4096  # where the content of a first entry with a short name and a page or more begins
NAMES = st.from_regex(r"archive/[a-zA-Z0-9._/-]{0,60}", fullmatch=True)


class Virtual(io.RawIOBase):
    """A file of any length that holds its zip structure, and zeros for content; nothing else is allocated."""

    def __init__(self, of: Layout, crcs: list[int]) -> None:
        self.size = of.bytes
        self.at = 0
        self.pieces = dict(layout.skeleton(of, crcs))
        self.starts = sorted(self.pieces)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        end = self.size if count < 0 else min(self.size, self.at + count)
        found = bytearray(end - self.at)
        for start in self.starts[max(0, bisect.bisect_right(self.starts, self.at) - 1) :]:
            if start >= end:
                break
            piece = self.pieces[start]
            low, high = max(start, self.at), min(start + len(piece), end)
            if low < high:
                found[low - self.at : high - self.at] = piece[low - start : high - start]
        self.at = end
        return bytes(found)


def virtual(sizes: list[tuple[str, int]]) -> tuple[Layout, Virtual]:
    """A layout, and a file of it with checksums that tell the entries apart."""
    of = layout.compute(sizes)
    return of, Virtual(of, [zlib.crc32(name.encode()) for name, _ in sizes])


def require_agreement(of: Layout, file: Virtual) -> None:
    """Python's zipfile finds in the file what the layout says."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        assert [(i.filename, i.header_offset, i.file_size) for i in infos] == [
            (s.name, s.header, s.length) for s in of.slots
        ]
        assert [i.CRC for i in infos] == [zlib.crc32(s.name.encode()) for s in of.slots]
        assert archive.start_dir == of.directory
        for info, slot in list(zip(infos, of.slots, strict=True))[:: max(1, len(infos) // 50)]:
            with archive.open(info):  # reads the local header, and compares it
                assert file.tell() == slot.offset
            assert slot.offset % (4096 if slot.length >= 16384 else 64) == 0


def require_gapless(of: Layout) -> None:
    """Each header begins where the content before it ends, and the structure has the length that was computed."""
    ends = [0, *(slot.offset + slot.length for slot in of.slots)]
    assert [*(slot.header for slot in of.slots), of.directory] == ends
    for slot in of.slots:
        assert len(layout.local_header(slot, 0)) == slot.offset - slot.header
    assert len(layout.tail(of, [0] * len(of.slots))) == of.bytes - of.directory


@given(st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=12, unique_by=lambda e: e[0]))
def test_zipfile_reads_every_entry_of_a_real_file(contents):
    """Bytes put where the layout says are read back by Python's zipfile, their checksums included."""
    of = layout.compute([(name, len(data)) for name, data in contents])
    file = bytearray(of.bytes)
    for slot, (_, data) in zip(of.slots, contents, strict=True):
        file[slot.offset : slot.offset + slot.length] = data
    for offset, piece in layout.skeleton(of, [zlib.crc32(data) for _, data in contents]):
        file[offset : offset + len(piece)] = piece
    assert len(file) == of.bytes
    with zipfile.ZipFile(io.BytesIO(bytes(file))) as archive:
        assert archive.testzip() is None
        assert [(i.filename, archive.read(i)) for i in archive.infolist()] == contents
        assert {(i.compress_type, i.flag_bits, i.date_time) for i in archive.infolist()} <= {
            (zipfile.ZIP_STORED, 0, (1980, 1, 1, 0, 0, 0))
        }


SIZES = st.one_of(
    st.integers(0, 70_000),
    st.sampled_from([16383, 16384, FOUR_GIB - 1, FOUR_GIB, FOUR_GIB + 1]),
    st.integers(0, 2**45),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, SIZES), max_size=8, unique_by=lambda e: e[0]))
def test_zipfile_agrees_on_files_of_many_terabytes(sizes):
    """Whatever the sizes, zip64 fields stand where zipfile looks for them, and only there."""
    of, file = virtual(sizes)
    require_gapless(of)
    require_agreement(of, file)


@pytest.mark.parametrize("length", [FOUR_GIB - 1, FOUR_GIB, FOUR_GIB + 1])
def test_the_size_that_needs_zip64_is_exactly_the_one_that_zip_reserves(length):
    """A content of 4,294,967,294 bytes has no zip64 field, one of a byte more has it."""
    of, file = virtual([("archive/a", length), ("archive/b", 5)])
    header = layout.local_header(of.slots[0], 0)
    assert (header[4] == 45) is (length >= FOUR_GIB)
    assert (header[30 + 9 : 30 + 9 + 4] == b"\x01\x00\x10\x00") is (length >= FOUR_GIB)
    require_gapless(of)
    require_agreement(of, file)


@pytest.mark.parametrize("offset", [FOUR_GIB - 1, FOUR_GIB, FOUR_GIB + 1])
def test_the_offset_that_needs_zip64_is_exactly_the_one_that_zip_reserves(offset):
    """An entry whose header is at 4,294,967,294 has no zip64 field, one a byte later has it."""
    of, file = virtual([("archive/a", offset - FIRST), ("archive/b", 5)])
    assert of.slots[1].header == offset
    central = layout.tail(of, [0, 0])[46 + 9 :]
    assert (central[6] == 45) is (offset >= FOUR_GIB)
    require_gapless(of)
    require_agreement(of, file)


@pytest.mark.parametrize("directory", [FOUR_GIB - 1, FOUR_GIB, FOUR_GIB + 1])
def test_the_directory_that_needs_zip64_is_exactly_the_one_that_zip_reserves(directory):
    """A directory at 4,294,967,294 has a plain end record, one a byte later a zip64 one before it."""
    of, file = virtual([("archive/a", directory - FIRST)])
    assert of.directory == directory
    tail = layout.tail(of, [0])
    assert (b"PK\x06\x06" in tail) is (directory >= FOUR_GIB)
    require_gapless(of)
    require_agreement(of, file)


@pytest.mark.parametrize("count", [0xFFFF - 1, 0xFFFF, 0xFFFF + 1, 70_001])
def test_the_count_that_needs_zip64_is_exactly_the_one_that_zip_reserves(count):
    """65,534 entries have a plain end record, 65,535 a zip64 one before it."""
    of, file = virtual([(f"archive/data/{i}", i % 100) for i in range(count)])
    assert (b"PK\x06\x06" in layout.tail(of, [0] * count)) is (count >= 0xFFFF)
    require_gapless(of)
    require_agreement(of, file)


MANIFESTS = {
    "small": [("archive/data/0", 1000), (MANIFEST_ENTRY, 77)],
    "alone": [(MANIFEST_ENTRY, 1)],
    "of a page": [("archive/data/0", 1000), (MANIFEST_ENTRY, 20_000)],
    "header below 4 GiB, directory above": [("archive/data/0", FOUR_GIB - FIRST - 1), (MANIFEST_ENTRY, 77)],
    "header at 4 GiB": [("archive/data/0", FOUR_GIB - FIRST), (MANIFEST_ENTRY, 77)],
    "far past 4 GiB": [("archive/data/0", 2**44), (MANIFEST_ENTRY, 77)],
    "after 65,536 entries": [*((f"archive/data/{i}", 1) for i in range(65_536)), (MANIFEST_ENTRY, 77)],
}


@pytest.mark.parametrize("sizes", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_the_manifest_is_found_from_the_last_bytes_alone(sizes):
    """The tail tells where the manifest is, how long, and its CRC-32, whatever kind of end the file has."""
    of = layout.compute(sizes)
    end = layout.tail(of, [0x01020304] * len(sizes))[-TAIL_BYTES:]
    slot = of.slots[-1]
    assert find_manifest(end, of.bytes) == ManifestPlace(slot.offset, slot.length, 0x01020304)


def test_the_last_bytes_are_no_more_than_the_longest_end_needs():
    """One byte less, and the manifest of a file past 4 GiB is not found."""
    of = layout.compute(MANIFESTS["far past 4 GiB"])
    end = layout.tail(of, [0, 0])
    assert find_manifest(end[-TAIL_BYTES:], of.bytes) is not None
    assert find_manifest(end[-TAIL_BYTES + 1 :], of.bytes) is None


@given(st.binary(max_size=TAIL_BYTES), st.integers(0, 2**63))
def test_no_end_of_any_file_makes_the_search_fail(end, size):
    """Of arbitrary bytes the answer is that there is no manifest."""
    assert find_manifest(end, size) is None


@given(st.data())
def test_a_damaged_end_gives_no_place_outside_the_file(data):
    """Whatever a few changed bytes of a real end claim, the place found lies inside the file."""
    of = layout.compute(data.draw(st.sampled_from(list(MANIFESTS.values())[:6])))
    end = bytearray(layout.tail(of, [0] * len(of.slots))[-TAIL_BYTES:])
    for _ in range(data.draw(st.integers(1, 4))):
        end[data.draw(st.integers(0, len(end) - 1))] = data.draw(st.integers(0, 255))
    place = find_manifest(bytes(end), of.bytes)
    assert place is None or (place.offset >= 0 and place.length > 0 and place.offset + place.length <= of.bytes)
