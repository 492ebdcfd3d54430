"""Hooks of callbacks as they were once: known by name or signature, still called, and said to be old."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

NEWER = {
    "on_init_start": "setup",
    "on_init_end": "setup",
    "on_pretrain_routine_start": "on_fit_start",
    "on_pretrain_routine_end": "on_fit_start",
}
"""Older hooks, and which to override instead."""

BEFORE_TRAINING = ("on_pretrain_routine_start", "on_pretrain_routine_end")

_STATE = "callback_state"
_told: dict[str, WeakSet[type]] = {}


class OlderHooks:
    """Hooks that have a newer one. One that is overridden is called as ever, with one warning for each class."""

    def on_init_start(self, trainer: Trainer) -> None:
        """When a trainer is made; override ``setup`` instead."""

    def on_init_end(self, trainer: Trainer) -> None:
        """When a trainer has been made; override ``setup`` instead."""

    def on_pretrain_routine_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After ``on_fit_start``; override that instead."""

    def on_pretrain_routine_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""


def adapted(callback: Any, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of a callback as it is called today, whichever way it was written.

    Args:
        callback: The callback, which overrides the hook.
        name: The hook.
        call: The hook, bound to trainer and module.
    """
    if name in NEWER:
        tell(callback, name, f"{name} is old: override {NEWER[name]}")
    elif name == "on_save_checkpoint":
        return _keeping_what_it_returns(callback, call)
    elif name == "on_load_checkpoint" and _takes_state(callback):
        return _with_its_state(callback, call)
    return call


def call_init_hooks(trainer: Any, callbacks: list[Any]) -> None:
    """Tell those who still listen that a trainer has been made."""
    for name in ("on_init_start", "on_init_end"):
        for callback in callbacks:
            if getattr(type(callback), name) is not getattr(OlderHooks, name):
                tell(callback, name, f"{name} is old: override {NEWER[name]}")
                getattr(callback, name)(trainer)


def tell(callback: Any, topic: str, text: str) -> None:
    """Warn once for each class, at its module: Python shows such warnings of a program's own code only."""
    kind = type(callback)
    told = _told.setdefault(topic, WeakSet())
    if kind not in told:
        told.add(kind)
        code = getattr(inspect.unwrap(getattr(kind, topic)), "__code__", None)
        file, line = ("<unknown>", 0) if code is None else (code.co_filename, code.co_firstlineno)
        message = f"{kind.__name__}: {text} instead."
        warnings.warn_explicit(message, DeprecationWarning, file, line, module=kind.__module__)


def _keeping_what_it_returns(callback: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def hook(checkpoint: dict[str, Any]) -> None:
        state = call(checkpoint)
        if isinstance(state, dict) and state and state is not checkpoint:
            tell(callback, "on_save_checkpoint", "on_save_checkpoint that returns a state is old: override state_dict")
            states = checkpoint.setdefault("callbacks", {})
            states[callback.state_key] = {**states.get(callback.state_key, {}), **state}

    return hook


def _with_its_state(callback: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def hook(checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(callback.state_key)
        if state is not None:
            call(state)

    text = f"on_load_checkpoint that takes {_STATE} is old: override load_state_dict"
    tell(callback, "on_load_checkpoint", text)
    return hook


def _takes_state(callback: Any) -> bool:
    parameters = list(inspect.signature(callback.on_load_checkpoint).parameters)
    return len(parameters) > 2 and parameters[2] == _STATE
