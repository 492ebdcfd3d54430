"""Capture and restore the random generators of this process as plain values. Seeds nothing, reads no file."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from holdfast.errors import ConfigError

_PYTHON_VERSION = 3
_PYTHON_WORDS = 625  # 624 of the Mersenne Twister, then the place in them
_NUMPY_WORDS = 624


def capture() -> dict[str, Any]:
    """The state of Python's, NumPy's (legacy) and torch's global generators, on CPU and accelerator.

    Accelerators that nobody has initialised are left out: they have drawn nothing, and asking would
    initialise them. A NumPy global generator other than MT19937 is captured by name only.

    Returns:
        Plain Python values and CPU tensors of int64 and uint8, which ``torch.load(weights_only=True)`` reads.
        The keys are ``python``, ``numpy``, ``torch`` and ``accelerators`` (a list of states by device type).
    """
    return {
        "python": _capture_python(),
        "numpy": _capture_numpy(),
        "torch": torch.get_rng_state(),
        "accelerators": _capture_accelerators(),
    }


def restore(state: Mapping[str, Any]) -> list[str]:
    """Put back what ``capture`` returned; the whole of ``state`` is checked before any generator is changed.

    Args:
        state: What ``capture`` returned, on this machine or another.

    Returns:
        One sentence for each thing that could not be restored and is left as it was; none if all is exact.

    Raises:
        ConfigError: A part of ``state`` is not what ``capture`` makes.
    """
    left: list[str] = []
    writes: list[Callable[[], None]] = []
    for name, read in _PARTS.items():
        if name in state:
            writes.append(read(state[name], left))
        else:
            left.append(f"The random state of '{name}' was not saved; its generator is left as it is.")
    left += [
        f"The random state '{name}' is not known to this version of Holdfast; it was not restored."
        for name in state
        if name not in _PARTS
    ]
    for write in writes:
        write()
    return left


def _capture_python() -> dict[str, Any]:
    version, words, gauss_next = random.getstate()
    return {"version": version, "words": torch.tensor(words, dtype=torch.int64, device="cpu"), "gauss_next": gauss_next}


def _read_python(saved: Any, left: list[str]) -> Callable[[], None]:
    fields = _mapping("python", saved, "version", "words", "gauss_next")
    version, gauss_next = fields["version"], fields["gauss_next"]
    if version != _PYTHON_VERSION:
        left.append(f"Python's random state has the version {version!r}, which this Python does not read.")
        return _nothing
    words = _words("python", fields["words"], _PYTHON_WORDS)
    if words[-1] >= _PYTHON_WORDS:
        raise _malformed("python", f"its place {words[-1]} is past its words")
    if not isinstance(gauss_next, float | None):
        raise _malformed("python", f"its gauss_next is {gauss_next!r}, neither a float nor None")
    return lambda: random.setstate((version, tuple(words), gauss_next))


def _capture_numpy() -> dict[str, Any]:
    name = _numpy_generator()
    if name != "MT19937":
        return {"bit_generator": name}
    _, key, pos, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "bit_generator": name,
        "key": torch.from_numpy(np.asarray(key).astype(np.int64)),
        "pos": int(pos),
        "has_gauss": int(has_gauss),
        "cached_gaussian": float(gauss),
    }


def _read_numpy(saved: Any, left: list[str]) -> Callable[[], None]:
    name, here = _mapping("numpy", saved, "bit_generator")["bit_generator"], _numpy_generator()
    if name != "MT19937":
        left.append(f"NumPy's global generator was a {name}, of which only MT19937 is saved; it was not restored.")
        return _nothing
    if here != name:
        left.append(f"NumPy's global generator is a {here} now and was a {name}; its state was not restored.")
        return _nothing
    fields = _mapping("numpy", saved, "key", "pos", "has_gauss", "cached_gaussian")
    pos, has_gauss, gauss = fields["pos"], fields["has_gauss"], fields["cached_gaussian"]
    key = np.array(_words("numpy", fields["key"], _NUMPY_WORDS), dtype=np.uint32)
    if not (isinstance(pos, int) and 0 <= pos <= _NUMPY_WORDS):
        raise _malformed("numpy", f"its pos is {pos!r}, not a place in its key")
    if not (has_gauss in (0, 1) and isinstance(gauss, float)):
        raise _malformed("numpy", f"its cached gaussian is {gauss!r} with has_gauss {has_gauss!r}")
    return lambda: np.random.set_state((name, key, pos, has_gauss, gauss))


def _numpy_generator() -> str:
    return str(np.random.get_state(legacy=False)["bit_generator"])


def _read_torch(saved: Any, left: list[str]) -> Callable[[], None]:
    state = _bytes("torch", saved)
    try:
        torch.Generator().set_state(state)
    except RuntimeError as error:
        raise _malformed("torch", f"torch refuses it: {error}") from error
    return lambda: torch.set_rng_state(state)


def _capture_accelerators() -> dict[str, list[torch.Tensor]]:
    kind, module, count = _accelerator()
    if module is None or not _initialised(module):
        return {}
    return {kind: [module.get_rng_state(index) for index in range(count)]}


def _read_accelerators(saved: Any, left: list[str]) -> Callable[[], None]:
    here, module, count = _accelerator()
    states = {
        str(kind): [_bytes(f"accelerators, {kind}", state) for state in _list(kind, of_kind)]
        for kind, of_kind in _mapping("accelerators", saved).items()
    }
    for kind, of_kind in states.items():
        present = count if kind == here else 0
        if len(of_kind) > present:
            left.append(
                f"The random state of {len(of_kind) - present} of {len(of_kind)} {kind} device(s) was not "
                f"restored: this process sees {present}."
            )
    wanted = states.get(here, [])[:count]
    if module is not None and _initialised(module) and len(wanted) < count:
        left.append(
            f"The random state of {count - len(wanted)} of {count} {here} device(s) was not saved; "
            "their generators are left as they are."
        )

    def write() -> None:
        for index, state in enumerate(wanted):
            assert module is not None
            # Where the device is not initialised yet, torch keeps the state until it is.
            module.set_rng_state(state, index)

    return write


def _accelerator() -> tuple[str, ModuleType | None, int]:
    """The type of this process's accelerator, torch's module for it, the number of devices."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return "", None, 0
    return device.type, torch.get_device_module(device), torch.accelerator.device_count()


def _initialised(module: ModuleType) -> bool:
    # torch.mps has no such question: what is available there needs no initialising.
    return bool(module.is_initialized()) if hasattr(module, "is_initialized") else True


def _mapping(part: str, value: Any, *names: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed(part, f"it is a {type(value).__name__}, not a mapping")
    missing = [name for name in names if name not in value]
    if missing:
        raise _malformed(part, f"it has no {', '.join(missing)}")
    return value


def _list(kind: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _malformed(f"accelerators, {kind}", f"it is a {type(value).__name__}, not a list")
    return list(value)


def _words(part: str, value: Any, count: int) -> list[int]:
    """``count`` unsigned 32-bit words out of an int64 tensor."""
    if not (isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.shape == (count,)):
        raise _malformed(part, f"its words are not an int64 tensor of {count} values")
    words: list[int] = value.tolist()
    if min(words) < 0 or max(words) >= 2**32:
        raise _malformed(part, "its words are not all unsigned 32-bit numbers")
    return words


def _bytes(part: str, value: Any) -> torch.Tensor:
    if not (isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.dim() == 1):
        raise _malformed(part, "it is not a one-dimensional uint8 tensor")
    return value.cpu()


def _malformed(part: str, why: str) -> ConfigError:
    return ConfigError(
        f"the random state of '{part}' is malformed: {why}.",
        good="No generator was changed.",
        remedy="Pass what holdfast.state.random.capture() returned.",
    )


def _nothing() -> None:
    """What is written of a state that cannot be restored."""


_PARTS: dict[str, Callable[[Any, list[str]], Callable[[], None]]] = {
    "python": _read_python,
    "numpy": _read_numpy,
    "torch": _read_torch,
    "accelerators": _read_accelerators,
}
