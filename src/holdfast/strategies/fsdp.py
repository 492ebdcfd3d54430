"""Many processes, each with a part of every parameter: torch's ``fully_shard``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from holdfast.errors import ConfigError
from holdfast.state.precision import Precision
from holdfast.strategies import sharding
from holdfast.strategies.averaging import averaged
from holdfast.strategies.ddp import Distributed
from holdfast.strategies.launch import Launcher
from holdfast.strategies.sharding import Policy
from holdfast.strategies.world import World

T = TypeVar("T")

_CALL = "_holdfast_call"


class Sharded(Distributed):
    """A part of every parameter, gradient and optimizer state on each rank.

    What users have sharded in ``configure_model`` stays as it is; the rest is sharded as a whole, or by a policy. What
    torch cannot divide (parameters without dimensions, or trained in another dtype than the others of their module)
    every rank keeps whole. Gradients are averaged in each backward pass, also where several make one step: so every
    rank's gradients take no more memory than its part of the parameters, and a checkpoint between them is exact.

    Args:
        devices, precision, launcher, world: As for ``Distributed``.
        policy: Which modules are gathered by themselves for their forward pass; by default the module as a whole.
        reshard_after_forward: Whether parameters are given up between the forward and the backward pass.
        divides: Whether each rank writes its own part of a checkpoint; otherwise rank 0 gathers and writes one file.
        shared: ``backend`` and ``timeout`` of ``Distributed``.

    Raises:
        ConfigError: ``precision="16-mixed"``: its scaler looks at each rank's gradients alone.
    """

    asked_as = "FSDPStrategy"

    def __init__(
        self,
        devices: list[torch.device],
        precision: Precision,
        launcher: Launcher,
        world: World,
        *,
        policy: Policy | None = None,
        reshard_after_forward: bool | None = None,
        divides: bool = False,
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
        self.divides = divides
        self._mesh: DeviceMesh | None = None
        self._call: Callable[..., Any] | None = None
        self._whole: list[nn.Parameter] = []

    def setup(self, module: nn.Module, *, training: bool) -> None:
        """Shard the module, which every rank has made alike; what rank 0 has is what all get."""
        sharding.require_own(module, self.world.size)
        self.precision.convert(module)
        sharding.each_tensor(module, lambda t: t if t.is_meta else t.to(self.device))
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
        sharding.replicas_alike(module)
        automatic = bool(getattr(module, "automatic_optimization", True))
        # Memory for a part of the module at a time, where it was made on the meta device.
        units = sharding.units(module, self._policy, whole=automatic)
        others = () if automatic else units
        for unit in units:
            sharding.materialise(unit, self.device)
            sharding.made_alike(unit)
            # Between the steps of several optimizers what is gathered must not stay: it would be of before the step.
            reshard = True if self._reshard is None and not automatic else self._reshard
            self._shard(unit, sharding.undivided(unit, others=others), reshard)
        sharding.materialise(module, self.device)
        self._whole = [p for p in module.parameters() if not isinstance(p, DTensor)]
        if not automatic:
            sharding.made_alike(module)
            self._call = None
            return
        # Steps go through one method that torch takes for a forward pass of the outermost module.
        setattr(module, _CALL, MethodType(_call, module))
        register_fsdp_forward_method(module, _CALL)
        self._call = getattr(module, _CALL)

    def _shard(self, unit: nn.Module, undivided: set[nn.Parameter], reshard: bool | None) -> None:
        self._mesh = self._mesh or init_device_mesh(self.device.type, (self.world.size,))
        kind = torch.bfloat16 if self.precision.name == "bf16-mixed" else None
        numbers = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32 if kind is not None else None)
        fully_shard(
            unit,
            mesh=self._mesh,
            mp_policy=numbers,
            reshard_after_forward=reshard,
            ignored_params=undivided,
        )

    def forward(self, step: Callable[..., T], *args: Any) -> T:
        """Call a step with its parameters gathered; with manual optimisation, each child gathers its own."""
        if self._call is None:
            return super().forward(step, *args)
        with self.precision.forward():
            result: T = self._call(step, *args)
            return result

    def backward(self, module: Any, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, at the end of which every rank has its part of the mean of all gradients."""
        whole = [p for p in self._whole if p.requires_grad]
        before = [p.grad for p in whole]
        for p in whole:
            p.grad = None
        super().backward(module, loss, *args, **kwargs)
        means = averaged(whole, [p.grad for p in whole], self.world.size)
        for p, earlier, mean in zip(whole, before, means, strict=True):
            p.grad = earlier if mean is None else mean if earlier is None else earlier + mean

    def clip(self, optimizer: Optimizer, value: float, algorithm: str) -> None:
        """Clip an optimizer's gradients, by the norm of all of them on all ranks or by value.

        Raises:
            ConfigError: The algorithm is neither.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if algorithm == "norm" and gradients:
            factor = (value / (sharding.total_norm(gradients) + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                sharding.local_part(gradient).mul_(factor)
        elif algorithm == "value":
            for gradient in gradients:
                sharding.local_part(gradient).clamp_(-value, value)
        elif algorithm != "norm":
            super().clip(optimizer, value, algorithm)

    def whole(self, state: Any) -> tuple[Any, list[torch.Tensor]]:
        """The state with its tensors gathered one by one, on rank 0; elsewhere, with empty ones in their place."""
        # The other ranks must take part, and must not fill up with what only rank 0 writes.
        gatherer = sharding.Gatherer(keeps=self.world.rank == 0)
        return gatherer.gathered(state), gatherer.made

    def load_module(self, module: nn.Module, state: Any, *, strict: bool) -> None:
        """Load whole tensors; each rank takes its part."""
        super().load_module(module, sharding.divided(state, module.state_dict()), strict=strict)

    def load_optimizer(self, optimizer: Optimizer, state: Any) -> None:
        """Load whole tensors; each rank takes its part."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        held = {
            key: {name: sharding.part_of(value, parameters[key]) for name, value in one.items()}
            if key < len(parameters)
            else one
            for key, one in state["state"].items()
        }
        super().load_optimizer(optimizer, {**state, "state": held})

    def load_gradients(self, module: nn.Module, gradients: Mapping[str, torch.Tensor]) -> None:
        """Put whole gradients back, each rank its part."""
        own = dict(module.named_parameters())
        super().load_gradients(module, {name: sharding.part_of(g, own.get(name)) for name, g in gradients.items()})

    def teardown(self, module: nn.Module) -> None:
        """Leave the module as it is: each rank's part stays on its device."""


def _call(module: nn.Module, step: Callable[..., Any], *args: Any) -> Any:
    return step(*args)
