"""The side of the front door that reads: whole checkpoints, parts of them, single tensors. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from holdfast import sources
from holdfast.catalog.folder import Folder
from holdfast.engine.engine import Engine
from holdfast.errors import ConfigError
from holdfast.policy.which import Which
from holdfast.sources import Loaded
from holdfast.state.fingerprint import KEY
from holdfast.store import LocalStore

RANDOM = "random"
OWN = (RANDOM, KEY)
"""The parts that no object of the user's has."""


class Reading:
    """The side of ``Checkpointer`` that reads."""

    _folder: Folder
    _which: Which
    _engine: Engine | None

    def load(
        self,
        source: str | os.PathLike[str] = "last",
        *,
        parts: Collection[str] | None = None,
        location: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
    ) -> dict[str, Any]:
        """Read parts of a checkpoint, verified; changes nothing.

        Args:
            source: ``"last"``, ``"best"`` (by the first ranking rule of ``which``), or a path.
            parts: Names of parts; all by default.
            location: The device for tensors; None for the ones they were saved from.
            dtype: What floating-point tensors become; None for what they are.

        Returns:
            Part name to its state.

        Raises:
            ConfigError: ``parts`` is a single string.
            NotFound: There is no such checkpoint.
            Incompatible: It holds no part of such a name; the sentence lists those there are.
            Corrupt: It is damaged; the sentence names the tensors.
        """
        if isinstance(parts, str):
            raise ConfigError(f"parts= takes several names, not {parts!r}.", remedy=f"Write parts=[{parts!r}].")
        if self._engine is not None:
            self._engine.settle()
        return sources.read(self._folder, source, self._which, parts=parts, location=location, dtype=dtype).parts

    def load_tensor(
        self,
        name: str,
        source: str | os.PathLike[str] = "last",
        *,
        location: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Read one tensor of a checkpoint, verified, and nothing else of it; changes nothing.

        Args:
            name: Its part's name and its own, as in ``"model.layer.weight"``.
            source: As for ``load``.
            location: As for ``load``.
            dtype: As for ``load``.

        Raises:
            NotFound: There is no such checkpoint, or no such tensor in it.
            Corrupt: It is damaged.
        """
        if self._engine is not None:
            self._engine.settle()
        return sources.read_tensor(self._folder, source, self._which, name, location=location, dtype=dtype)

    def _load(
        self, source: str | os.PathLike[str], objects: Mapping[str, Any], fresh: Collection[str]
    ) -> Loaded | None:
        parts, optional = [*objects, *OWN], [*fresh, *OWN]
        modules = [name for name, value in objects.items() if isinstance(value, torch.nn.Module)]  # these copy
        if source == "fresh":
            return None
        if source == "auto":
            return sources.newest(self._folder, parts=parts, optional=optional, mapped=modules)
        return sources.read(self._folder, source, self._which, parts=parts, optional=optional, mapped=modules)

    def _path(self, name: str) -> Path | str:
        root = self._folder.store.root
        return Path(root) / name if isinstance(self._folder.store, LocalStore) else f"{root}/{name}"
