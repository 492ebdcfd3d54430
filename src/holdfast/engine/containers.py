"""OmegaConf's containers as plain values and back. Imports OmegaConf only to make one, and does without it."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def is_container(value: Any) -> bool:
    """Whether the value is one of OmegaConf's; without importing it: who has one has imported it."""
    omegaconf: Any = sys.modules.get("omegaconf")
    return omegaconf is not None and isinstance(value, (omegaconf.DictConfig, omegaconf.ListConfig))


def items(value: Any) -> dict[str, Any]:
    """What a ``DictConfig`` holds by its top keys; what is missing in it stays ``"???"``."""
    omegaconf: Any = sys.modules["omegaconf"]
    return {key: "???" if omegaconf.OmegaConf.is_missing(value, key) else value[key] for key in value}


def plain(value: Any) -> Any:
    """A container as dicts and lists, its interpolations as they are written."""
    omegaconf: Any = sys.modules["omegaconf"]
    return omegaconf.OmegaConf.to_container(value, resolve=False)


def container(value: Any) -> Any:
    """The container of a dict or list; None where OmegaConf is not installed."""
    try:
        omegaconf: Any = importlib.import_module("omegaconf")
    except ImportError:
        return None
    return omegaconf.OmegaConf.create(value)
