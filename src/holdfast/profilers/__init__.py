"""Profilers: where the time of a run goes. Each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.profilers.advanced import AdvancedProfiler
    from holdfast.profilers.base import PassThroughProfiler, Profiler
    from holdfast.profilers.pytorch import PyTorchProfiler
    from holdfast.profilers.simple import SimpleProfiler

_HOME_OF = {
    "Profiler": "base",
    "PassThroughProfiler": "base",
    "SimpleProfiler": "simple",
    "AdvancedProfiler": "advanced",
    "PyTorchProfiler": "pytorch",
}

__all__ = ["Profiler", "PassThroughProfiler", "SimpleProfiler", "AdvancedProfiler", "PyTorchProfiler"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast.profilers' has no attribute {name!r}")
    return getattr(import_module(f"holdfast.profilers.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
