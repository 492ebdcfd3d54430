"""One process, one device: the state is the objects' own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from holdfast.engine.group import Group, Solo
from holdfast.errors import ConfigError, Incompatible
from holdfast.policy.what import What
from holdfast.strategies.base import Held


@runtime_checkable
class Stateful(Protocol):
    """What has a state: anything with torch's two methods."""

    def state_dict(self) -> Any:
        """The state, as plain values and tensors."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Put a state back."""
        ...


def require_state(objects: Mapping[str, Any]) -> None:
    """Refuse what can neither give its state nor take one.

    Raises:
        ConfigError: All of them, by name.
    """
    wrong = [
        f"{name} is a {type(value).__name__}"
        for name, value in objects.items()
        if not isinstance(value, (Stateful, dict, list))
    ]
    if wrong:
        raise ConfigError(
            f"These have no state to save: {'; '.join(wrong)}.",
            remedy="Give objects with state_dict() and load_state_dict(), or a dict or list of plain values.",
        )


class Single:
    """The strategy of one process.

    Args:
        group: The other ranks, for those who bring their own; none by default.
    """

    def __init__(self, group: Group | None = None) -> None:
        self.group: Group = group or Solo()

    def capture(self, objects: Mapping[str, Any], what: What) -> Held:
        """The state dicts, as they are; tensors are lent."""
        parts = {
            name: value.state_dict() if isinstance(value, Stateful) else value
            for name, value in objects.items()
            if what.wants_part(name)
        }
        modules = {name: value for name, value in objects.items() if isinstance(value, torch.nn.Module)}
        frozen = frozenset(
            f"{part}.{name}"
            for part, module in modules.items()
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if not parameter.requires_grad
        )
        groups = {
            name: _group_names(value, modules.values())
            for name, value in objects.items()
            if isinstance(value, torch.optim.Optimizer) and name in parts
        }
        return Held(parts, frozen, groups)

    def restore(self, objects: Mapping[str, Any], parts: Mapping[str, Any], *, checkpoint: str) -> None:
        """Check all, then load all: models first, whatever the order in which they were given."""
        problems = [p for name, state in parts.items() for p in _problems(name, objects[name], state)]
        if problems:
            shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
            raise Incompatible(
                f"does not fit: {shown}.",
                checkpoint=checkpoint,
                good="Nothing was changed, neither in memory nor on disk.",
                remedy="Build the same model and optimizer as when it was saved, or load single parts of it.",
            )
        for name in sorted(parts, key=lambda n: not isinstance(objects[n], torch.nn.Module)):
            _put(objects[name], parts[name])


def _put(target: Any, state: Any) -> None:
    if isinstance(target, Stateful):
        target.load_state_dict(state)
    elif isinstance(target, dict):
        target.clear()
        target.update(state)
    else:
        target[:] = state


def _problems(name: str, target: Any, state: Any) -> list[str]:
    if isinstance(target, torch.nn.Module):
        return _module_problems(name, target, state)
    if isinstance(target, torch.optim.Optimizer):
        return _optimizer_problems(name, target, state)
    if isinstance(target, (dict, list)) and not isinstance(state, type(target)):
        return [f"{name} is a {type(target).__name__} here and a {type(state).__name__} there"]
    return []


def _module_problems(name: str, module: torch.nn.Module, state: Any) -> list[str]:
    if not isinstance(state, dict):
        return [f"{name} holds a {type(state).__name__}, not a module's state"]
    own = module.state_dict()
    problems = [f"{name}.{key} is missing from the checkpoint" for key in own if key not in state]
    problems += [f"{name}.{key} is not in the model" for key in state if key not in own]
    for key, value in own.items():
        there = state.get(key)
        if isinstance(value, torch.Tensor) and isinstance(there, torch.Tensor) and value.shape != there.shape:
            problems.append(f"{name}.{key} has shape {list(value.shape)} here and {list(there.shape)} there")
    return problems


def _optimizer_problems(name: str, optimizer: torch.optim.Optimizer, state: Any) -> list[str]:
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list):
        return [f"{name} holds no optimizer's state"]
    own = optimizer.state_dict()["param_groups"]
    there = state["param_groups"]
    if len(own) != len(there):
        return [f"{name} has {len(own)} parameter groups here and {len(there)} there"]
    return [
        f"{name}'s group {i} has {len(a['params'])} parameters here and {len(b['params'])} there"
        for i, (a, b) in enumerate(zip(own, there, strict=True))
        if len(a["params"]) != len(b["params"])
    ]


def _group_names(optimizer: torch.optim.Optimizer, modules: Iterable[torch.nn.Module]) -> list[list[str]]:
    """The names of an optimizer's parameters, group by group; empty for one that no module names."""
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    return [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]
