"""Small functions on tensors and memory that programs know from Lightning's utilities. Keeps nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from holdfast.errors import ConfigError


def grad_norm(module: nn.Module, norm_type: float | int | str, group_separator: str = "/") -> dict[str, torch.Tensor]:
    """The norm of each parameter's gradient, and that of all of them as one vector.

    Args:
        module: Where the parameters are; those without a gradient are left out.
        norm_type: The order of the norm, above 0; ``"inf"`` is the largest element.
        group_separator: What stands before a parameter's name.

    Returns:
        Norms by ``grad_P_norm/NAME``, and ``grad_P_norm_total``; nothing where there is no gradient.

    Raises:
        ConfigError: There is no such norm.
    """
    order = float(norm_type)
    if not order > 0:
        raise ConfigError(f"grad_norm: norm_type is a number above 0 or 'inf', not {norm_type!r}.")
    norms = {
        f"grad_{order}_norm{group_separator}{name}": torch.linalg.vector_norm(parameter.grad.detach(), order)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if norms:
        norms[f"grad_{order}_norm_total"] = torch.linalg.vector_norm(
            torch.stack([n.cpu() for n in norms.values()]), order
        )
    return norms


def move_data_to_device(batch: Any, device: torch.device | str | int) -> Any:
    """A batch whose tensors, and whatever else has a ``to``, are on the device."""
    return _mapped(batch, lambda value: value.to(device))


def recursive_detach(in_dict: Any, to_cpu: bool = False) -> Any:
    """A copy of nested values whose tensors are detached, and on the CPU where that is asked for."""

    def detached(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().cpu() if to_cpu else value.detach()

    return _mapped(in_dict, detached)


def garbage_collection_cuda() -> None:
    """Collect garbage, and give the memory of an accelerator that is free back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_oom_error(exception: BaseException) -> bool:
    """Whether memory ran out, of an accelerator or of the host."""
    if isinstance(exception, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(exception, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(exception)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if hasattr(value, "to") or isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return type(value)({key: _mapped(item, change) for key, item in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value
