"""Numbers of which kind: casting, autocast, and the scaler of half precision, which is state."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.optim import Optimizer

from holdfast.errors import ConfigError

_NAMES = {
    "32": "32-true", "32-true": "32-true", "64": "64-true", "64-true": "64-true",
    "16": "16-mixed", "16-mixed": "16-mixed", "bf16": "bf16-mixed", "bf16-mixed": "bf16-mixed",
    "16-true": "16-true", "bf16-true": "bf16-true",
}  # fmt: skip
_TRUE = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}
_AS_IT_IS = nullcontext()
_MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class Precision:
    """One of the kinds of numbers.

    Args:
        name: ``"32-true"``, ``"64-true"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"bf16-true"``, ``"16-true"``, or the
            number alone.
        device: Where the computation runs.

    Raises:
        ConfigError: The name is not known.
    """

    def __init__(self, name: str | int, device: torch.device) -> None:
        if str(name) not in _NAMES:
            raise ConfigError(f"precision={name!r} is not one of {', '.join(sorted(set(_NAMES.values())))}.")
        self.name = _NAMES[str(name)]
        self._device = device
        self._dtype = _TRUE.get(self.name)
        self.casts_input = self._dtype is not None
        """Whether ``input`` does anything."""
        self.autocasts = self.name in _MIXED
        self.plain = self._dtype is None and not self.autocasts
        """Whether a step computes as it is written, so that ``forward`` does nothing."""
        self.scaler = torch.amp.GradScaler(device.type) if self.name == "16-mixed" else None

    def convert(self, module: torch.nn.Module) -> None:
        """Cast a module's floating point parameters and buffers where the kind is not mixed."""
        if self._dtype is not None:
            module.to(self._dtype)

    def forward(self) -> AbstractContextManager[Any]:
        """The context in which a step computes."""
        if self.autocasts:
            return torch.autocast(self._device.type, dtype=_MIXED[self.name])
        return _AS_IT_IS if self._dtype is None else _default_dtype(self._dtype)

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a batch, cast where the kind is not mixed."""
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss that is differentiated."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None, before: Callable[[Optimizer], None]) -> Any:
        """Compute, unscale, let ``before`` look at the gradients, step.

        Torch's own optimizers step after the closure, others and LBFGS call it as often as they like. A closure
        that returns None has added no gradients: the step is taken with those there are.
        """
        if self.scaler is None and closure is not None and _evaluates(optimizer):

            def evaluate() -> Any:
                loss = closure()
                before(optimizer)
                return loss

            return optimizer.step(evaluate)
        loss = closure() if closure is not None else None
        if self.scaler is None:
            before(optimizer)
            optimizer.step()
        elif any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            self.scaler.unscale_(optimizer)
            before(optimizer)
            self.scaler.step(optimizer)
            self.scaler.update()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state; empty where there is none."""
        return self.scaler.state_dict() if self.scaler is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


def _evaluates(optimizer: Optimizer) -> bool:
    """Whether an optimizer may call its closure more than once."""
    return isinstance(optimizer, torch.optim.LBFGS) or not type(optimizer).__module__.startswith("torch.optim.")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """What a step makes is of the same kind as its parameters."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
