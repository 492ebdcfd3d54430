"""Find weights that are not finite. One pass over their bits, without the training's threads; changes nothing."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from holdfast.engine.device import Beside
from holdfast.engine.statetree import Tree

# By data type: integers of its width, and the exponent's bits, which are all set in NaN and infinity alone.
_BITS: dict[torch.dtype, tuple[type[np.unsignedinteger], int]] = {
    torch.float16: (np.uint16, 0x7C00),
    torch.bfloat16: (np.uint16, 0x7F80),
    torch.float32: (np.uint32, 0x7F80_0000),
    torch.float64: (np.uint64, 0x7FF0_0000_0000_0000),
    torch.complex64: (np.uint32, 0x7F80_0000),
    torch.complex128: (np.uint64, 0x7FF0_0000_0000_0000),
}
_BLOCK = 2**18
"""Numbers looked at together: few enough to stay in the processor's cache, many enough to let go of the interpreter."""


def not_finite(tree: Tree, names: Collection[str], beside: Beside) -> tuple[str, ...]:
    """Which of the tensors named hold NaN or infinity. Integers and 8-bit floats are passed over.

    Args:
        tree: The state.
        names: Dotted names of the tensors to look at.
        beside: Looks at those that a GPU lends.
    """
    looked: dict[tuple[object, ...], bool] = {}
    found = []
    for ref in tree.tensors:
        if ref.path not in names or ref.dtype not in _BITS:
            continue
        view = (ref.storage, ref.dtype, ref.offset, ref.shape, ref.stride)
        if view not in looked:
            tensor = ref.over(tree.storages[ref.storage]).detach()
            looked[view] = beside.is_finite(tensor) if tensor.device.type == "cuda" else is_finite(tensor)
        if not looked[view]:
            found.append(ref.path)
    return tuple(dict.fromkeys(found))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no element in host memory is NaN or infinite; of integers and 8-bit floats that is not asked."""
    if tensor.dtype not in _BITS:
        return True
    width, exponent = _BITS[tensor.dtype]
    # In whatever order the numbers lie: only what fills no memory of its own has to be brought together first.
    memory = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.contiguous()
    raw = torch.empty(0, dtype=torch.uint8, device="cpu").set_(memory.untyped_storage()).numpy()
    start = memory.storage_offset() * memory.itemsize
    bits = raw[start : start + memory.nbytes].view(width)
    mask, masked = width(exponent), np.empty(min(_BLOCK, len(bits)), width)
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK]
        if np.bitwise_and(block, mask, out=masked[: len(block)]).max() == mask:
            return False
    return True
