"""A fit's state as one dictionary, under the keys that readers of this family of files know; and back again.

Hooks of users see and edit this dictionary; what they leave in it is what is saved, and what is put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from holdfast.callbacks.callback import Callback
from holdfast.formats.lightning import LIGHTNING_VERSION
from holdfast.log import logger
from holdfast.policy.values import Progress
from holdfast.policy.what import What
from holdfast.state import random
from holdfast.strategies.single import group_names, module_problems, optimizer_problems, order_problems, require_none
from holdfast.training.hparams import checkpoint_entries

if TYPE_CHECKING:
    from holdfast.engine.job import Captured

OWN = "holdfast"


@dataclass
class Parts:
    """Everything of a fit that has a state.

    Args:
        module: The module.
        datamodule: The datamodule, if any.
        callbacks: The callbacks.
        optimizers: The optimizers.
        schedulers: The schedulers.
        precision: The scaler of half precision, or what stands for it.
        loop: What the loop remembers.
        progress: The counters.
        random: The random state to store, where it is not that of this moment.
        at_boundary: Whether this is the end of a step, and not the middle of one.
    """

    module: Any
    datamodule: Any
    callbacks: list[Callback]
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    precision: Any
    loop: dict[str, Any]
    progress: Progress
    random: dict[str, Any] | None = None
    at_boundary: bool = True


@dataclass
class Dump:
    """The dictionary, and where the parts are in it."""

    root: dict[str, Any]
    places: dict[str, tuple[str | int, ...]] = field(default_factory=dict)


def dump(parts: Parts, what: What) -> Dump:
    """Put the dictionary together. Tensors are lent, not copied."""
    made = Dump(
        {
            "epoch": parts.progress.epoch,
            "global_step": parts.progress.steps,
            "pytorch-lightning_version": LIGHTNING_VERSION,
            "state_dict": parts.module.state_dict(),
        },
        {"model": ("state_dict",)},
    )
    _put_hyperparameters(made, parts.module)
    if parts.datamodule is not None:
        _put_hyperparameters(made, parts.datamodule)
        state = parts.datamodule.state_dict()
        if state:
            made.root[type(parts.datamodule).__qualname__] = state
            made.places["datamodule"] = (type(parts.datamodule).__qualname__,)
    if not what.wants_part("optimizer"):
        return made
    made.root["callbacks"] = {c.state_key: state for c in parts.callbacks if (state := c.state_dict())}
    made.places["callbacks"] = ("callbacks",)
    for key, name, things in (
        ("optimizer_states", "optimizer", parts.optimizers),
        ("lr_schedulers", "scheduler", parts.schedulers),
    ):
        made.root[key] = [thing.state_dict() for thing in things]
        made.places.update({f"{name}{i or ''}": (key, i) for i in range(len(things))})
    scaler = parts.precision.state_dict()
    if scaler:
        made.root["MixedPrecision"] = scaler
        made.places["precision"] = ("MixedPrecision",)
    loop = {**parts.loop, "at_boundary": parts.at_boundary}
    made.root[OWN] = {"loop": loop, "random": parts.random or random.capture()}
    made.places.update({"loop": (OWN, "loop"), "random": (OWN, "random")})
    if parts.loop.get("window"):
        named = parts.module.named_parameters()
        made.root[OWN]["gradients"] = {name: p.grad for name, p in named if p.grad is not None}
        made.places["gradients"] = (OWN, "gradients")
    return made


def captured(made: Dump, parts: Parts) -> Captured:
    """The dictionary as the engine takes it, after hooks have edited it."""
    from holdfast.engine.job import Captured

    frozen = frozenset(
        f"model.{name}" for name, p in parts.module.named_parameters(remove_duplicate=False) if not p.requires_grad
    )
    groups = {name: names for name, names in _groups(parts).items() if name in made.places}
    there = {name: place for name, place in made.places.items() if _is_there(made.root, place)}
    return Captured(made.root, there, frozen, groups)


def check(
    root: Mapping[str, Any],
    parts: Parts,
    *,
    checkpoint: str,
    strict: bool,
    groups: Mapping[str, Sequence[Sequence[str]]],
) -> None:
    """Refuse a dictionary that does not fit, before anything is changed.

    Args:
        root: The dictionary.
        parts: What it is to be put into.
        checkpoint: Its path, for the error.
        strict: Whether all keys of the model must be there, and no others.
        groups: Part name of an optimizer to the parameter names of each of its groups, as they were.

    Raises:
        Incompatible: Everything that is missing, extra or of another shape, in one error.
    """
    problems = []
    if "state_dict" not in root:
        problems.append("it holds no model")
    elif strict:
        problems += module_problems("model", parts.module, root["state_dict"])
    if "optimizer_states" not in root:
        problems.append("it holds no optimizer state: it was saved with weights only, or by another program")
    else:
        for name, there, here in (
            ("optimizers", root["optimizer_states"], parts.optimizers),
            ("schedulers", root.get("lr_schedulers", []), parts.schedulers),
        ):
            if len(there) != len(here):
                problems.append(f"it holds {len(there)} {name}, and the module has {len(here)}")
        optimizers = {_part(i): optimizer for i, optimizer in enumerate(parts.optimizers)}
        for (name, optimizer), state in zip(optimizers.items(), root["optimizer_states"], strict=False):
            problems += optimizer_problems(name, optimizer, state)
        known = {name: names for name, names in groups.items() if name in optimizers}
        problems += order_problems({"model": parts.module, **optimizers}, known)
    remedy = "Build the model and the optimizers as they were, or take only the weights: load_from_checkpoint()."
    require_none(problems, checkpoint=checkpoint, remedy=remedy)


def restore(root: Mapping[str, Any], parts: Parts, *, strict: bool) -> None:
    """Put a checked dictionary back: model, optimizers, schedulers, precision, callbacks, datamodule.

    The loop's position and the random state are put back by whoever runs the loop, last.
    """
    parts.module.load_state_dict(root["state_dict"], strict=strict)
    for optimizer, state in zip(parts.optimizers, root["optimizer_states"], strict=True):
        optimizer.load_state_dict(state)
        if state["state"]:
            # It has stepped, though not in this process: a scheduler that steps first would warn that it has not.
            optimizer._opt_called = True  # type: ignore[attr-defined]
    for scheduler, state in zip(parts.schedulers, root.get("lr_schedulers", []), strict=True):
        scheduler.load_state_dict(state)
    parts.precision.load_state_dict(root.get("MixedPrecision", {}))
    states = dict(root.get("callbacks", {}))
    for callback in parts.callbacks:
        if callback.state_key in states:
            callback.load_state_dict(states.pop(callback.state_key))
    if states:
        logger.warning("no callback of this run takes the state that the checkpoint holds of %s", ", ".join(states))
    if parts.datamodule is not None and type(parts.datamodule).__qualname__ in root:
        parts.datamodule.load_state_dict(root[type(parts.datamodule).__qualname__])
    gradients = root.get(OWN, {}).get("gradients", {})
    for name, parameter in parts.module.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device)


def _part(index: int) -> str:
    return f"optimizer{index or ''}"


def _groups(parts: Parts) -> dict[str, list[list[str]]]:
    return {_part(i): group_names(optimizer, [parts.module]) for i, optimizer in enumerate(parts.optimizers)}


def _put_hyperparameters(made: Dump, owner: Any) -> None:
    made.root.update(checkpoint_entries(owner))
    key = owner.CHECKPOINT_HYPER_PARAMS_KEY
    if key in made.root:
        made.places[key] = (key,)


def _is_there(root: Any, place: tuple[str | int, ...]) -> bool:
    try:
        for key in place:
            root = root[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True
