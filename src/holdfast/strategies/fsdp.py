"""Many processes, each with a part of every parameter: torch's ``fully_shard``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from holdfast.errors import ConfigError
from holdfast.state.precision import Precision
from holdfast.strategies.ddp import Distributed
from holdfast.strategies.launch import Launcher
from holdfast.strategies.training import mapped
from holdfast.strategies.world import World

T = TypeVar("T")

Policy = Collection[type[nn.Module]] | Callable[[nn.Module], bool]
"""Which modules are sharded by themselves: their classes, or what says so of each."""

_CALL = "_holdfast_call"


class Sharded(Distributed):
    """A part of every parameter, gradient and optimizer state on each rank.

    What users have sharded in ``configure_model`` stays as it is; the rest is sharded as a whole, or by a policy.

    Args:
        devices, precision, launcher, world: As for ``Distributed``.
        policy: Which modules are gathered by themselves for their forward pass; by default the module as a whole.
        reshard_after_forward: Whether parameters are given up between the forward and the backward pass.
        shared: ``backend`` and ``timeout`` of ``Distributed``.

    Raises:
        ConfigError: ``precision="16-mixed"``: its scaler looks at each rank's gradients alone.
    """

    def __init__(
        self,
        devices: list[torch.device],
        precision: Precision,
        launcher: Launcher,
        world: World,
        *,
        policy: Policy | None = None,
        reshard_after_forward: bool | None = None,
        **shared: Any,
    ) -> None:
        if precision.scaler is not None:
            raise ConfigError(
                "precision='16-mixed' does not go with strategy='fsdp'.",
                remedy="Use 'bf16-mixed', which needs no scaler.",
            )
        super().__init__(devices, precision, launcher, world, **shared)
        self._policy, self._reshard = policy, reshard_after_forward
        # What is gathered in inference mode could not be used for training afterwards.
        self.spread, self.infers = True, False
        self._mesh: DeviceMesh | None = None
        self._call: Callable[..., Any] | None = None

    def setup(self, module: nn.Module, *, training: bool) -> None:
        """Shard the module, which every rank has made alike; what rank 0 has is what all get."""
        super().setup(module, training=training)
        if not isinstance(module, FSDPModule):
            self._share_weights(module)
            for part in reversed([m for m in module.modules() if m is not module and self._by_itself(m)]):
                self._shard(part)
            self._shard(module)
        # Steps go through one method that torch takes for a forward pass of the outermost module.
        setattr(module, _CALL, MethodType(_call, module))
        register_fsdp_forward_method(module, _CALL)
        self._call = getattr(module, _CALL)

    def _share_weights(self, module: nn.Module) -> None:
        """Ranks may have been seeded differently: those tensors that are whole still are made alike."""
        for tensor in (*module.parameters(), *module.buffers()):
            if not isinstance(tensor, DTensor) and not tensor.is_meta:
                torch.distributed.broadcast(tensor.detach(), 0)

    def _by_itself(self, module: nn.Module) -> bool:
        if self._policy is None or isinstance(module, FSDPModule):
            return False
        return self._policy(module) if callable(self._policy) else type(module) in self._policy

    def _shard(self, module: nn.Module) -> None:
        self._mesh = self._mesh or init_device_mesh(self.device.type, (self.world.size,))
        kind = torch.bfloat16 if self.precision.name == "bf16-mixed" else None
        numbers = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32 if kind is not None else None)
        fully_shard(module, mesh=self._mesh, mp_policy=numbers, reshard_after_forward=self._reshard)

    def forward(self, step: Callable[..., T], *args: Any) -> T:
        """Call a step with its parameters gathered."""
        assert self._call is not None, "setup() comes first"
        with self.precision.forward():
            result: T = self._call(step, *args)
            return result

    @contextmanager
    def _unsynchronised(self, module: FSDPModule) -> Any:
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def no_sync(self, module: Any) -> AbstractContextManager[Any]:
        """Gradients stay whole on their rank meanwhile, which takes their memory."""
        context: AbstractContextManager[Any] = self._unsynchronised(module)
        return context

    def whole(self, state: Any) -> Any:
        """The state with its tensors gathered one by one, on rank 0; elsewhere, with empty ones in their place."""
        return mapped(state, self._gathered)

    def _gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        full = tensor.full_tensor()
        # The other ranks must take part, and must not fill up with what only rank 0 writes.
        return full.to("cpu") if self.world.rank == 0 else full.new_empty(0)

    def load_module(self, module: nn.Module, state: Any, *, strict: bool) -> None:
        """Load whole tensors; each rank takes its part."""
        super().load_module(module, _divided(state, module.state_dict()), strict=strict)

    def load_optimizer(self, optimizer: Optimizer, state: Any) -> None:
        """Load whole tensors; each rank takes its part."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        held = {
            key: {name: _part_of(value, parameters[key]) for name, value in one.items()}
            if key < len(parameters)
            else one
            for key, one in state["state"].items()
        }
        super().load_optimizer(optimizer, {**state, "state": held})


def _call(module: nn.Module, step: Callable[..., Any], *args: Any) -> Any:
    return step(*args)


def _divided(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    return {name: _part_of(value, own.get(name)) for name, value in state.items()}


def _part_of(value: Any, like: Any) -> Any:
    """This rank's part of a whole tensor, where it is to replace one of which there are parts."""
    if not isinstance(value, torch.Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    # Every rank has read the file: nothing needs to be sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
