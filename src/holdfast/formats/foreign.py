"""Read a checkpoint that Holdfast did not write. A safe read imports and calls nothing that the file names.

It is PyTorch's own safe loader, which is told what everyday values are made of (``everyday``); whatever else a file
names is held by its name and arguments alone.
"""

from __future__ import annotations

import pickle
import types
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from holdfast.engine.statetree import dotted
from holdfast.errors import Foreign, Incompatible
from holdfast.formats import everyday
from holdfast.formats.everyday import Unknown

TRUST = "If you trust whoever wrote it as your own code: weights_only=False."
_TYPE_KEYS = ("hparams_type", "datamodule_hparams_type")
_DEEPEST = 200


@dataclass
class ForeignState:
    """What a foreign file holds.

    Args:
        state: The dictionary; None stands for what is withheld.
        withheld: Path of keys to what the file says there of an object that only its own class could make.
    """

    state: dict[str, Any]
    withheld: dict[tuple[Any, ...], Unknown] = field(default_factory=dict)


def read_foreign(file: Any, *, name: str, location: Any, trusted: bool) -> ForeignState:
    """Read a file of ``torch.save``.

    Args:
        file: Its path, or an open binary file.
        name: What to call it in an error.
        location: Where tensors go, as ``torch.load`` takes it.
        trusted: Whether to unpickle it, which runs code in it.

    Raises:
        Foreign: It cannot be read, or not safely.
        Incompatible: It holds something else than a dictionary.
    """
    try:
        state = _trusting(file, location) if trusted else _safely(file, location)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise _unreadable(name, error, "" if trusted else TRUST) from error
    if not isinstance(state, dict):
        raise Incompatible(f"holds a {type(state).__name__}, not a dictionary.", checkpoint=name)
    for key in _TYPE_KEYS:
        kind = state.get(key)
        if isinstance(kind, type):
            state[key] = kind.name if issubclass(kind, Unknown) else f"{kind.__module__}.{kind.__qualname__}"
    found = ForeignState(state)
    try:
        _settle(state, (), found.withheld, set())
    except RecursionError as error:
        raise _unreadable(name, error, "") from error
    return found


def _safely(file: Any, location: Any) -> Any:
    known = everyday.known()
    with torch.serialization.safe_globals(known):
        others = [(everyday.stand_in(full), full) for full in _unknown_names(file)]
    with torch.serialization.safe_globals([*known, *others]):
        return torch.load(file, map_location=location, weights_only=True)


def _unknown_names(file: Any) -> list[str]:
    """The names in the file that nobody knows; none for the oldest formats, in which they cannot be looked up."""
    try:
        names: list[str] = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        names = []
    if hasattr(file, "seek"):
        file.seek(0)
    return names


def _trusting(file: Any, location: Any) -> Any:
    """By pickle; only classes of packages that are not here are held by name."""
    lenient: Any = types.ModuleType("lenient_pickle")
    lenient.__dict__.update(vars(pickle))
    lenient.Unpickler, lenient.load = _Lenient, lambda f, **options: _Lenient(f, **options).load()
    return torch.load(file, map_location=location, weights_only=False, pickle_module=lenient)


class _Lenient(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return everyday.stand_in(f"{module}.{name}")


def _settle(value: Any, path: tuple[Any, ...], withheld: dict[tuple[Any, ...], Unknown], above: set[int]) -> Any:
    """The value with everyday objects as themselves and None for others; containers are changed in place."""
    if id(value) in above or len(path) > _DEEPEST:
        raise RecursionError(f"it contains itself, or is deeper than {_DEEPEST}, at '{dotted(path)[:200]}'")
    above = above | {id(value)}

    def inside(key: Any, item: Any) -> Any:
        return _settle(item, (*path, key), withheld, above)

    if isinstance(value, dict):
        if any(isinstance(key, (type, Unknown)) for key in value):
            items = [(_key(key), item) for key, item in value.items()]
            value.clear()
            value.update(items)
        for key, item in list(value.items()):
            value[key] = inside(key, item)
    elif type(value) is list:
        value[:] = [inside(i, item) for i, item in enumerate(value)]
    elif type(value) is tuple:
        return tuple(inside(i, item) for i, item in enumerate(value))
    elif type(value) is Namespace:
        for key, item in list(vars(value).items()):
            setattr(value, key, inside(key, item))
    elif isinstance(value, Unknown) or (isinstance(value, type) and issubclass(value, Unknown)):
        made = everyday.made(value)
        if made is not None:
            return _settle(made, path, withheld, above) if isinstance(made, (dict, list)) else made
        withheld[path] = value if isinstance(value, Unknown) else value()
        return None
    return value


def _key(key: Any) -> Any:
    """A class that is a key, as callbacks were keyed once, by its bare name."""
    if isinstance(key, Unknown):
        return type(key).name
    if isinstance(key, type):
        return key.name.rpartition(".")[2] if issubclass(key, Unknown) else key.__qualname__
    return key


_RUBBISH = "it is no checkpoint, or only a piece of one"


def _unreadable(name: str, error: Exception, remedy: str) -> Foreign:
    return Foreign(
        f"was not written by Holdfast, and PyTorch cannot read it: {_reason(error)}.",
        checkpoint=name,
        good="Nothing was loaded.",
        remedy=remedy,
    )


def _reason(error: Exception) -> str:
    """The one line of PyTorch's page of advice that says what is wrong."""
    if isinstance(error, (EOFError, LookupError)):  # what a pickle is told of itself: a byte, or nothing
        return _RUBBISH
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    telling: Callable[[str], bool] = lambda line: "WeightsUnpickler error" in line  # noqa: E731
    line = next(filter(telling, lines), lines[0]).rstrip(".")
    return _RUBBISH if line.endswith("WeightsUnpickler error:") else line  # it has nothing to say then
