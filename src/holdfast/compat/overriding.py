"""Whether a user's class overrides a hook, as programs ask for it."""

from __future__ import annotations

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError
from holdfast.training.datamodule import LightningDataModule
from holdfast.training.hooks import overrides
from holdfast.training.module import LightningModule


def is_overridden(method_name: str, instance: object = None, parent: type | None = None) -> bool:
    """Whether ``instance`` has a ``method_name`` of its own.

    Args:
        method_name: The method.
        instance: A module, datamodule or callback; None has none.
        parent: The class whose method does not count; by default the one of the three that it is.

    Raises:
        ConfigError: It is none of the three, and no parent is given.
    """
    if instance is None:
        return False
    base = parent or next(
        (b for b in (LightningModule, LightningDataModule, Callback) if isinstance(instance, b)), None
    )
    if base is None:
        raise ConfigError(
            f"is_overridden: a {type(instance).__name__} is no module, datamodule or callback: give parent=."
        )
    return overrides(instance, method_name, base)
