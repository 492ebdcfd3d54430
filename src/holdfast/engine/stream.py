"""Stream a file's entries to their places, region by region, on a few threads. Knows no manifest and no tensors.

The file is cut into regions at multiples of a block, across entries. A buffer is filled with all that lies in a
region, structure and contents, while checksums are taken, and written at once: every write is aligned, wherever the
entries begin. Reading runs ahead of the disk as far as there are buffers. The checksum of an entry is known when its
last region has been read: what began in another region gets it into its header at the end.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.catalog.checksums import crc32, joined
from holdfast.catalog.layout import CRC_PLACE, Slot, local_header
from holdfast.catalog.parallel import WRITERS, spread
from holdfast.store import Sink
from holdfast.store.direct import BLOCK, aligned_memory

_REGION = 4 * 2**20
_STEP = 2**20
"""Bytes copied before their checksum is taken: few enough to be in the processor's cache still."""

Bytes = NDArray[np.uint8]


class Sliced(Protocol):
    """Bytes that are had by slices: an array, or what fetches them from elsewhere."""

    def __getitem__(self, part: slice) -> Bytes: ...


class Stream:
    """All bytes of the entries of one file.

    Args:
        slots: Where they are; together they cover the file from its beginning, without gaps.
        contents: What they hold.
        sink: Where they go.
        memory: Bytes of buffers that may be taken: an eighth for headers that wait for their checksum, the rest for
            regions.
    """

    def __init__(self, slots: Sequence[Slot], contents: Sequence[Sliced], sink: Sink, *, memory: int) -> None:
        self._slots = slots
        self._contents = contents
        self._sink = sink
        self._headers = [slot.header for slot in slots]
        self._end = slots[-1].offset + slots[-1].length
        self._region = max(BLOCK, min(_REGION, memory // (2 * WRITERS), self._end) // BLOCK * BLOCK)
        self._crcs = [0] * len(slots)
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}  # of entries in several regions: start, length, CRC
        self._blocks: dict[int, bytearray] = {}  # where the headers of those are
        self._held = memory // 8 // BLOCK  # how many blocks there may be
        # Each thread holds one buffer at most, so that there is always one to fill or one to write.
        count = min(max(WRITERS, (memory - memory // 8) // self._region), -(-self._end // self._region))
        self._free: list[Bytes] = list(np.frombuffer(aligned_memory(count * self._region), np.uint8).reshape(count, -1))
        self._filled: deque[tuple[int, Bytes]] = deque()
        self._unread = -(-self._end // self._region)
        self._writing = 0
        self._guard = threading.Lock()

    def write(self, read: Callable[[], None]) -> list[int]:
        """Write them, and return their CRC-32s.

        Args:
            read: Called once, on some thread, when the contents have been read for the last time; what is left to do
                then is to write.

        Raises:
            StoreError: A write failed, on any thread.
        """
        regions = range(0, self._end, self._region)
        spread(regions, lambda: lambda start: self._do(start, read), threads=min(WRITERS, len(regions)))
        for index, pieces in self._pieces.items():
            for _, length, crc in sorted(pieces):
                self._crcs[index] = joined(self._crcs[index], crc, length)
            self._fill_in(index)
        for start, block in self._blocks.items():
            self._sink.write_at(start, bytes(block))
        return self._crcs

    def _do(self, start: int, read: Callable[[], None]) -> None:
        """Fill a buffer with the region at ``start``; then write what is filled, unless others are at it."""
        buffer = self._buffer()
        self._fill(start, buffer[: min(self._region, self._end - start)])
        self._filled.append((start, buffer))
        with self._guard:
            self._unread -= 1
            all_read = self._unread == 0
        if all_read:
            read()
        while self._filled and (all_read or self._writing < WRITERS - 1):
            self._write_one()

    def _buffer(self) -> Bytes:
        """One that is free; as long as none is, this thread writes too."""
        while True:
            try:
                return self._free.pop()  # the last: memory that was never used is not there yet
            except IndexError:
                self._write_one()

    def _write_one(self) -> None:
        try:
            start, buffer = self._filled.popleft()
        except IndexError:
            return
        with self._guard:
            self._writing += 1
        try:
            self._sink.write_at(start, buffer[: min(self._region, self._end - start)].data)
        finally:
            with self._guard:
                self._writing -= 1
            self._free.append(buffer)

    def _fill(self, start: int, target: Bytes) -> None:
        """Put into ``target`` all that is to stand at ``start``."""
        first = bisect_right(self._headers, start) - 1
        last = bisect_left(self._headers, start + len(target))
        for index in range(first, last):
            self._put(index, start, target)
        for index in {first, last - 1}:
            if index in self._pieces:  # it lies in another region too
                self._hold(index, start, target)

    def _put(self, index: int, start: int, target: Bytes) -> None:
        """Put into ``target`` what belongs there of one entry, and take its checksum."""
        slot, end = self._slots[index], start + len(target)
        first, last = max(start, slot.offset), min(end, slot.offset + slot.length)
        crc = 0
        for at in range(first, last, _STEP):
            step = min(_STEP, last - at)
            copy = target[at - start : at - start + step]
            copy[:] = self._contents[index][at - slot.offset : at - slot.offset + step]
            crc = crc32(copy.data, crc)
        if start <= slot.header and slot.offset + slot.length <= end:
            self._crcs[index] = crc
        else:
            self._pieces.setdefault(index, []).append((first, max(0, last - first), crc))
        if slot.offset > start:
            header = local_header(slot, crc)[max(0, start - slot.header) : end - slot.header]
            place = max(0, slot.header - start)
            target[place : place + len(header)] = np.frombuffer(header, np.uint8)

    def _hold(self, index: int, start: int, target: Bytes) -> None:
        """Keep what is in ``target`` of the blocks that an entry's CRC-32 belongs in."""
        for block in _blocks(self._slots[index]):
            if start <= block < start + len(target) and len(self._blocks) < self._held:
                self._blocks[block] = bytearray(target[block - start : block - start + BLOCK])

    def _fill_in(self, index: int) -> None:
        """Put an entry's CRC-32 into its header, in the blocks that are still held or else in the file."""
        at = self._slots[index].header + CRC_PLACE
        raw = self._crcs[index].to_bytes(4, "little")
        for block in _blocks(self._slots[index]):
            first, last = max(at, block), min(at + len(raw), block + BLOCK)
            if block in self._blocks:
                self._blocks[block][first - block : last - block] = raw[first - at : last - at]
            else:
                self._sink.write_at(first, raw[first - at : last - at])


def _blocks(slot: Slot) -> range:
    """Where the blocks begin that hold the CRC-32 in an entry's header: one, or two where it lies across."""
    at = slot.header + CRC_PLACE
    return range(at // BLOCK * BLOCK, at + 4, BLOCK)
