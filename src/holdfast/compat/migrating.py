"""Older checkpoints under the names that programs know. Files are read as they are; this is for what is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.errors import ConfigError
from holdfast.formats.lightning import LIGHTNING_VERSION
from holdfast.formats.migrations import VERSION_KEY, migrate


def migrate_checkpoint(
    checkpoint: dict[str, Any], target_version: str | None = None
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Bring a checkpoint to the form of Lightning 2.6, in place.

    Args:
        checkpoint: What ``torch.load`` gave.
        target_version: None: the form of 2.6 is the only one.

    Returns:
        The checkpoint, and by version what the user should know of the change; empty where nothing had to be changed.

    Raises:
        ConfigError: Another version was asked for.
    """
    if target_version not in (None, LIGHTNING_VERSION):
        raise ConfigError(
            f"migrate_checkpoint: checkpoints are brought to {LIGHTNING_VERSION}, not to {target_version}."
        )
    before = checkpoint.get(VERSION_KEY)
    said = migrate(checkpoint)
    changed = said or checkpoint.get(VERSION_KEY) != before
    return checkpoint, {LIGHTNING_VERSION: said} if changed else {}


@contextmanager
def pl_legacy_patch() -> Iterator[None]:
    """Nothing: Holdfast reads older files without it."""
    yield
