"""Decide which tensors a save may read in place: those that change in a step of their optimizer, and nowhere else.

Reads no data and waits for nobody; ``fence`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

LEAST = 64 * 2**10
"""Bytes from which a tensor is lent: a smaller one is copied in less time than it takes to keep watch over it."""


class Lent(NamedTuple):
    """A tensor that may be read in place, and the parameter whose optimizer changes it.

    Args:
        tensor: The tensor; of one that is divided among ranks, this rank's part.
        parameter: The parameter.
        counted: Where torch counts the changes that an optimizer makes, which works on the divided tensor.
    """

    tensor: torch.Tensor
    parameter: torch.Tensor
    counted: torch.Tensor


def part_here(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor is in this rank's memory: of one that is divided, the rank's part, else the tensor."""
    # A DTensor, of which a process that divides nothing need not know.
    part: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def lendable(optimizers: Iterable[torch.optim.Optimizer], modules: Iterable[torch.nn.Module] = ()) -> tuple[Lent, ...]:
    """The large tensors that optimizers own: their parameters, the state that they keep of these, or its part here.

    Not lent, and so copied when a save is taken, is what changes, or may, without a step that announces itself:
    a table that its module renormalises in forward, memory shared with other processes or with other tensors, an
    optimizer whose step a CUDA graph replays, or may on a GPU for all that its groups say, or whose ``step`` torch's
    hooks do not reach.

    Args:
        optimizers: Those whose steps change the state.
        modules: Those whose forward may.
    """
    moving = {
        id(table.weight)
        for module in modules
        for table in module.modules()
        if isinstance(table, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and table.max_norm is not None
    }
    return tuple(
        Lent(part_here(tensor), parameter, tensor)
        for optimizer in optimizers
        if getattr(optimizer.step, "hooked", False)
        for group in optimizer.param_groups
        for parameter in group["params"]
        # Those that know the word refuse to be captured without it; any other may be, SGD as well.
        if not group.get("capturable", parameter.is_cuda)
        for tensor in _of(optimizer, parameter)
        if id(tensor) not in moving and _stands_still(part_here(tensor))
    )


def _of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Iterator[torch.Tensor]:
    yield parameter
    if parameter in optimizer.state:
        yield from (value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))


def _stands_still(tensor: torch.Tensor) -> bool:
    """Whether a tensor is large, and alone in a memory of this process that keeps count of its changes."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
        return False
    if tensor.device.type not in ("cpu", "cuda") or tensor.nbytes < LEAST or tensor.is_inference():
        return False
    storage = tensor.untyped_storage()
    # Memory of a GPU is always said to be shared, for it can be.
    return storage.nbytes() == tensor.nbytes and (tensor.device.type == "cuda" or not storage.is_shared())
