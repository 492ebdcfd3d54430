"""How a run is spread over processes and devices; what ``Trainer(strategy=)`` takes beside a name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.strategies.choose import DDPStrategy, FSDPStrategy, SingleDeviceStrategy

__all__ = ["DDPStrategy", "FSDPStrategy", "SingleDeviceStrategy"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Loaded by those who ask: plain loops need none of it.
    return getattr(import_module("holdfast.strategies.choose"), name)
