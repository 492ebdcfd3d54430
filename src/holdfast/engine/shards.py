"""What of a state lies on this rank: its tensors taken out in parts, and written as one shard file.

Knows no folder and no manifest. A shard file is a row of tensors, each a file of PyTorch's by itself, as
torch.distributed.checkpoint reads them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.tensor import DTensor

from holdfast.catalog import layout
from holdfast.catalog.checksums import crc32, joined
from holdfast.catalog.parallel import WRITERS, spread
from holdfast.engine import pickling
from holdfast.engine.statetree import TensorRef, refuse
from holdfast.store import Sink

_DATA = f"{layout.PREFIX}data/0"
_STEP = 8 * 2**20

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Piece:
    """A tensor of the state, and what of it this rank writes.

    Args:
        name: Dotted name.
        place: Keys and indices that lead to it.
        dtype: Data type.
        shape: Of the whole.
        offsets: Of this rank's part in the whole.
        data: The part in host memory, a copy or lent; None where another rank writes it.
    """

    name: str
    place: Place
    dtype: torch.dtype
    shape: tuple[int, ...]
    offsets: tuple[int, ...] = ()
    data: torch.Tensor | None = None


def take(
    root: Any,
    *,
    wanted: Callable[[Place, torch.Tensor], bool],
    kept: Callable[[Place, torch.Tensor], bool],
    name: Callable[[Place], str],
    first: bool,
    copied: Callable[[str, torch.Tensor], torch.Tensor],
) -> tuple[Any, list[Piece]]:
    """Take the tensors out of a state; None stands for each. When it returns, all may change that was copied.

    Args:
        root: The state.
        wanted: Asked for each tensor whether it is taken out; one that is divided always is.
        kept: Asked for each that is whether it is saved at all.
        name: The dotted name of a place.
        first: Whether this rank writes what every rank has whole.
        copied: What is written of a tensor that lies here, given its name: contiguous, and in host memory.

    Raises:
        ConfigError: A tensor of a kind that a checkpoint cannot hold.
    """
    pieces: list[Piece] = []
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def walk(value: Any, place: Place) -> Any:
        if isinstance(value, torch.Tensor):
            if not isinstance(value, DTensor) and not wanted(place, value):
                return value
            if kept(place, value):
                pieces.append(_piece(value, place, name(place), copies, first=first, copied=copied))
                return None
            return _OMITTED
        if type(value) in (dict, OrderedDict):
            made = type(value)()
            for key, one in value.items():
                if (taken := walk(one, (*place, key))) is not _OMITTED:
                    made[key] = taken
            if isinstance(value, OrderedDict):
                vars(made).update(vars(value))
            return made
        if type(value) in (list, tuple):
            items = (walk(one, (*place, i)) for i, one in enumerate(value))
            return type(value)(None if item is _OMITTED else item for item in items)
        return value

    return walk(root, ()), pieces


_OMITTED = object()


def region(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.Tensor]:
    """Where this rank's part of a tensor begins in the whole, and the part itself: of one not divided, all of it."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim(), tensor.detach()
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]  # torch's stubs lack it
    local: torch.Tensor = tensor.to_local()
    return tuple(chunk.offsets), local.detach()


def _piece(
    tensor: torch.Tensor,
    place: Place,
    name: str,
    copies: dict[tuple[Any, ...], torch.Tensor],
    *,
    first: bool,
    copied: Callable[[str, torch.Tensor], torch.Tensor],
) -> Piece:
    offsets, local = region(tensor)
    refuse(local, name)
    data = None
    if (_writes(tensor) if isinstance(tensor, DTensor) else first) and local.numel():
        if local.is_conj() or local.is_neg():
            local = local.resolve_conj().resolve_neg()
        # Of tensors that share memory one copy is taken, and one part of the file.
        view = (
            local.untyped_storage()._cdata,
            local.dtype,
            local.storage_offset(),
            local.shape,
            local.stride(),
            offsets,
        )
        if view not in copies:
            copies[view] = copied(name, local)
        data = copies[view]
    return Piece(name, place, tensor.dtype, tuple(tensor.shape), offsets, data)


def copy(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy in host memory, whatever it is called."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor)


def _writes(tensor: DTensor) -> bool:
    """Whether this rank is the first of those that hold the same part."""
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    return all(not p.is_replicate() or c == 0 for p, c in zip(tensor.placements, coordinate, strict=True))


@dataclass(frozen=True)
class Range:
    """One tensor's bytes in a shard file.

    Args:
        offset: Of the first, in the file.
        layout: Of the zip that they are.
        contents: Its entries; the last one's are the tensor's.
        data: The tensor's own bytes.
    """

    offset: int
    layout: layout.Layout
    contents: tuple[bytes, ...]
    data: NDArray[np.uint8]

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.offset + self.layout.bytes


class ShardFile:
    """A shard file laid out: every byte has its place, none is written yet.

    Args:
        pieces: What this rank writes; those without data are passed over.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._ranges: dict[int, Range] = {}
        self._pieces = [piece for piece in pieces if piece.data is not None]
        position = 0
        for piece in self._pieces:
            assert piece.data is not None, "those without were left out"
            if id(piece.data) not in self._ranges:
                made = _laid_out(piece.data, position)
                self._ranges[id(piece.data)] = made
                position = made.end
        self.bytes = position

    def write(self, sink: Sink) -> tuple[int, list[list[Any]]]:
        """Write all of it, on a few threads.

        Returns:
            The CRC-32 of the file, and a row for each piece: name, offsets, sizes, offset in the file, length, start of
            the elements, CRC-32.

        Raises:
            StoreError: A write failed.
        """
        ranges = list(self._ranges.values())
        crcs: dict[int, int] = {}
        spread(ranges, lambda: partial(_write, sink, crcs), threads=min(WRITERS, max(1, len(ranges))))
        whole, position = 0, 0
        for one in ranges:
            gap = bytes(one.offset - position)
            whole = joined(crc32(gap, whole), crcs[one.offset], one.layout.bytes)
            position = one.end
        rows = []
        for piece in self._pieces:
            assert piece.data is not None, "those without were left out"
            one = self._ranges[id(piece.data)]
            start = one.layout.slots[-1].offset
            place = [list(piece.offsets), list(piece.data.shape), one.offset, one.layout.bytes, start]
            rows.append([piece.name, *place, f"{crcs[one.offset]:08x}"])
        return whole, rows


def _laid_out(tensor: torch.Tensor, position: int) -> Range:
    stride = torch.empty(tensor.shape, device="meta").stride()
    ref = TensorRef("", "0", "cpu", tensor.dtype, tuple(tensor.shape), stride, 0)
    fixed = [(name, content) for name, content in layout.FIXED.items() if name != layout.FORMAT_ENTRY]
    small = [(layout.PICKLE_ENTRY, pickling.dumps(ref, lambda key: tensor.nbytes)), *fixed]
    sizes = [*((name, len(content)) for name, content in small), (_DATA, tensor.nbytes)]
    data: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    offset = position + -position % layout.alignment(tensor.nbytes)
    return Range(offset, layout.compute(sizes), tuple(content for _, content in small), data)


def _write(sink: Sink, crcs: dict[int, int], one: Range) -> None:
    *slots, last = one.layout.slots
    own = [crc32(content) for content in one.contents]
    entries = zip(slots, own, one.contents, strict=True)
    head = b"".join(layout.local_header(slot, crc) + content for slot, crc, content in entries)
    start, data = one.offset + len(head) + len(layout.local_header(last, 0)), 0
    for at in range(0, len(one.data), _STEP):
        # Read once: what is lent and changes meanwhile may not be one thing to the checksum and another to the disk.
        block = one.data[at : at + _STEP].copy()
        data = crc32(block.data, data)
        sink.write_at(start + at, block.data)
    head += layout.local_header(last, data)
    tail = layout.tail(one.layout, [*own, data])
    crcs[one.offset] = crc32(tail, joined(crc32(head), data, len(one.data)))
    sink.write_at(one.offset, head)
    sink.write_at(start + len(one.data), tail)
