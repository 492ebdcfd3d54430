"""Find the hooks that somebody overrides, once, and call them in order. One that nobody overrides is never called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.older import BEFORE_TRAINING, adapted

Call = Callable[..., Any]


class Context:
    """Which hook runs now: ``log`` behaves by it."""

    __slots__ = ("hook",)

    def __init__(self) -> None:
        self.hook = ""


class Hooks:
    """All hooks of one run.

    Args:
        trainer: Handed to callbacks, as their signatures promise.
        module: The module.
        base: The class that defines the module's hooks without doing anything.
        callbacks: In the order in which they are called; they come before the module.
        context: Told which hook runs.
    """

    def __init__(self, trainer: Any, module: Any, base: type, callbacks: Sequence[Callback], context: Context) -> None:
        self._trainer = trainer
        self._module = module
        self._base = base
        self._callbacks = tuple(callbacks)
        self._context = context
        self._found: dict[str, tuple[Call, ...]] = {}

    def of(self, name: str) -> tuple[Call, ...]:
        """Those who override the hook ``name``, callbacks first, then the module."""
        if name not in self._found:
            names = (name, *BEFORE_TRAINING) if name == "on_fit_start" else (name,)
            self._found[name] = tuple(
                call for one in names for call in (*self.of_callbacks(one, self._callbacks), *self.of_module(one))
            )
        return self._found[name]

    def of_callbacks(self, name: str, callbacks: Sequence[Callback]) -> tuple[Call, ...]:
        """Those of ``callbacks`` who override ``name``, bound to trainer and module."""
        return tuple(
            adapted(callback, name, partial(getattr(callback, name), self._trainer, self._module))
            for callback in callbacks
            if overrides(callback, name, Callback)
        )

    def of_module(self, name: str) -> tuple[Call, ...]:
        """The module's own, if it overrides it."""
        return (getattr(self._module, name),) if overrides(self._module, name, self._base) else ()

    def call(self, name: str, *args: Any) -> list[Any]:
        """Call a hook; what those called return, in order."""
        found = self._found.get(name)
        if found is None:
            found = self.of(name)
        return self.call_all(found, name, *args) if found else []

    def call_stage(self, name: str, stage: str) -> None:
        """Call ``setup`` or ``teardown`` of callbacks and module."""
        before, self._context.hook = self._context.hook, name
        for call in self.of(name):
            call(stage=stage)
        self._context.hook = before

    def call_callbacks(self, name: str, *args: Any) -> None:
        """Call a hook that only callbacks have."""
        self.call_all(self.of_callbacks(name, self._callbacks), name, *args)

    def call_all(self, calls: Sequence[Call], name: str, *args: Any) -> list[Any]:
        """Call these as the hook ``name``."""
        context = self._context
        before, context.hook = context.hook, name
        try:
            return [call(*args) for call in calls]
        finally:
            context.hook = before


def overrides(thing: Any, name: str, base: type) -> bool:
    """Whether ``thing`` has a ``name`` of its own, by its class or by the object itself."""
    if name in getattr(thing, "__dict__", {}):
        return True
    own = getattr(type(thing), name, None)
    return own is not None and own is not getattr(base, name, None)
