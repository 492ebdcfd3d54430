"""Write hyperparameters as YAML that any reader reads safely. Reads nothing, and needs no YAML package."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from holdfast.engine.plain import encode
from holdfast.log import logger
from holdfast.training.hparams import plain

_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEANS_SOMETHING_ELSE = {"y", "n", "yes", "no", "true", "false", "on", "off", "null"}
_INDENT = 2


class _NotPlainError(Exception):
    """A value that YAML has no safe word for."""


def yaml_text(values: Mapping[str, Any]) -> str:
    """The values, each on a line of its own, nested mappings indented.

    Paths, enums, dataclasses and the like are their nearest plain value. What has none is left out, and named
    in the log.
    """
    lines, left = [], []
    for name, value in plain(values).items():
        try:
            lines += _entry(name, value, 0)
        except _NotPlainError:
            left.append(f"{name} ({type(value).__name__})")
    if left:
        logger.info("hyperparameters without a plain value are not in the logger's file: %s", ", ".join(left))
    return "".join(f"{line}\n" for line in lines) or "{}\n"


def _entry(key: Any, value: Any, depth: int) -> list[str]:
    value = _nearest(value)
    start = f"{' ' * _INDENT * depth}{_key(key)}:"
    if isinstance(value, Mapping) and value:
        return [start, *(line for k, v in value.items() for line in _entry(k, v, depth + 1))]
    return [f"{start} {_flow(value)}"]


def _flow(value: Any) -> str:
    """A value on one line."""
    value = _nearest(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "[" + ", ".join(sorted(map(_flow, value))) + "]"
    return _scalar(value)


def _nearest(value: Any) -> Any:
    """The plain value itself, or the nearest to one of the types on the engine's list."""
    if isinstance(value, (str, int, float, Mapping, list, tuple, set, frozenset, type(None))):
        return value
    encoded = None if isinstance(value, bytes) else encode(value)
    if encoded is None or isinstance(encoded[0], Tensor):
        raise _NotPlainError
    return encoded[0]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(float(value))
    if isinstance(value, str):
        return _quoted(value)
    raise _NotPlainError


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    digits, e, power = repr(value).partition("e")
    # YAML 1.1 takes a number for text unless it has a dot and the power a sign.
    signed = power if power.startswith("-") or not e else f"+{power.lstrip('+')}"
    return f"{digits if '.' in digits else digits + '.0'}{e}{signed}"


def _quoted(text: str) -> str:
    """In double quotes, with every letter that is not printable as its number."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _key(key: Any) -> str:
    if isinstance(key, str):
        bare = _BARE_KEY.fullmatch(key) and key.lower() not in _MEANS_SOMETHING_ELSE
        return key if bare else _quoted(key)
    return _scalar(_nearest(key))
