"""Turn a checkpoint that is a folder into one file, and one file into a folder: streaming, verified, the same state."""

from __future__ import annotations

import bisect
import itertools
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.catalog import directories
from holdfast.catalog.manifest import ITEM_BYTES, Manifest, RunRef
from holdfast.catalog.sharded import Chunk, Sharded
from holdfast.catalog.verify import Verdict
from holdfast.engine import archive
from holdfast.engine.directory import CheckpointDirectory
from holdfast.engine.job import Captured, Job
from holdfast.engine.reader import CheckpointFile
from holdfast.engine.sharded import ShardedJob, split
from holdfast.engine.shards import Piece
from holdfast.engine.snapshot import Snapshot
from holdfast.engine.statetree import TensorRef, Tree, at, dotted, put_together, take_apart
from holdfast.errors import ConfigError, Corrupt, SaveFailed
from holdfast.policy.what import full
from holdfast.store import Reader, Store


def to_file(source: CheckpointDirectory, store: Store, name: str, *, memory: int = archive.MEMORY) -> Manifest:
    """Write a folder's checkpoint as one file.

    Args:
        source: The folder, open.
        store: Where to.
        name: What the file is called; it is free.
        memory: Bytes of buffers; no tensor is held as a whole.

    Returns:
        The manifest of the new checkpoint: of a run of its own, whose parent is the source.

    Raises:
        Corrupt: The source is damaged; nothing was written.
        StoreError: It could not be written; nothing is left of it.
        SaveFailed: What was written does not verify.
    """
    source.verify()
    root, storages = source.rest.lent()
    contents: dict[str, Any] = dict(storages)
    naming = Captured(root, source.manifest.parts)
    known: dict[tuple[Chunk, ...], str] = {}
    readers = source.readers
    filled = put_together(root, lambda ref: ref)  # a copy, for tensors to be put in
    for tensor in source.index.tensors:
        key = known.setdefault(tensor.chunks, f"afar {len(known)}") if tensor.chunks else f"none {len(contents)}"
        contents[key] = Elements(tensor, readers)
        shape = tensor.shape
        stride = torch.empty(shape, device="meta").stride()
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        at(filled, tensor.place[:-1])[tensor.place[-1]] = TensorRef("", key, "cpu", dtype, shape, stride, 0)
    tree = _numbered(filled, contents, naming)
    tree.types.update(source.manifest.types)
    manifest = _anew(source.manifest)
    laid_out = archive.lay_out(Snapshot(tree, source.rest.pickles()), manifest)
    sink = store.create(name, owner=manifest.run.id, size=laid_out.bytes)
    try:
        manifest = archive.write(laid_out, sink, memory=memory)
        sink.publish(name, replace=False)
    except BaseException:
        sink.discard()
        raise
    _require_whole(store, name)
    return manifest


def to_folder(source: CheckpointFile, store: Store, name: str, *, shards: int = 1) -> Manifest:
    """Write a file's checkpoint as a folder.

    Args:
        source: The file, open.
        store: Where to.
        name: What the folder is called; it is free.
        shards: Files among which tensors are divided, by their first dimension.

    Returns:
        As ``to_file``.

    Raises:
        ConfigError: Fewer than one shard, or a store without folders.
        Corrupt, StoreError, SaveFailed: As ``to_file``.
    """
    if shards < 1:
        raise ConfigError(f"a checkpoint has at least one shard, not {shards}.")
    root, storages = source.lent()
    state = put_together(root, lambda ref: ref.over(storages[ref.storage]).detach())
    captured = Captured(state, source.manifest.parts, groups=source.manifest.groups)
    rest, pieces = split(captured, full, first=True, copied=lambda _, tensor: tensor.contiguous())
    tree = take_apart(rest.root, name=captured.name)
    tree.types.update(source.manifest.types)
    manifest = _anew(source.manifest)
    sick = frozenset() if manifest.healthy else frozenset(p.name for p in pieces if p.name.startswith("model."))
    job = Job(Snapshot(tree, source.pickles()), manifest)
    jobs = [
        ShardedJob(
            job if shard == 0 else None, _divided(pieces, shard, shards), sick,
            rank=shard, owner=manifest.run.id, ordinal=manifest.id,
        )
        for shard in range(shards)
    ]  # fmt: skip
    drafts: list[Any] = []
    try:
        told = {shard: one.write(store, name, drafts) for shard, one in enumerate(jobs)}
        jobs[0].complete(told)
        drafts[0].publish(name, replace=False)
    except BaseException:
        for draft in drafts[:1]:
            draft.discard()
        raise
    _require_whole(store, name)
    return jobs[0].manifest


def _anew(manifest: Manifest) -> Manifest:
    """What a checkpoint says of itself, as one that no run wrote: no rule keeps it, and none lets it go."""
    run = RunRef(secrets.token_hex(16), parent=manifest.id)
    reason = f"converted from {manifest.id}"
    return replace(manifest, id=secrets.token_hex(16), run=run, sequence=1, policies=(), reason=reason)


def _require_whole(store: Store, name: str) -> None:
    finding, _ = directories.verify(store, name, ours=True)
    if finding.verdict is not Verdict.WHOLE:
        raise SaveFailed(
            f"was written, and does not verify: {finding.why}.",
            checkpoint=f"{store.root}/{name}",
            good="What it was made from is whole.",
            remedy="See whether that disk is at fault, and convert to another one.",
        )


def _numbered(root: Any, contents: dict[str, Any], naming: Captured) -> Tree:
    """A tree whose storages are numbered in its order, with the names of its tensors."""
    tree = Tree()
    keys: dict[str, str] = {}

    def number(value: Any, place: tuple[Any, ...]) -> Any:
        if isinstance(value, TensorRef):
            key = keys.setdefault(value.storage, str(len(keys)))
            tree.storages[key] = contents[value.storage]
            tree.tensors.append(replace(value, path=naming.name(place), storage=key))
            return tree.tensors[-1]
        if isinstance(value, dict):
            for name in value:
                value[name] = number(value[name], (*place, name))
            for name in vars(value) if hasattr(value, "__dict__") else ():
                vars(value)[name] = number(vars(value)[name], (*place, name))
        elif type(value) in (list, tuple):
            value = type(value)(number(one, (*place, i)) for i, one in enumerate(value))
        return value

    tree.root = number(root, ())
    return tree


def _divided(pieces: Sequence[Piece], shard: int, shards: int) -> list[Piece]:
    """What of each tensor goes into one of several files: as equal a share of its first dimension as can be."""
    found = []
    parts: dict[int, torch.Tensor] = {}  # of tensors that are one, one part
    for piece in pieces:
        data = piece.data
        if data is not None and data.dim():
            rows = data.shape[0]
            first, last = rows * shard // shards, rows * (shard + 1) // shards
            part = parts.setdefault(id(data), data[first:last]) if last > first else None
            found.append(replace(piece, offsets=(first, *piece.offsets[1:]), data=part))
        else:
            found.append(piece if shard == 0 else replace(piece, data=None))
    return found


class Elements:
    """The bytes of a tensor in the order of its elements, fetched from its chunks as they are asked for.

    Args:
        tensor: Which.
        readers: The files that chunks count.
    """

    def __init__(self, tensor: Sharded, readers: Sequence[Reader]) -> None:
        self._tensor, self._readers = tensor, readers
        self._length = math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        item = ITEM_BYTES[tensor.dtype]
        # Where each stretch begins in the whole, its length, its file, and its place there.
        self._runs = sorted(run for chunk in tensor.chunks for run in _runs(tensor, chunk, item))

    def nbytes(self) -> int:
        """All of them."""
        return self._length

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(self._length)
        found = np.empty(stop - start, np.uint8)
        at = start
        first = bisect.bisect_right(self._runs, (start, self._length + 1, 0, 0)) - 1
        for place, length, file, offset in itertools.islice(self._runs, max(0, first), None):
            if place >= stop:
                break
            here, there = max(start, place), min(stop, place + length)
            if here < there:
                target = found[here - start : there - start]
                self._readers[file].read_into(offset + here - place, target.data)
                at += there - here
        if at != stop:
            raise Corrupt(f"tensor {self._tensor.path} has parts that overlap.", checkpoint=dotted(self._tensor.place))
        return found


def _runs(tensor: Sharded, chunk: Chunk, item: int) -> Iterator[tuple[int, int, int, int]]:
    """The stretches of a chunk that lie in a row in the whole tensor too: place there, length, file, offset."""
    shape, sizes = tensor.shape, chunk.sizes
    inner = len(shape)
    while inner and sizes[inner - 1] == shape[inner - 1]:
        inner -= 1
    outer = max(0, inner - 1)
    length = math.prod(sizes[outer:]) * item
    strides = [math.prod(shape[i + 1 :]) * item for i in range(len(shape))]
    base = sum(o * s for o, s in zip(chunk.offsets, strides, strict=True))
    for number, index in enumerate(itertools.product(*(range(size) for size in sizes[:outer]))):
        place = base + sum(i * s for i, s in zip(index, strides, strict=False))
        yield place, length, chunk.file, chunk.offset + chunk.start + number * length
