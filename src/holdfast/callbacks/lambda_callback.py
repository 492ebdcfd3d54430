"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError


class LambdaCallback(Callback):
    """A callback whose hooks are given as functions.

    Args:
        hooks: A function by the name of its hook, taking what the hook takes: trainer and module first.

    Raises:
        ConfigError: There is no hook of that name.
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        known = {name for name in vars(Callback) if name.startswith("on_")} | {"setup", "teardown"}
        unknown = sorted(set(hooks) - known)
        if unknown:
            raise ConfigError(f"LambdaCallback: callbacks have no hook named {', '.join(unknown)}.")
        for name, function in hooks.items():
            if function is not None:
                setattr(self, name, function)
