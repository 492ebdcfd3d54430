"""One process, one device: the state is the objects' own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from holdfast.engine.group import Group, Solo
from holdfast.engine.lending import lendable
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
        """The state dicts, as they are; of their tensors, those of the optimizers are lent until they step."""
        parts = {
            name: value.state_dict() if isinstance(value, Stateful) else value
            for name, value in objects.items()
            if what.wants_part(name)
        }
        modules = {name: value for name, value in objects.items() if isinstance(value, torch.nn.Module)}
        trained = {
            f"{part}.{name}": parameter.requires_grad
            for part, module in modules.items()
            for name, parameter in module.named_parameters(remove_duplicate=False)
        }
        frozen = frozenset(name for name, is_trained in trained.items() if not is_trained)
        groups = {
            name: group_names(value, modules.values())
            for name, value in objects.items()
            if isinstance(value, torch.optim.Optimizer) and name in parts
        }
        optimizers = [value for value in objects.values() if isinstance(value, torch.optim.Optimizer)]
        lent = lendable(optimizers, modules.values())
        return Held(parts, frozen, groups, frozenset(trained) - frozen, lent)

    def restore(
        self,
        objects: Mapping[str, Any],
        parts: Mapping[str, Any],
        *,
        checkpoint: str,
        groups: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        """Check all, then load all: models first, whatever the order in which they were given."""
        problems = [p for name, state in parts.items() for p in _problems(name, objects[name], state)]
        problems += order_problems(objects, {n: g for n, g in (groups or {}).items() if n in parts})
        remedy = "Build the same model and optimizer as when it was saved, or load single parts of it."
        require_none(problems, checkpoint=checkpoint, remedy=remedy)
        for name in sorted(parts, key=lambda n: not isinstance(objects[n], torch.nn.Module)):
            try:
                _put(objects[name], parts[name])
            except Exception as error:  # the objects are the user's: their methods may raise anything
                raise Incompatible(
                    f"does not fit: {name} refused its state: {type(error).__name__}: {error}",
                    checkpoint=checkpoint,
                    good="Nothing on disk was changed.",
                    remedy="In memory the objects before it are changed already: build them anew.",
                ) from error


def require_none(problems: Sequence[str], *, checkpoint: str, remedy: str) -> None:
    """Refuse a checkpoint that does not fit, with all that is wrong in one error, before anything is changed.

    Raises:
        Incompatible: There are problems.
    """
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise Incompatible(
            f"does not fit: {shown}.",
            checkpoint=checkpoint,
            good="Nothing was changed, neither in memory nor on disk.",
            remedy=remedy,
        )


def _put(target: Any, state: Any) -> None:
    if isinstance(target, Stateful):
        target.load_state_dict(state)
        if isinstance(target, torch.optim.Optimizer) and state["state"]:
            # It has stepped, though not in this process: a scheduler that steps first would warn that it has not.
            target._opt_called = True  # type: ignore[attr-defined]
    elif isinstance(target, dict):
        target.clear()
        target.update(state)
    else:
        target[:] = state


def _problems(name: str, target: Any, state: Any) -> list[str]:
    if isinstance(target, torch.nn.Module):
        return module_problems(name, target, state)
    if isinstance(target, torch.optim.Optimizer):
        return optimizer_problems(name, target, state)
    if isinstance(target, (dict, list)) and not isinstance(state, type(target)):
        return [f"{name} is a {type(target).__name__} here and a {type(state).__name__} there"]
    return []


def module_problems(name: str, module: torch.nn.Module, state: Any) -> list[str]:
    """What keeps ``state`` out of ``module``: a sentence for each entry missing, extra, or of another kind or shape."""
    if not isinstance(state, dict):
        return [f"{name} holds a {type(state).__name__}, not a module's state"]
    own = module.state_dict()
    problems = [f"{name}.{key} is missing from the checkpoint" for key in own if key not in state]
    problems += [f"{name}.{key} is not in the model" for key in state if key not in own]
    for key, value in own.items():
        there = state.get(key)
        if isinstance(value, torch.Tensor) and isinstance(there, torch.Tensor) and value.shape != there.shape:
            problems.append(f"{name}.{key} has shape {list(value.shape)} here and {list(there.shape)} there")
        elif key in state and isinstance(value, torch.Tensor) != isinstance(there, torch.Tensor):
            problems.append(f"{name}.{key} is a {type(value).__name__} here and a {type(there).__name__} there")
    return problems


def optimizer_problems(name: str, optimizer: torch.optim.Optimizer, state: Any) -> list[str]:
    """What keeps ``state`` out of ``optimizer``: another kind, or groups of other sizes."""
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list):
        return [f"{name} holds no optimizer's state"]
    own = optimizer.state_dict()["param_groups"]
    there = state["param_groups"]
    if len(own) != len(there):
        return [f"{name} has {len(own)} parameter groups here and {len(there)} there"]
    unknown = sorted({key for group in there for key in group} - {key for group in own for key in group})
    lacking = sorted(key for key in optimizer.defaults if any(key not in group for group in there))
    if unknown and lacking:  # either alone may be another version of torch, or what a scheduler noted down
        kind = type(optimizer).__name__
        return [f"{name} is {kind} here, with {', '.join(lacking)}; there it is one with {', '.join(unknown)}"]
    return [
        f"{name}'s group {i} has {len(a['params'])} parameters here and {len(b['params'])} there"
        for i, (a, b) in enumerate(zip(own, there, strict=True))
        if len(a["params"]) != len(b["params"])
    ]


def order_problems(objects: Mapping[str, Any], groups: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Optimizers know parameters by place alone: in another order, each would get the state of another one."""
    modules = [value for value in objects.values() if isinstance(value, torch.nn.Module)]
    problems = []
    for name, there in groups.items():
        own = group_names(objects[name], modules) if isinstance(objects[name], torch.optim.Optimizer) else []
        for i, (mine, theirs) in enumerate(zip(own, there, strict=False)):
            pairs = [(a, b) for a, b in zip(mine, theirs, strict=False) if a and b and bare_name(a) != bare_name(b)]
            if pairs:
                a, b = pairs[0]
                problems.append(f"{name}'s group {i} has {a} here where it has {b} there")
    return problems


def bare_name(name: str) -> str:
    """The dotted name of a tensor or a submodule without what wrappers put into it: ``_orig_mod`` and ``module``."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module"))


def group_names(optimizer: torch.optim.Optimizer, modules: Iterable[torch.nn.Module]) -> list[list[str]]:
    """The names of an optimizer's parameters, group by group; empty for one that no module names."""
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    return [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]
