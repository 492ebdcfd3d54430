"""What everyday values in a foreign pickle are made of: a closed list of names. Imports nothing that a file names.

A name that is not on the list stands for an ``Unknown``: the name, and what the file gives with it.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np


class Unknown:
    """An object whose class is not known here.

    ``name`` is the class's full name, ``args`` what it is called with, ``state`` what it is filled with.
    """

    name: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Unknown:  # noqa: D102
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def plain(self) -> Any:
        """The one value that it is made of, as an Enum's or a dataclass's is; None where there is more to it."""
        if len(self.args) == 1 and self.state is None and isinstance(self.args[0], (str, int, float)):
            return self.args[0]
        return self.state if not self.args and isinstance(self.state, dict) else None


def stand_in(name: str) -> type[Unknown]:
    """The class that stands for the one of this full name."""
    return type("Unknown", (Unknown,), {"name": name})


class _Dtype(Unknown):
    """A NumPy data type: its code, and then its byte order."""

    name = "numpy.dtype"

    def real(self) -> np.dtype[Any]:
        big = isinstance(self.state, tuple) and self.state[1] == ">"
        code = self.args[0] if self.args else None
        if not isinstance(code, str) or code.lstrip("<>=|") not in _CODES:
            raise ValueError(f"it holds a NumPy value of type {code!r:.40}")
        return np.dtype((">" if big else "<") + code.lstrip("<>=|"))


class _Array(Unknown):
    """A NumPy array: version, shape, data type, order, bytes."""

    name = "numpy.ndarray"

    def real(self) -> Any:
        _, shape, dtype, fortran, data = self.state
        made = np.frombuffer(data, dtype=dtype.real()).reshape(shape, order="F" if fortran else "C")
        return made.astype(made.dtype.newbyteorder("="))  # a copy of its own, in this machine's order


_CODES = {f"{kind}{size}" for kind, sizes in {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8),
                                              "c": (8, 16)}.items() for size in sizes}  # fmt: skip


def made(value: Any) -> Any:
    """The value that an ``Unknown`` stands for, where it is one of the list that is complete only now; else None."""
    if isinstance(value, (_Dtype, _Array)):
        return value.real()
    if isinstance(value, Unknown) and value.name.startswith("omegaconf."):
        return _container(value, 0)
    return None


def known() -> list[Any]:
    """Callables with the full names they stand for, as ``torch.serialization.safe_globals`` takes them."""
    named: dict[str, Callable[..., Any]] = {
        "argparse.Namespace": argparse.Namespace,
        "builtins.frozenset": frozenset,
        "builtins.range": range,
        "builtins.slice": slice,
        "collections.defaultdict": _plain_dict,
        "numpy.dtype": _Dtype,
        "numpy.ndarray": _Array,
        **{f"datetime.{kind.__name__}": kind for kind in _TIMES},
        **{f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in _PATHS},
        **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
        **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
        **{f"{home}.AttributeDict": _AttributeDict for home in _ATTRIBUTE_DICTS},
    }
    return [(makes, name) for name, makes in named.items()]


_TIMES = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_ATTRIBUTE_DICTS = (
    "lightning.pytorch.utilities.parsing", "pytorch_lightning.utilities.parsing",
    "lightning.fabric.utilities.data", "lightning_fabric.utilities.data",
)  # fmt: skip


class _AttributeDict:
    """Makes a plain dictionary, which the file then fills."""

    def __new__(cls, *nothing: Any) -> Any:
        return {}


def _plain_dict(*factory: Any) -> dict[Any, Any]:
    return {}


def _path(*parts: str) -> pathlib.Path:
    return pathlib.Path(*parts)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    real = dtype.real()
    return np.frombuffer(data, dtype=real, count=1).astype(real.newbyteorder("="))[0]


def _array(cls: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _container(value: Unknown, depth: int) -> Any:
    """An OmegaConf container or node as plain values, its interpolations as they are written; None for another."""
    state = value.state
    if not isinstance(state, dict) or depth > 100:
        return None
    if "_val" in state:
        return state["_val"]
    content = state.get("_content")
    if isinstance(content, dict):
        return {key: _node(item, depth) for key, item in content.items()}
    return [_node(item, depth) for item in content] if isinstance(content, list) else content


def _node(value: Any, depth: int) -> Any:
    return _container(value, depth + 1) if isinstance(value, Unknown) else value
