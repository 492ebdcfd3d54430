"""What loggers get of the hyperparameters of a module and its datamodule, as one. Logs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdfast.errors import ConfigError


def merged(module: Mapping[str, Any], datamodule: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of both.

    Raises:
        ConfigError: Some have a name in common, and not the value.
    """
    differ = [name for name in module if name in datamodule and not _equal(module[name], datamodule[name])]
    if differ:
        told = "; ".join(f"'{name}' is {module[name]!r:.80} and {datamodule[name]!r:.80}" for name in differ)
        raise ConfigError(
            f"Loggers get the hyperparameters of module and datamodule as one, and these differ: {told}.",
            remedy="Rename one of each, leave it out by save_hyperparameters(ignore=[...]), or say logger=False there.",
        )
    return {**module, **datamodule}


def _equal(a: Any, b: Any) -> bool:
    """Whether they are the same, within containers too; what cannot be compared is not."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    try:
        return bool(a == b) or bool(a != a and b != b)  # NaN is the same as itself
    except Exception:  # a user's object may refuse in any way
        return False
