"""Keep the values of a run in a folder of its own, as plain files. Any tool reads them."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.errors import ConfigError
from holdfast.loggers.base import Logger
from holdfast.loggers.metrics_file import MetricsFile
from holdfast.loggers.yaml_text import yaml_text
from holdfast.store import LocalStore
from holdfast.store.failures import reported

if TYPE_CHECKING:
    from holdfast.callbacks.model_checkpoint import ModelCheckpoint

_VERSION = re.compile(r"version_(\d+)")


class CSVLogger(Logger):
    """Writes ``metrics.csv`` and ``hparams.yaml`` into ``<save_dir>/<name>/version_N``.

    A row is what was logged together at a step. The heading grows as new names come. In a folder that has a
    ``metrics.csv`` already, such as that of a run that is gone on with, rows are added to it.

    Args:
        save_dir: The folder of all experiments.
        name: The folder of this one within it; empty for none.
        version: A number, or the name of a folder; by default the next free number, taken by making its folder when
            it is first asked for, so that two runs never share one.
        prefix: Put before each name, with a ``-`` between.
        flush_logs_every_n_steps: Write at least every so many steps, and besides when a checkpoint is durable and at
            the end. What was written survives the process; the last rows may not survive a loss of power.

    Raises:
        ConfigError: An argument makes no sense.
    """

    NAME_METRICS_FILE: ClassVar[str] = "metrics.csv"
    NAME_HPARAMS_FILE: ClassVar[str] = "hparams.yaml"
    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        if flush_logs_every_n_steps < 1:
            raise ConfigError(f"CSVLogger: flush_logs_every_n_steps is 1 or more, not {flush_logs_every_n_steps!r}.")
        if version == "" or isinstance(version, bool) or not isinstance(version, (int, str, type(None))):
            raise ConfigError(f"CSVLogger: version is a number or the name of a folder, not {version!r}.")
        self._save_dir = os.fspath(save_dir)
        self._name = name or ""
        self._version = version
        self._prefix = prefix
        self._every = flush_logs_every_n_steps
        self._flush_at: int | None = None
        self._hparams: dict[str, Any] = {}
        self._hparams_changed = False
        self._file: MetricsFile | None = None

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
        """The folder of the experiment."""
        return str(Path(self._save_dir) / self._name) if self._name else self._save_dir

    @property
    def log_dir(self) -> str:
        """The folder of this run."""
        version = self.version
        return str(Path(self.root_dir) / (version if isinstance(version, str) else f"version_{version}"))

    @property
    def experiment(self) -> MetricsFile:
        """The file of its metrics."""
        if self._file is None:
            self._file = MetricsFile(LocalStore(self.log_dir), self.NAME_METRICS_FILE)
        return self._file

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None = None) -> None:
        """Keep them for ``hparams.yaml``, besides those of earlier calls. What has no plain value is left out."""
        given = vars(params) if isinstance(params, Namespace) else dict(params or {})
        self._hparams.update(given)
        self._hparams_changed = True

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row.

        Args:
            metrics: Number or one-element tensor by name.
            step: Optimizer steps done; by default the rows are counted.

        Raises:
            ConfigError: A value is no number.
        """
        file = self.experiment
        at = file.rows if step is None else step
        file.add({self._prefixed(name): _number(name, value) for name, value in metrics.items()}, at)
        if self._flush_at is None:
            self._flush_at = at + self._every
        if at >= self._flush_at:
            self.save()
            self._flush_at = at + self._every

    def save(self) -> None:
        """Write what was only kept so far; ``StoreError`` where that fails."""
        if self._hparams_changed:
            LocalStore(self.log_dir).put(self.NAME_HPARAMS_FILE, yaml_text(self._hparams).encode())
            self._hparams_changed = False
        if self._file is not None:
            self._file.save()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Write, so that a run that goes on from the checkpoint finds every row before it."""
        self.save()

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name


def _number(name: str, value: Any) -> int | float:
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool):
        return int(plain)
    if not isinstance(plain, (int, float)):
        raise ConfigError(f"log_metrics takes numbers, and {name!r} is {value!r:.80}.")
    return plain


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
