"""How a module is divided among ranks, its tensors gathered again, and whole ones divided. Runs no step of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from holdfast.errors import ConfigError
from holdfast.strategies.training import mapped

Policy = Collection[type[nn.Module]] | Callable[[nn.Module], bool]
"""Which modules are gathered by themselves: their classes, or what says so of each."""

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def units(module: nn.Module, policy: Policy | None, *, whole: bool) -> list[nn.Module]:
    """The modules each of which is gathered at once, inner ones first; without those that users have sharded.

    Args:
        module: The outermost one.
        policy: Which modules within it.
        whole: Whether what is left is gathered with the outermost module, or child by child: with manual optimisation
            a step has several backward passes, and each needs a forward pass of its own to prepare it.
    """
    outer = [module] if whole else list(_children(module))
    inner = [
        part
        for one in outer
        if not isinstance(one, FSDPModule)
        for part in one.modules()
        if part is not one and _chosen(part, policy) and not (whole and _shares(part, module))
    ]
    return [one for one in (*reversed(inner), *outer) if not isinstance(one, FSDPModule)]


def undivided(unit: nn.Module, *, others: Iterable[nn.Module] = ()) -> set[nn.Parameter]:
    """The parameters of a unit that every rank keeps whole, because torch cannot divide them.

    Those without dimensions, those that are trained in another dtype than most, and those that other units hold too.
    """
    parameters = [p for p in unit.parameters() if not isinstance(p, DTensor)]
    trained = [p for p in parameters if p.requires_grad and p.dim()]
    sizes: dict[torch.dtype, int] = {}
    for p in trained:
        sizes[p.dtype] = sizes.get(p.dtype, 0) + p.numel()
    common = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    elsewhere = {id(p) for other in others if other is not unit for p in other.parameters()}
    return {p for p in parameters if not p.dim() or (p.requires_grad and p.dtype != common) or id(p) in elsewhere}


def materialise(unit: nn.Module, device: torch.device) -> None:
    """Give the layers of a unit that were made on the meta device their memory and their first values.

    Raises:
        ConfigError: One of them has no ``reset_parameters()``, so that nobody knows what its values are.
    """
    for part in unit.modules():
        held = (*part.parameters(recurse=False), *part.buffers(recurse=False))
        if not any(tensor.is_meta and not isinstance(tensor, DTensor) for tensor in held):
            continue
        reset = getattr(part, "reset_parameters", None)
        if not callable(reset):
            raise ConfigError(
                f"a {type(part).__name__} was made on the meta device, and has no reset_parameters() to fill it.",
                remedy="Give it one, or make it on the CPU.",
            )
        each_tensor(part, lambda t: torch.empty_like(t, device=device) if t.is_meta else t, recurse=False)
        reset()


def each_tensor(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor], *, recurse: bool = True) -> None:
    """Change each parameter, buffer and gradient of a module, as ``Module.to`` does."""
    module._apply(change, recurse=recurse)  # type: ignore[no-untyped-call]  # torch's stubs lack it


def made_alike(unit: nn.Module) -> None:
    """Give every rank the values of rank 0: ranks may have been seeded differently. A collective."""
    for tensor in (*unit.parameters(), *unit.buffers()):
        if not isinstance(tensor, DTensor) and not tensor.is_meta:
            dist.broadcast(tensor.detach(), 0)


def replicas_alike(module: nn.Module) -> None:
    """Give all ranks that hold the same part of a parameter the values of the first of them. A collective."""
    for p in map(torch.Tensor.detach, module.parameters()):
        if not isinstance(p, DTensor) or p.is_meta:
            continue
        for dimension, placement in enumerate(p.placements):
            if placement.is_replicate():
                dist.broadcast(p.to_local(), group=p.device_mesh.get_group(dimension), group_src=0)


def require_own(module: nn.Module, size: int) -> None:
    """Refuse what a user has divided in another way than ``fully_shard`` does over all ranks.

    Raises:
        ConfigError: A parameter is not divided among all ranks, or replicated over some and divided among the rest.
    """
    sharded = {id(p) for part in module.modules() if isinstance(part, FSDPModule) for p in part.parameters()}
    for name, p in module.named_parameters():
        if not isinstance(p, DTensor):
            continue
        *outer, last = p.placements
        own = id(p) in sharded and len(outer) <= 1 and all(one.is_replicate() for one in outer) and last.is_shard()
        if own and type(last) is Shard and p.device_mesh.size() == size:
            continue
        mesh = " x ".join(map(str, p.device_mesh.shape))
        raise ConfigError(
            f"'{name}' is divided as {tuple(p.placements)} over {mesh} of {size} ranks. strategy='fsdp' goes with what "
            "fully_shard divides among all ranks, replicated over one dimension of a mesh or not; tensor parallel is "
            "not there.",
            remedy="Give fully_shard a mesh of one dimension, or of two: replicate, shard.",
        )


class Gatherer:
    """Gathers the tensors of one state, each of them once: what is one tensor stays one.

    Attributes:
        made: What it has kept that shares no memory with the state.

    Args:
        keeps: Whether this rank keeps what is gathered; the others take part, and get empty tensors.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self.made: list[torch.Tensor] = []
        self._known: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def gathered(self, state: Any) -> Any:
        """The state with its tensors whole, one after the other. A collective."""
        return mapped(state, self._one)

    def _one(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        local = tensor.to_local()
        # All ranks must come to the same answer, also where a rank's own part is empty: its storage tells even then.
        key = (local.untyped_storage()._cdata, local.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._known:
            full = tensor.full_tensor()
            whole = full.to("cpu") if self._keeps else full.new_empty(0)
            # Of one rank, or of replicas, it is this rank's own part; and what inference made counts no changes.
            own = whole.untyped_storage().data_ptr() == local.untyped_storage().data_ptr()
            if self._keeps and not own and not whole.is_inference():
                self.made.append(whole)
            # The part is kept beside, so that no other one gets its memory meanwhile.
            self._known[key] = whole, local
        return self._known[key][0]


def divided(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A module's state with this rank's parts of its tensors."""
    return {name: part_of(value, own.get(name)) for name, value in state.items()}


def part_of(value: Any, like: Any) -> Any:
    """This rank's part of a whole tensor, where it is to replace one of which there are parts."""
    if not isinstance(value, torch.Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    # Every rank has read the file: nothing needs to be sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor is here; to change it changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of gradients of which some are divided and some are whole, on every rank. A collective."""
    norms = []
    for kind in (True, False):
        if some := [g for g in gradients if isinstance(g, DTensor) is kind]:
            norm = nn.utils.get_total_norm(some)
            norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack([n.float() for n in norms]))


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The modules below that have a forward pass of their own, and parameters."""
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            yield from _children(child)
        elif any(True for _ in child.parameters()):
            yield child


def _chosen(part: nn.Module, policy: Policy | None) -> bool:
    if policy is None or isinstance(part, (FSDPModule, *_CONTAINERS)):
        return False
    return policy(part) if callable(policy) else type(part) in policy


def _shares(part: nn.Module, module: nn.Module) -> bool:
    """Whether a parameter of ``part`` is one of a module outside of it too: it is gathered with the outer one then."""
    inside = set(part.modules())
    own = {id(p) for p in part.parameters()}
    return any(id(p) in own for m in module.modules() if m not in inside for p in m.parameters(recurse=False))
