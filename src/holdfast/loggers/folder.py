"""The folder of a run, ``<save_dir>/<name>/version_N``, and the file of its hyperparameters. Writes no metrics."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from holdfast.errors import ConfigError
from holdfast.loggers.base import Logger
from holdfast.loggers.params import as_dict
from holdfast.loggers.yaml_text import yaml_text
from holdfast.store import LocalStore
from holdfast.store.failures import reported

_VERSION = re.compile(r"version_(\d+)")


class FolderLogger(Logger):
    """A logger that keeps a run in a folder of its own.

    Args:
        save_dir: The folder of all experiments.
        name: The folder of this one within it; empty for none.
        version: A number, or the name of a folder; by default the next free number, taken by making its folder when
            it is first asked for, so that two runs never share one.
        prefix: Put before each name, with a ``-`` between.

    Raises:
        ConfigError: An argument makes no sense.
    """

    NAME_HPARAMS_FILE: ClassVar[str] = "hparams.yaml"
    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self, save_dir: str | os.PathLike[str], name: str | None, version: int | str | None, prefix: str
    ) -> None:
        if version == "" or isinstance(version, bool) or not isinstance(version, (int, str, type(None))):
            who = type(self).__name__
            raise ConfigError(f"{who}: version is a number or the name of a folder, not {version!r}.")
        self._save_dir = os.fspath(save_dir)
        self._name = name or ""
        self._version = version
        self._prefix = prefix
        self.hparams: dict[str, Any] = {}
        self._hparams_changed = False

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self._name

    @property
    def version(self) -> int | str:
        """Which run of the experiment this is; asked for the first time, it takes the next number."""
        if self._version is None:
            self._version = _next_version(Path(self.root_dir))
        return self._version

    @property
    def save_dir(self) -> str:
        """The folder of all experiments."""
        return self._save_dir

    @property
    def root_dir(self) -> str:
        """The folder of the experiment; ``~`` and ``$NAME`` in it stand for what they say."""
        root = Path(os.path.expandvars(self._save_dir)).expanduser()
        return str(root / self._name) if self._name else str(root)

    @property
    def log_dir(self) -> str:
        """The folder of this run."""
        version = self.version
        return str(Path(self.root_dir) / (version if isinstance(version, str) else f"version_{version}"))

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None = None) -> None:
        """Keep them for ``hparams.yaml``, besides those of earlier calls. What has no plain value is left out."""
        self.hparams.update(as_dict(params))
        self._hparams_changed = True

    def save(self) -> None:
        """Write what was only kept so far; ``StoreError`` where that fails."""
        if self._hparams_changed:
            store = LocalStore(self.log_dir)
            if self.hparams or store.stat(self.NAME_HPARAMS_FILE) is None:
                store.put(self.NAME_HPARAMS_FILE, yaml_text(self.hparams).encode())
            self._hparams_changed = False

    def go_on_in(self, version: int | str) -> None:
        """Take the folder of the run that goes on, unless a version was given or taken already."""
        if self._version is None:
            number = _VERSION.fullmatch(version) if isinstance(version, str) else None
            self._version = version if number is None else int(number[1])

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name


def _next_version(root: Path) -> int:
    """Make the folder of the next version, and return its number."""
    with reported("make a folder in", str(root)):
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(found[1]) for path in root.iterdir() if (found := _VERSION.fullmatch(path.name))]
        version = max(taken, default=-1) + 1
        while True:
            try:
                (root / f"version_{version}").mkdir()
            except FileExistsError:  # another run was faster
                version += 1
            else:
                return version
