"""Write a checkpoint's pickle: plain values and tensor references, as PyTorch's loader reads them."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from holdfast.catalog.manifest import MAX_BYTES
from holdfast.engine.statetree import TensorRef
from holdfast.errors import ConfigError

TYPED = {
    dtype: getattr(torch, name) for dtype, name in torch.storage._dtype_to_storage_type_map().items()
    if not name.startswith("Q")
}  # fmt: skip
"""The storage class that stands for a data type in a pickle; newer data types have none."""


class _Place:
    """Stands for a storage while pickling."""

    __slots__ = ("bytes", "ref")

    def __init__(self, ref: TensorRef, bytes: int) -> None:
        self.ref = ref
        self.bytes = bytes


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, storage_bytes: Callable[[str], int]) -> None:
        super().__init__(file, protocol=2)
        self.storage_bytes = storage_bytes

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Place):
            return None
        ref = obj.ref
        typed = _typed(ref, obj.bytes)
        count = obj.bytes // ref.dtype.itemsize if typed else obj.bytes
        return ("storage", typed or torch.storage.UntypedStorage, ref.storage, ref.location, count)

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, TensorRef):
            return NotImplemented
        place = _Place(obj, self.storage_bytes(obj.storage))
        args: tuple[Any, ...] = (place, obj.offset, obj.shape, obj.stride, obj.trainable, OrderedDict())
        if _typed(obj, place.bytes):
            return (torch._utils._rebuild_tensor_v2, args)
        return (torch._utils._rebuild_tensor_v3, (*args, obj.dtype))


def _typed(ref: TensorRef, bytes: int) -> Any:
    """The class that tells a storage's data type; None where PyTorch can only be told of its bytes."""
    return TYPED.get(ref.dtype) if bytes % ref.dtype.itemsize == 0 else None


def dumps(root: Any, storage_bytes: Callable[[str], int]) -> bytes:
    """Pickle a tree as PyTorch does.

    Args:
        root: Plain values and ``TensorRef``.
        storage_bytes: The length of a storage by its key.

    Raises:
        ConfigError: It is longer than a reader accepts.
    """
    file = io.BytesIO()
    _Writer(file, storage_bytes).dump(root)
    data = file.getvalue()
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"The plain values of the state take {len(data):,} bytes, more than {MAX_BYTES:,}.",
            remedy="Keep long lists of numbers as tensors.",
        )
    return data
