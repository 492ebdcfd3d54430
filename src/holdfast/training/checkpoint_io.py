"""How a program of a user's own writes and reads checkpoint files, and which of those that are known need no such.

Holdfast promises nothing about files that it did not write: "Customize checkpointing behavior" (Lightning 2.x).
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from holdfast.errors import ConfigError
from holdfast.log import logger, warn
from holdfast.store import LocalStore

_Path = str | os.PathLike[str]


class CheckpointIO:
    """Writes, reads and removes checkpoint files. Derive from it to write them your own way.

    ``Trainer(plugins=[MyCheckpointIO()])`` hands every checkpoint to it, on the thread that trains. What it writes is
    foreign to Holdfast: not verified, in no ledger, not listed by ``holdfast ls``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any = None) -> None:
        """Write a checkpoint; it is to be there, whole, when this returns.

        Args:
            checkpoint: The state. Its tensors are those of the run: they change once this has returned.
            path: Where to, absolute.
            storage_options: What was given to ``trainer.save_checkpoint``.
        """
        raise NotImplementedError

    def load_checkpoint(
        self, path: _Path, map_location: Any = None, weights_only: bool | None = None
    ) -> Mapping[str, Any]:
        """Read a checkpoint.

        Args:
            path: Where it is, as it was named.
            map_location: Where tensors go, as ``torch.load`` takes it.
            weights_only: What was given to ``fit``, ``validate`` and their like.
        """
        raise NotImplementedError

    def remove_checkpoint(self, path: _Path) -> None:
        """Remove a checkpoint that no rule keeps any more."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Called once, when the trainer has ended its run."""


class TorchCheckpointIO(CheckpointIO):
    """One file of ``torch.save``'s for each checkpoint. As it is, it adds nothing to what a trainer does anyway."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any = None) -> None:
        """Write it whole or not at all.

        Raises:
            ConfigError: There are storage options, which this has no use for.
            StoreError: It could not be written; a file that stood there stands.
        """
        if storage_options is not None:
            raise ConfigError(f"{type(self).__name__} takes no storage_options.")
        bytes = io.BytesIO()
        torch.save(checkpoint, bytes)
        target = Path(path).expanduser().absolute()
        owner = secrets.token_hex(16)  # of nobody who could sweep it up
        sink = LocalStore(target.parent).create(target.name, owner=owner, size=bytes.getbuffer().nbytes)
        try:
            sink.write_at(0, bytes.getbuffer())
            sink.publish(target.name, replace=True)
        except BaseException:
            sink.discard()
            raise

    def load_checkpoint(
        self, path: _Path, map_location: Any = None, weights_only: bool | None = None
    ) -> Mapping[str, Any]:
        """Read it; with ``weights_only=False`` by pickle, which runs code in the file."""
        loaded: Mapping[str, Any] = torch.load(path, map_location=map_location, weights_only=weights_only is not False)
        return loaded

    def remove_checkpoint(self, path: _Path) -> None:
        """Remove the file, if it is there."""
        target = Path(path).expanduser().absolute()
        LocalStore(target.parent).remove(target.name)


class AsyncCheckpointIO(CheckpointIO):
    """Asks for saves in the background, which is how a trainer saves anyway.

    Args:
        checkpoint_io: How to write. One of a user's own is called on the thread that trains all the same: how safe
            it would be elsewhere is not known.
    """

    def __init__(self, checkpoint_io: CheckpointIO | None = None) -> None:
        self.checkpoint_io = checkpoint_io


def writer_of(plugins: Any) -> CheckpointIO | None:
    """The user's own way to write checkpoints among ``plugins``; None where Holdfast's is what they ask for.

    Raises:
        ConfigError: One of them is something else, or there are two.
    """
    given = [] if plugins is None else list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
    strange = [one for one in given if not isinstance(one, CheckpointIO)]
    if strange:
        raise ConfigError(
            f"plugins={strange!r}: it takes a CheckpointIO and a SLURMEnvironment; "
            "precision=, strategy= and sync_batchnorm= ask for the rest"
        )
    if len(given) > 1:
        raise ConfigError(f"plugins= has {len(given)} CheckpointIO, and one of them is to write")
    if not given:
        return None
    found: CheckpointIO = given[0]
    if isinstance(found, AsyncCheckpointIO):
        found = found.checkpoint_io or TorchCheckpointIO()
    if type(found) is TorchCheckpointIO:
        logger.info("%s: that is how checkpoints are saved anyway", type(given[0]).__name__)
        return None
    warn(
        f"Checkpoints are written by {type(found).__name__}.save_checkpoint() while training waits. "
        "Holdfast does not verify them, and keeps no ledger of them.",
    )
    return found
