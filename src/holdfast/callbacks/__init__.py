"""Callbacks: what is told of each event of a run. Each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.callbacks.callback import Callback
    from holdfast.callbacks.early_stopping import EarlyStopping
    from holdfast.callbacks.model_checkpoint import ModelCheckpoint
    from holdfast.callbacks.on_exception import OnExceptionCheckpoint
    from holdfast.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
    from holdfast.callbacks.summary import ModelSummary

_HOME_OF = {
    "Callback": "callback",
    "ModelCheckpoint": "model_checkpoint",
    "EarlyStopping": "early_stopping",
    "OnExceptionCheckpoint": "on_exception",
    "ModelSummary": "summary",
    "ProgressBar": "progress",
    "RichProgressBar": "progress",
    "TQDMProgressBar": "progress",
}

__all__ = [
    "Callback",
    "ModelCheckpoint",
    "EarlyStopping",
    "OnExceptionCheckpoint",
    "ModelSummary",
    "ProgressBar",
    "RichProgressBar",
    "TQDMProgressBar",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast.callbacks' has no attribute {name!r}")
    return getattr(import_module(f"holdfast.callbacks.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
