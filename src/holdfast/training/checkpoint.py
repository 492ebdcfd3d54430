"""A fit's state as one dictionary, under the keys that readers of this family of files know; and back again.

Hooks of users see and edit this dictionary; what they leave in it is what is saved, and what is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from holdfast.callbacks.callback import Callback
from holdfast.engine.group import Group, Solo
from holdfast.formats import loops
from holdfast.formats.lightning import LIGHTNING_VERSION
from holdfast.log import logger
from holdfast.policy.values import Progress
from holdfast.policy.what import What
from holdfast.state import fingerprint, random
from holdfast.strategies.single import group_names, module_problems, optimizer_problems, order_problems, require_none
from holdfast.training import ranks
from holdfast.training.hparams import checkpoint_entries

if TYPE_CHECKING:
    from holdfast.engine.job import Captured
    from holdfast.strategies.base import TrainingStrategy

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
        strategy: How it is spread over processes.
        loop: What the loop remembers.
        progress: The counters.
        random: The random state to store, where it is not that of this moment.
        at_boundary: Whether this is the end of a step, and not the middle of one.
        group: The ranks, each of which adds what it alone knows.
        fingerprint: What the run is made of.
    """

    module: Any
    datamodule: Any
    callbacks: list[Callback]
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    strategy: TrainingStrategy
    loop: dict[str, Any]
    progress: Progress
    random: dict[str, Any] | None = None
    at_boundary: bool = True
    group: Group = field(default_factory=Solo)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


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
            "loops": _loops(parts),
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
    made.root["callbacks"] = {key: state for key, c in states_by_key(parts.callbacks) if (state := c.state_dict())}
    made.places["callbacks"] = ("callbacks",)
    for key, name, things in (
        ("optimizer_states", "optimizer", parts.optimizers),
        ("lr_schedulers", "scheduler", parts.schedulers),
    ):
        made.root[key] = [thing.state_dict() for thing in things]
        made.places.update({f"{name}{i or ''}": (key, i) for i in range(len(things))})
    scaler = parts.strategy.precision.state_dict()
    if scaler:
        made.root["MixedPrecision"] = scaler
        made.places["precision"] = ("MixedPrecision",)
    loop = {**parts.loop, "at_boundary": parts.at_boundary}
    made.root[OWN] = {"loop": loop, "random": parts.random or random.capture()}
    made.places.update({"loop": (OWN, "loop"), "random": (OWN, "random")})
    if others := ranks.gathered(parts.group, made.root[OWN]):
        made.root[OWN]["ranks"] = others
        made.places["ranks"] = (OWN, "ranks")
    if parts.fingerprint:
        made.root[OWN][fingerprint.KEY] = dict(parts.fingerprint)
        made.places[fingerprint.KEY] = (OWN, fingerprint.KEY)
    if parts.loop.get("window") or parts.loop.get("waiting"):
        made.root[OWN]["gradients"] = parts.strategy.gradients(parts.module)
        made.places["gradients"] = (OWN, "gradients")
    return made


def _loops(parts: Parts) -> dict[str, Any]:
    """Where the run stands, for readers of this family: never read back by us."""
    loop, progress = parts.loop, parts.progress
    place = loop.get("data") or {}
    return loops.written(
        progress,
        automatic=bool(parts.module.automatic_optimization),
        last_batch=loop.get("last_batch"),
        validated=progress.batches > 0 and loop.get("validated_at") == progress.batches,
        window=bool(loop.get("window")),
        stepped=loop.get("stepped"),
        loader=None if place.get("over", True) or place.get("kind") != "kept" else place.get("state"),
    )


def captured(made: Dump, parts: Parts, *, given: Sequence[torch.Tensor], divided: bool) -> Captured:
    """The dictionary as the engine takes it, after hooks have edited it; ``given``, ``divided`` as in ``Captured``."""
    from holdfast.engine.job import Captured
    from holdfast.engine.lending import lendable

    named = parts.module.named_parameters(remove_duplicate=False)
    trained = {f"model.{name}": p.requires_grad for name, p in named}
    frozen = frozenset(name for name, is_trained in trained.items() if not is_trained)
    groups = {name: names for name, names in _groups(parts).items() if name in made.places}
    for callback in parts.callbacks:
        made.places.update(callback.state_places(made.root))
    there = {name: place for name, place in made.places.items() if _is_there(made.root, place)}
    lent = lendable(parts.optimizers, [parts.module])
    return Captured(made.root, there, frozen, groups, frozenset(trained) - frozen, lent, given, divided)


def check(
    root: Mapping[str, Any],
    parts: Parts,
    *,
    checkpoint: str,
    strict: bool,
    groups: Mapping[str, Sequence[Sequence[str]]],
    what: str = "full",
) -> None:
    """Refuse a dictionary that does not fit, before anything is changed.

    Args:
        root: The dictionary.
        parts: What it is to be put into.
        checkpoint: Its path, for the error.
        strict: Whether all keys of the model must be there, and no others.
        groups: Part name of an optimizer to the parameter names of each of its groups, as they were.
        what: What of the state was saved, for the error.

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
                problems.append(f"of {name} it holds {len(there)}, and the module has {len(here)}")
        optimizers = {_part(i): optimizer for i, optimizer in enumerate(parts.optimizers)}
        for (name, optimizer), state in zip(optimizers.items(), root["optimizer_states"], strict=False):
            problems += optimizer_problems(name, optimizer, state)
        known = {name: names for name, names in groups.items() if name in optimizers}
        problems += order_problems({"model": parts.module, **optimizers}, known)
    remedy = "Build the model and the optimizers as they were, or take only the weights: load_from_checkpoint()."
    if what.startswith("full ("):
        remedy = f"A part of the state was left out ({what}): strict_loading = False in the module goes on without it."
    require_none(problems, checkpoint=checkpoint, remedy=remedy)


def restore(root: Mapping[str, Any], parts: Parts, *, strict: bool) -> None:
    """Put a checked dictionary back: model, optimizers, schedulers, precision, callbacks, datamodule.

    The loop's position and the random state are put back by whoever runs the loop, last.
    """
    parts.strategy.load_module(parts.module, root["state_dict"], strict=strict)
    for optimizer, state in zip(parts.optimizers, root["optimizer_states"], strict=True):
        parts.strategy.load_optimizer(optimizer, state)
        if state["state"]:
            # It has stepped, though not in this process: a scheduler that steps first would warn that it has not.
            optimizer._opt_called = True  # type: ignore[attr-defined]
    for scheduler, state in zip(parts.schedulers, root.get("lr_schedulers", []), strict=True):
        scheduler.load_state_dict(state)
    parts.strategy.precision.load_state_dict(root.get("MixedPrecision", {}))
    _give_back(dict(root.get("callbacks") or {}), parts.callbacks)
    if parts.datamodule is not None and type(parts.datamodule).__qualname__ in root:
        parts.datamodule.load_state_dict(root[type(parts.datamodule).__qualname__])
    parts.strategy.load_gradients(parts.module, root.get(OWN, {}).get("gradients", {}))


def targets(parts: Parts) -> Callable[[str], torch.Tensor | None]:
    """What each tensor of a checkpoint is to replace, by its name; optimizer state is divided as its parameter."""
    there: dict[str, Any] = {f"model.{name}": value for name, value in parts.module.state_dict().items()}
    parameters = dict(parts.module.named_parameters())
    there.update({f"gradients.{name}": parameter for name, parameter in parameters.items()})
    slots = {
        f"{part}.state.{name}": parameters[name]
        for part, groups in _groups(parts).items()
        for group in groups
        for name in group
        if name
    }

    def target(name: str) -> torch.Tensor | None:
        found = there.get(name)
        return found if found is not None else slots.get(name.rpartition(".")[0])

    return target


def _give_back(states: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Each callback's state: under its key, else under its class's name alone, as older files have it."""
    for key, callback in states_by_key(callbacks):
        there = next((name for name in (key, type(callback).__qualname__) if name in states), None)
        if there is not None:
            callback.load_state_dict(states.pop(there))
    # What a callback had saved is seen in its folder: that another one saves now loses nothing.
    left = [key for key, state in states.items() if not (isinstance(state, dict) and "best_model_path" in state)]
    if left:
        logger.warning("no callback of this run takes the state that the checkpoint holds of %s", ", ".join(left))


def states_by_key(callbacks: Sequence[Callback]) -> list[tuple[str, Callback]]:
    """Callbacks by their keys; of several with one key, all but the first have a number, so that none is lost."""
    seen: dict[str, int] = {}
    found = []
    for callback in callbacks:
        key = callback.state_key
        seen[key] = number = seen.get(key, 0) + 1
        found.append((key if number == 1 else f"{key} {number}", callback))
    return found


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
