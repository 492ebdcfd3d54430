"""The ``.metadata`` by which stock ``torch.distributed.checkpoint`` finds its way in a sharded checkpoint.

A pickle, as that library wants it: written, and never read by us.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import torch

from holdfast.catalog.sharded import Chunk, Sharded


def metadata(tensors: Sequence[Sharded], files: Sequence[str]) -> bytes:
    """What PyTorch's own writer would say of these tensors.

    Args:
        tensors: Their chunks by place.
        files: The files that chunks count from 0.
    """
    # Not at the top: it takes a moment, and only the first rank's writer needs it.
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    def told(chunk: Chunk) -> ChunkStorageMetadata:
        return ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))

    described = {
        tensor.path: TensorStorageMetadata(
            TensorProperties(dtype=getattr(torch, tensor.dtype)),
            torch.Size(tensor.shape),
            list(map(told, tensor.chunks)),
        )
        for tensor in tensors
    }
    stored = {
        MetadataIndex(tensor.path, chunk.offsets, number): _StorageInfo(files[chunk.file], chunk.offset, chunk.length)
        for tensor in tensors
        for number, chunk in enumerate(tensor.chunks)
    }
    # As nested as the library's users have it: the part, its key, and of optimizers the parameter and the key.
    places = {tensor.path: _nested(tensor.path) for tensor in tensors}
    return pickle.dumps(Metadata(dict(described), planner_data=places, storage_data=stored), protocol=4)


def _nested(path: str) -> tuple[str, ...]:
    part, _, rest = path.partition(".")
    if rest.startswith("state.") and rest.count(".") > 1:
        parameter, _, key = rest.removeprefix("state.").rpartition(".")
        return (part, "state", parameter, key)
    return (part, rest)
