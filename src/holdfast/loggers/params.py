"""Metrics and hyperparameters in the shapes that trackers take. Keeps nothing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from holdfast.engine.plain import encode
from holdfast.errors import ConfigError
from holdfast.training.hparams import plain


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported for that. A mere folder of its name is no package."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def require(package: str, who: str) -> None:
    """Raise ``ConfigError`` with the install command where a package is missing; the extra has its name."""
    if not installed(package):
        raise ConfigError(f"{who} needs {package}.", remedy=f"Install it: pip install 'holdfast[{package}]'")


def number(name: str, value: Any) -> int | float:
    """A value as a plain number.

    Raises:
        ConfigError: It is none.
    """
    plain_value = value.item() if hasattr(value, "item") else value
    if isinstance(plain_value, bool):
        return int(plain_value)
    if not isinstance(plain_value, (int, float)):
        raise ConfigError(f"log_metrics takes numbers, and {name!r} is {value!r:.80}.")
    return plain_value


def as_dict(params: Mapping[str, Any] | Namespace | None) -> dict[str, Any]:
    """Hyperparameters as a dictionary of their own."""
    return dict(vars(params)) if isinstance(params, Namespace) else dict(params or {})


def readable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters as JSON takes them: mappings and lists as they are, and as text what has no plain value."""
    return {str(name): _readable(value) for name, value in plain(params).items()}


def flat(params: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Hyperparameters in one layer, ``"optimizer/lr"``; what is neither number nor text is written as text."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in readable(params).items():
        if isinstance(value, dict) and value:
            found.update({f"{name}/{inner}": v for inner, v in flat(value).items()})
        else:
            found[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


def _readable(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(name): _readable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_readable(inner) for inner in value), key=str)
    encoded = None if isinstance(value, bytes) else encode(value)
    if encoded is not None and not isinstance(encoded[0], Tensor):
        return _readable(encoded[0])
    return getattr(value, "__name__", None) or str(value)
