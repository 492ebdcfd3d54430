"""One checkpoint to which every rank writes its part: a folder, whole once rank 0 has put the index into it.

What it is called, and whether it is published, others decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from holdfast.catalog.checksums import crc32
from holdfast.catalog.directories import Draft
from holdfast.catalog.manifest import EntryInfo, Manifest, RunRef
from holdfast.catalog.sharded import INDEX, STATE, STOCK, Chunk, FileInfo, Index, Sharded
from holdfast.catalog.verify import read_entries
from holdfast.engine import health, job, stock
from holdfast.engine.fence import Window
from holdfast.engine.job import Captured, Job
from holdfast.engine.lending import Lent
from holdfast.engine.shards import Piece, Place, ShardFile, copy, take
from holdfast.errors import ConfigError, HoldfastError
from holdfast.policy.values import Moment
from holdfast.policy.what import What
from holdfast.store import FolderStore, Sink, Store, temporary_name

_STALE = 30.0
"""Seconds that a host may see a folder as it was before another host wrote to it."""


class ShardedJob:
    """This rank's part of a sharded checkpoint, from what is copied or lent to its synced bytes.

    Args:
        own: Rank 0's ``state.ckpt``, whose manifest becomes that of the checkpoint; None on other ranks.
        pieces: All tensors in chunks, with the data that this rank writes.
        weights: Names of the tensors that are to be finite.
        rank: This rank.
        owner: Id of the run.
        ordinal: Tells this save from all others of the run, and is the same on all ranks.
        window: Open while pieces are read in place; None where all are copies.
    """

    def __init__(
        self,
        own: Job | None,
        pieces: Sequence[Piece],
        weights: frozenset[str],
        *,
        rank: int,
        owner: str,
        ordinal: str,
        window: Window | None = None,
    ) -> None:
        self._job, self._pieces, self._weights, self._rank = own, list(pieces), weights, rank
        self._owner, self._ordinal = owner, ordinal
        self.window = window
        self._draft: Draft | None = None
        self.not_finite: tuple[str, ...] = ()
        self.bytes = 0
        self.begun = time.perf_counter()

    @property
    def manifest(self) -> Manifest:
        """What the checkpoint is, on rank 0."""
        assert self._job is not None, "rank 0 has the manifest"
        return self._job.manifest

    def write(self, store: Store, name: str, sinks: list[Any], *, memory: int | None = None) -> dict[str, Any]:
        """Write and sync this rank's files; the folder, to be published or discarded later, is added to ``sinks``.

        Returns:
            What rank 0 has to know: the ``file``, its ``bytes``, ``crc`` and ``chunks``, and what is ``not_finite``.

        Raises:
            StoreError: A write failed.
            ConfigError: The store has no folders.
            Moved: What was lent has changed meanwhile: the folder is to be discarded.
        """
        if not isinstance(store, FolderStore):
            raise ConfigError(f"{type(store).__name__} keeps no folders, and a sharded checkpoint is one.")
        try:
            return self._write(store, name, sinks, memory)
        except BaseException:
            self.release()
            raise

    def _write(self, store: FolderStore, name: str, sinks: list[Any], memory: int | None) -> dict[str, Any]:
        self._draft = draft = Draft(store, temporary_name(f"{name}~{self._ordinal}", self._owner), self._owner)
        sinks.append(draft)
        sick = [p.name for p in self._pieces if p.data is not None and p.name in self._weights]
        sick = [p.name for p in self._pieces if p.name in sick and p.data is not None and not health.is_finite(p.data)]
        told: dict[str, Any] = {"file": None, "bytes": 0, "crc": f"{0:08x}", "chunks": [], "not_finite": sick}
        laid_out = ShardFile(self._pieces)
        if laid_out.bytes:
            file = f"__{self._rank}_0.distcp"
            sink = draft.create(file, size=laid_out.bytes)
            with _discarding(sink):
                crc, rows = laid_out.write(sink)
                if self.window is not None:
                    self.window.returned()
                sink.publish(draft.path(file), replace=True)
            told |= {"file": file, "bytes": laid_out.bytes, "crc": f"{crc:08x}", "chunks": rows}
        # The data can go; what is left says which tensors there are.
        self._pieces = [replace(piece, data=None) for piece in self._pieces]
        if self.window is not None:
            self.window.verdict()
        if self._job is not None:
            own: list[Sink] = []
            try:
                self._job.write(store, draft.path(STATE), own, memory=memory)
                own[0].publish(draft.path(STATE), replace=True)
            finally:
                for sink in own:
                    sink.discard()
        return told

    def complete(self, told: Mapping[int, Any]) -> None:
        """Rank 0, once all have written: put the index into the folder, last of all.

        Args:
            told: What ``write`` returned, by rank.

        Raises:
            HoldfastError: The folder does not hold what the ranks say they wrote.
            StoreError: A write failed.
        """
        assert self._job is not None, "rank 0 has written"
        self.not_finite = tuple(
            dict.fromkeys((*self._job.not_finite, *(n for t in told.values() for n in t["not_finite"])))
        )
        self._job.manifest = replace(self._job.manifest, healthy=not self.not_finite)
        shards = [(rank, t) for rank, t in sorted(told.items()) if t["file"] is not None]
        numbers = {rank: number for number, (rank, _) in enumerate(shards, start=2)}
        names = [STATE, STOCK, *(t["file"] for _, t in shards)]
        tensors = self._tensors(shards, numbers)
        plan = stock.metadata(tensors, names)
        self._put(STOCK, plan)
        files = [
            FileInfo(STATE, *self._read_back(STATE)),
            FileInfo(STOCK, len(plan), crc32(plan)),
            *(FileInfo(t["file"], t["bytes"], int(t["crc"], 16)) for _, t in shards),
        ]
        self._check(files)
        index = Index(self.manifest, tuple(files), tensors)
        raw = index.to_bytes()
        Index.from_bytes(raw)  # what no reader would accept is not published
        self._put(INDEX, raw)
        self.bytes = index.bytes

    def _tensors(self, shards: Sequence[tuple[int, Any]], numbers: Mapping[int, int]) -> tuple[Sharded, ...]:
        chunks: dict[str, list[Chunk]] = {}
        for rank, told in shards:
            for name, offsets, sizes, offset, length, start, crc in told["chunks"]:
                place = numbers[rank], offset, length, start, int(crc, 16)
                chunks.setdefault(name, []).append(Chunk(tuple(offsets), tuple(sizes), *place))
        return tuple(
            Sharded(p.name, p.place, str(p.dtype).removeprefix("torch."), p.shape, tuple(chunks.get(p.name, ())))
            for p in self._pieces
        )

    def _check(self, files: Sequence[FileInfo]) -> None:
        """Rank 0 sees what the others wrote, whole, and nothing else; over a network that may take a moment."""
        end, pause = time.monotonic() + _STALE, 0.05
        while wrong := self._wrong(files):
            if time.monotonic() >= end:
                raise HoldfastError(
                    f"the folder is not what the ranks wrote, as rank 0 sees it for {_STALE:g} s: {'; '.join(wrong)}.",
                    remedy="See that all ranks write to one and the same folder.",
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _wrong(self, files: Sequence[FileInfo]) -> list[str]:
        assert self._draft is not None, "it was written"
        draft = self._draft
        there = {e.name.removeprefix(f"{draft.temporary}/"): e.bytes for e in draft.store.inside(draft.temporary)}
        wrong = [
            f"{f.name} has {there.get(f.name, 0):,} of {f.bytes:,} bytes" for f in files if there.get(f.name) != f.bytes
        ]
        return wrong + [f"{name} is of no rank of this save" for name in sorted(set(there) - {f.name for f in files})]

    def _put(self, file: str, content: bytes) -> None:
        assert self._draft is not None, "it was written"
        sink = self._draft.create(file, size=len(content))
        with _discarding(sink):
            sink.write_at(0, content)
            sink.publish(self._draft.path(file), replace=True)

    def _read_back(self, file: str) -> tuple[int, int]:
        """Bytes and CRC-32 of a file that was written; it is small."""
        assert self._draft is not None, "it was written"
        with self._draft.store.open(self._draft.path(file)) as reader:
            entry = EntryInfo(file, 0, reader.bytes, 0)
            return reader.bytes, read_entries(reader, [entry])[file]

    def release(self) -> None:
        """Nothing more is read: whoever waits to change the state goes on. Does nothing after ``write``."""
        if self.window is not None:
            self.window.release()


class _Lender:
    """Lends this rank's part of what only an optimizer's step changes, and copies all else.

    Args:
        lent: What may be lent.
        but: Names of tensors that are copied none the less.
    """

    def __init__(self, lent: Sequence[Lent], but: Collection[str]) -> None:
        self._owners, self._but = {one.tensor.untyped_storage()._cdata: one for one in lent}, but
        self.lent: dict[str, Lent] = {}

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        owner = self._owners.get(tensor.untyped_storage()._cdata)
        if owner is None or name in self._but or not tensor.is_contiguous() or tensor.device.type != "cpu":
            return copy(name, tensor)
        self.lent[name] = owner
        return tensor


def prepare(
    captured: Captured,
    what: What,
    moment: Moment,
    *,
    rank: int,
    ordinal: str,
    run: RunRef,
    copied: Collection[str] = (),
    patience: float | None = None,
    **facts: Any,
) -> ShardedJob:
    """Take this rank's part of a state; when it returns, training may go on.

    What is not copied is read until ``write`` is over: somebody calls that, or ``release``, for a step of an
    optimizer waits for it.

    Args:
        captured: The state.
        what: What of it is kept.
        moment: The step.
        rank: This rank.
        ordinal: Tells this save from all others of the run, and is the same on all ranks.
        run: Whose checkpoint it is.
        copied: Names of tensors that are not to be read in place, whoever lends them.
        patience: Seconds that training waits at most for what is read in place; None for as long as it takes.
        facts: What ``job.prepare`` is told besides.

    Raises:
        ConfigError: The state holds a tensor that no checkpoint can hold.
    """
    lender = _Lender(captured.lent, copied)
    rest, pieces = split(captured, what, first=rank == 0, copied=lender)
    own = job.prepare(rest, what, moment, run=run, **facts) if rank == 0 else None
    window = Window(lender.lent, patience) if lender.lent else None
    return ShardedJob(own, pieces, captured.weights, rank=rank, owner=run.id, ordinal=ordinal, window=window)


def split(
    captured: Captured, what: What, *, first: bool, copied: Callable[[str, torch.Tensor], torch.Tensor] = copy
) -> tuple[Captured, list[Piece]]:
    """A state without the tensors that go into shards, and those: all of models and optimizers, and what is divided.

    Args:
        captured: The state.
        what: What of it is saved.
        first: Whether this is the rank that writes what all ranks have whole.
        copied: What is written of a tensor, given its name; a copy, where the state will change.

    Raises:
        ConfigError: A tensor of a kind that a checkpoint cannot hold.
    """
    places = [place for part, place in captured.places.items() if part == "model" or part in (captured.groups or {})]
    parameters = {
        (*place, "state", i): name
        for part, place in captured.places.items()
        for i, name in enumerate(name for group in (captured.groups or {}).get(part, ()) for name in group)
        if name
    }

    def name(place: Place) -> str:
        for end in range(len(place), 0, -1):
            parameter = parameters.get(place[:end])
            if parameter is not None:
                return ".".join((captured.name(place[: end - 1]), parameter, *map(str, place[end:])))
        return captured.name(place)

    root, pieces = take(
        captured.root,
        wanted=lambda place, _: any(place[: len(p)] == p for p in places),
        kept=lambda place, _: what.wants(captured.name(place), trainable=captured.name(place) not in captured.frozen),
        name=name,
        first=first,
        copied=copied,
    )
    return replace(captured, root=root, weights=frozenset(), lent=()), pieces


@contextmanager
def _discarding(sink: Sink) -> Iterator[None]:
    """Discard a sink if the block fails."""
    try:
        yield
    except BaseException:
        sink.discard()
        raise
