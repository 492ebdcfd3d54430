"""The verbs by which a loop reaches torch on one device. What is spread over processes overrides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from holdfast.errors import ConfigError
from holdfast.state.optimizers import move
from holdfast.state.precision import Precision
from holdfast.strategies.answers import Answers
from holdfast.strategies.single import Single
from holdfast.strategies.world import World

T = TypeVar("T")


class SingleDevice(Single, Answers):
    """One process, one device: everything that a training loop asks of torch.

    Args:
        device: The device.
        precision: The kind of numbers.
    """

    asked_as = "SingleDeviceStrategy"

    def __init__(self, device: torch.device, precision: Precision) -> None:
        super().__init__()
        self.world = World(rank=0, size=1, local_rank=0, local_size=1)
        self.device = device
        self.precision = precision
        self.stepping = False
        self.spread, self.infers = False, True
        self.divides = False

    def launch(self, run: Callable[[], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """The result of ``run``: this process is the only rank, and nothing needs to come home."""
        return run()

    def model_context(self) -> AbstractContextManager[Any]:
        """None: layers are made as they are written."""
        return nullcontext()

    def setup(self, module: nn.Module, *, training: bool) -> None:
        """Bring the module to the device, in the kind of numbers asked for."""
        self.precision.convert(module)
        module.to(self.device)

    def setup_optimizers(self, optimizers: Sequence[Optimizer]) -> None:
        """Bring what the optimizers hold already to the device of their parameters."""
        for optimizer in optimizers:
            move(optimizer, self.device)

    def sampled(self, loader: Any, *, training: bool) -> Any:
        """The loader itself: the one rank takes all samples."""
        return loader

    def cast(self, batch: Any) -> Any:
        """A batch in the kind of numbers asked for."""
        return mapped(batch, self.precision.input) if self.precision.casts_input else batch

    def move(self, batch: Any, device: torch.device) -> Any:
        """Every tensor in a batch, on the device; what has a ``to`` of its own is asked for it."""
        if device.type == "cpu":
            return batch
        return mapped(batch, lambda t: t.to(device, non_blocking=True))

    def forward(self, step: Callable[..., T], *args: Any) -> T:
        """Call a step in the kind of numbers asked for."""
        if self.precision.plain:
            return step(*args)
        with self.precision.forward():
            return step(*args)

    def no_sync(self, module: Any) -> AbstractContextManager[Any]:
        """None: there is nobody to agree with."""
        return nullcontext()

    def backward(self, module: Any, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass of the loss, scaled where the precision says so."""
        module.backward(self.precision.scaled(loss), *args, **kwargs)

    def clip(self, optimizer: Optimizer, value: float, algorithm: str) -> None:
        """Clip an optimizer's gradients by their norm or by value.

        Raises:
            ConfigError: The algorithm is neither.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if algorithm == "norm":
            nn.utils.clip_grad_norm_(parameters, value)
        elif algorithm == "value":
            nn.utils.clip_grad_value_(parameters, value)
        else:
            raise ConfigError(f"gradient_clip_algorithm is 'norm' or 'value', not {algorithm!r}.")

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None, before: Callable[[Optimizer], None]) -> Any:
        """Compute the closure, let ``before`` look at the gradients, step the optimizer."""

        def stepping(looked_at: Optimizer) -> None:
            before(looked_at)
            self.stepping = True

        # An error leaves ``stepping`` true: the weights may be half a step on then.
        loss = self.precision.step(optimizer, closure, stepping)
        self.stepping = False
        return loss

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Drop the gradients."""
        if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
            optimizer.zero_grad()
            return
        # What torch's own does, less a mark for its profiler, which takes longer than all the rest of a small step.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def whole(self, state: Any) -> tuple[Any, list[torch.Tensor]]:
        """The state itself: nothing of it is elsewhere, and no tensor is made for it."""
        return state, []

    def load_module(self, module: nn.Module, state: Any, *, strict: bool) -> None:
        """Put a module's state back."""
        module.load_state_dict(state, strict=strict)

    def load_optimizer(self, optimizer: Optimizer, state: Any) -> None:
        """Put an optimizer's state back."""
        optimizer.load_state_dict(state)

    def gradients(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The gradients that wait for more, by parameter name."""
        return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    def load_gradients(self, module: nn.Module, gradients: Mapping[str, torch.Tensor]) -> None:
        """Put gradients back."""
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)

    def reduce(self, tensor: torch.Tensor, operation: str = "mean", *, what: str = "a value") -> torch.Tensor:
        """The value over all ranks: with one, the tensor itself."""
        return tensor

    def waited(self, error: BaseException) -> bool:
        """There is nobody to wait for."""
        return False

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def teardown(self, module: nn.Module) -> None:
        """Leave the module where users can go on with it."""
        if self.device.type != "cpu":
            module.cpu()


def mapped(batch: Any, change: Callable[[Any], Any], kinds: tuple[type, ...] = (torch.Tensor,)) -> Any:
    """A structure with each of its tensors changed, or each thing of other kinds."""
    if isinstance(batch, kinds):
        return change(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(item, change, kinds) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(mapped(item, change, kinds) for item in batch)
    if isinstance(batch, Mapping):
        return type(batch)({key: mapped(value, change, kinds) for key, value in batch.items()})  # type: ignore[call-arg]
    return batch
