"""Hold values as their nearest plain one, with the exact type beside: a closed list, nothing is imported."""

from __future__ import annotations

import argparse
import datetime
import pathlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from holdfast.engine import containers
from holdfast.errors import ConfigError

_NUMPY = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64, np.complex64, np.complex128,
)  # fmt: skip
_NUMPY_SCALARS = {f"numpy.{t.__name__}": t for t in _NUMPY}

# Below this, seconds as a float tell microseconds apart.
_LONGEST = datetime.timedelta(days=10_000)

# What a value of each type is held as, and what makes it that type again.
_DECODERS: dict[str, tuple[type | tuple[type, ...], Callable[[Any], Any]]] = {
    "bytes": (str, lambda text: text.encode("latin-1")),
    "pathlib.Path": (str, pathlib.Path),
    "datetime.timedelta": (float, lambda seconds: datetime.timedelta(seconds=seconds)),
    "datetime.datetime": (str, datetime.datetime.fromisoformat),
    "datetime.date": (str, datetime.date.fromisoformat),
    "argparse.Namespace": (dict, lambda values: _namespace(**values)),
    "collections.defaultdict": (dict, dict),
    "omegaconf": ((dict, list), lambda value: value if (made := containers.container(value)) is None else made),
    "numpy.ndarray": (torch.Tensor, lambda tensor: tensor.cpu().numpy()),
    **{name: ((bool, int, float, complex), scalar) for name, scalar in _NUMPY_SCALARS.items()},
}


def encode(value: Any) -> tuple[Any, str] | None:
    """The nearest plain value (or tensor) and the exact type's name; None for what is not on the list."""
    if type(value) is bytes:
        return "", "bytes"  # protocol 2 spells the empty bytes in a way that PyTorch's safe loader refuses
    if isinstance(value, np.generic):
        name = f"numpy.{type(value).__name__}"
        return (value.item(), name) if name in _NUMPY_SCALARS else None
    if type(value) is np.ndarray and value.dtype.isnative and value.dtype.type in _NUMPY:
        return torch.from_numpy(np.array(value, order="C", copy=True)), "numpy.ndarray"
    if isinstance(value, pathlib.Path):
        return str(value), "pathlib.Path"
    if type(value) is datetime.timedelta and abs(value) < _LONGEST:
        return value.total_seconds(), "datetime.timedelta"
    if type(value) is datetime.datetime:
        return value.isoformat(), "datetime.datetime"
    if type(value) is datetime.date:
        return value.isoformat(), "datetime.date"
    if type(value) is argparse.Namespace:
        return dict(vars(value)), "argparse.Namespace"
    if type(value) is defaultdict:
        return dict(value), "collections.defaultdict"
    if containers.is_container(value):
        return containers.plain(value), "omegaconf"
    return None


def _namespace(**values: Any) -> argparse.Namespace:
    made = argparse.Namespace()
    vars(made).update(values)  # whatever they are called: "self" and "__dict__" cannot be given to it otherwise
    return made


def decode(name: str, value: Any) -> Any:
    """The value as it was. An unknown name, of a later version, leaves the plain value.

    Raises:
        ConfigError: The plain value is not one that ``encode`` makes for this type.
    """
    if name not in _DECODERS:
        return value
    kind, make = _DECODERS[name]
    misfit = f"A stored {type(value).__name__} does not fit its type {name}."
    if not isinstance(value, kind):
        raise ConfigError(misfit)
    try:
        return make(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigError(misfit) from error
