"""Callbacks: what is told of each event of a run."""

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.model_checkpoint import ModelCheckpoint

__all__ = ["Callback", "ModelCheckpoint"]
