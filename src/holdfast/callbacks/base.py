"""Where ``Callback`` was once imported from. Holds nothing."""

from __future__ import annotations

import warnings
from typing import Any

from holdfast.callbacks import callback

__all__ = ["Callback"]  # noqa: F822  # by __getattr__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = "holdfast.callbacks.base is an old place: import Callback from holdfast.callbacks."
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return callback.Callback
