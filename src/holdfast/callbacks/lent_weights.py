"""Let a module compute with other weights for a while. Copies no weight of its own, and never lets them be saved."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from holdfast.errors import ConfigError


def refuse_shards(callback: str, module: nn.Module) -> None:
    """Refuse a module that is divided over ranks: a copy of a part would be an average of nothing.

    Raises:
        ConfigError: It is.
    """
    if any(hasattr(parameter, "device_mesh") for parameter in module.parameters()):
        raise ConfigError(
            f"{callback} keeps a copy of the whole module, and the strategy has divided it over ranks.",
            remedy="Use a strategy that keeps it whole on each, such as 'ddp'.",
        )


class LentWeights:
    """While it stands, a module computes with other weights, and its ``state_dict`` still gives its own.

    The parameters stay the same objects, on other memory: nothing that optimizers own or that a save is reading is
    written to, and whatever saves the module meanwhile saves what it trains.

    Args:
        module: The module.
        others: Tensors by the name of the parameter or buffer whose place they take; those of another device are
            copied to it.
    """

    def __init__(self, module: nn.Module, others: Mapping[str, torch.Tensor]) -> None:
        tensors: dict[str, torch.Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._tensors = {name: tensors[name] for name in others if name in tensors}
        self._own = {name: tensor.data for name, tensor in self._tensors.items()}
        every = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        first = {id(tensor): name for name, tensor in self._tensors.items()}
        self._names = {name: first[id(tensor)] for name, tensor in every.items() if id(tensor) in first}
        # A partial, because torch sets an attribute on what it is given.
        self._hook = module.register_state_dict_post_hook(partial(self._put_own))  # type: ignore[no-untyped-call]
        with torch.inference_mode(False):
            for name, tensor in self._tensors.items():
                tensor.data = others[name].detach().to(tensor.device)
        self._versions = self._count()

    @property
    def own(self) -> Mapping[str, torch.Tensor]:
        """The module's own weights, by name; tied ones under their first name."""
        return self._own

    @property
    def untouched(self) -> bool:
        """Whether nobody has written to the weights that took their place."""
        return self._count() == self._versions

    def give_back(self) -> None:
        """The module computes with its own weights again."""
        for name, tensor in self._tensors.items():
            tensor.data = self._own[name]
        self._hook.remove()

    def keep(self) -> None:
        """The module keeps the others for good: its ``state_dict`` gives them from now on."""
        self._hook.remove()

    def own_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict of the module with its own weights in it."""
        return {name: self._own[self._names[name]] if name in self._names else value for name, value in state.items()}

    def _put_own(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name, first in self._names.items():
            if prefix + name in state:
                state[prefix + name] = self._own[first]

    def _count(self) -> int:
        return sum(tensor._version for tensor in self._tensors.values() if not tensor.is_inference())
