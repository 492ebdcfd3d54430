"""Capture and restore random generators that somebody holds: a sampler, a loader. Knows nothing of the global ones."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

Generator = torch.Generator | random.Random | np.random.Generator | np.random.RandomState


def held(owners: Mapping[str, Any]) -> dict[str, Generator]:
    """The generators that are attributes of some objects, each once.

    Args:
        owners: The objects, by name.

    Returns:
        The generators by ``owner.attribute``.
    """
    found: dict[str, Generator] = {}
    for name, owner in owners.items():
        for attribute, value in getattr(owner, "__dict__", {}).items():
            known = isinstance(value, Generator) and not isinstance(value, random.SystemRandom)
            if known and not any(value is one for one in found.values()):
                found[f"{name}.{attribute}"] = value
    return found


def capture(generators: Mapping[str, Generator]) -> dict[str, Any]:
    """Their states, as plain values."""
    return {name: _state(generator) for name, generator in generators.items()}


def restore(generators: Mapping[str, Generator], states: Mapping[str, Any]) -> list[str]:
    """Put states back that ``capture`` returned.

    Returns:
        One sentence for each generator that has no state, or one of another kind, and is left as it is.
    """
    left = []
    for name, generator in generators.items():
        state = states.get(name)
        kind = _kind(generator)
        if state is None or state["kind"] != kind:
            left.append(
                f"the generator {name} was not saved"
                if state is None
                else f"the generator {name} is a {kind} and was a {state['kind']}"
            )
        elif isinstance(generator, torch.Generator):
            generator.set_state(state["state"])
        elif isinstance(generator, random.Random):
            version, words, gauss = state["state"]
            generator.setstate((version, tuple(words), gauss))
        else:
            _set_numpy(generator, state["state"])
    return left


def _kind(generator: Generator) -> str:
    if isinstance(generator, np.random.Generator):
        return f"numpy {type(generator.bit_generator).__name__}"
    if isinstance(generator, np.random.RandomState):
        return f"numpy RandomState {generator.get_state(legacy=False)['bit_generator']}"
    return f"torch {generator.device.type}" if isinstance(generator, torch.Generator) else "random.Random"


def _state(generator: Generator) -> dict[str, Any]:
    state: Any
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
    elif isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        state = [version, list(words), gauss]
    elif isinstance(generator, np.random.Generator):
        state = _plain(generator.bit_generator.state)
    else:
        state = _plain(generator.get_state(legacy=False))
    return {"kind": _kind(generator), "state": state}


def _set_numpy(generator: np.random.Generator | np.random.RandomState, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _like(generator.bit_generator.state, state)
    else:
        generator.set_state(_like(generator.get_state(legacy=False), state))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _like(now: Any, saved: Any) -> Any:
    """What was made plain, with the arrays that NumPy wants, of the type that it has them in now."""
    if isinstance(now, Mapping):
        return {name: _like(part, saved[name]) for name, part in now.items()}
    return np.array(saved, dtype=now.dtype) if isinstance(now, np.ndarray) else saved
