"""What goes into each layer of a module and comes out of it, seen while an example runs through. Leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from holdfast.errors import ConfigError
from holdfast.state import random
from holdfast.strategies.training import mapped

if TYPE_CHECKING:
    from holdfast.state.precision import Precision

Size: TypeAlias = "list[Any] | str"
"""The shape of a tensor; of several a list of shapes; ``UNKNOWN`` of what is none."""
UNKNOWN = "?"


def sizes(module: nn.Module, example: Any, precision: Precision | None = None) -> dict[str, tuple[Size, Size]]:
    """The size of what each layer got at its first call, and of what it returned then, by its name.

    The module is in evaluation mode meanwhile, without gradients; modes and random numbers are as before afterwards. A
    module with lazy parameters is left alone: a call would make them.

    Args:
        module: The module; ``""`` is its own name.
        example: What it is called with: one argument, a tuple of several, or a dict of them by name.
        precision: In which kind of numbers; None for as it is.

    Raises:
        ConfigError: It cannot be called so.
    """
    if any(map(is_lazy, module.parameters())):
        return {}
    found: dict[str, tuple[Size, Size]] = {}
    hooks = [layer.register_forward_hook(_watching(name, found)) for name, layer in module.named_modules()]
    try:
        with _untouched(module), torch.no_grad(), nullcontext() if precision is None else precision.forward():
            _call(module, _prepared(example, module, precision))
    except Exception as error:  # the module's own code runs
        raise ConfigError(
            f"The summary ran example_input_array through {type(module).__name__}, which raised {error!r}.",
            remedy="Make it what forward() takes, set it to None, or ask for no summary: enable_model_summary=False.",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _call(module: nn.Module, example: Any) -> None:
    if isinstance(example, Mapping):
        module(**example)
    elif isinstance(example, tuple):
        module(*example)
    else:
        module(example)


def _watching(name: str, found: dict[str, tuple[Size, Size]]) -> Callable[..., None]:
    def seen(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        found.setdefault(name, (_size(given[0] if len(given) == 1 else given), _size(result)))

    return seen


def _size(value: Any) -> Size:
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, (list, tuple)) and value:
        return [_size(item) for item in value]
    return UNKNOWN


def _prepared(example: Any, module: nn.Module, precision: Precision | None) -> Any:
    """The example where the module's parameters are, in its kind of numbers."""
    some = next(module.parameters(), None)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        moved = tensor if some is None else tensor.to(some.device)
        return moved if precision is None else precision.input(moved)

    return mapped(example, change)


@contextmanager
def _untouched(module: nn.Module) -> Generator[None, None, None]:
    """Run it in evaluation mode, and put modes and random numbers back."""
    modes, drawn = {layer: layer.training for layer in module.modules()}, random.capture()
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training
        random.restore(drawn)
