"""Keep the values of a run in a folder of its own, as plain files. Any tool reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.errors import ConfigError
from holdfast.loggers.folder import FolderLogger
from holdfast.loggers.metrics_file import MetricsFile
from holdfast.store import LocalStore

if TYPE_CHECKING:
    from holdfast.callbacks.model_checkpoint import ModelCheckpoint


class CSVLogger(FolderLogger):
    """Writes ``metrics.csv`` and ``hparams.yaml`` into ``<save_dir>/<name>/version_N``.

    A row is what was logged together at a step. The heading grows as new names come. In a folder that has a
    ``metrics.csv`` already, such as that of a run that is gone on with, rows are added to it.

    Args:
        save_dir: See ``FolderLogger``.
        name: See ``FolderLogger``.
        version: See ``FolderLogger``.
        prefix: See ``FolderLogger``.
        flush_logs_every_n_steps: Write at least every so many steps, and besides when a checkpoint is durable and at
            the end. What was written survives the process; the last rows may not survive a loss of power.

    Raises:
        ConfigError: An argument makes no sense.
    """

    NAME_METRICS_FILE: ClassVar[str] = "metrics.csv"

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
        super().__init__(save_dir, name, version, prefix)
        self._every = flush_logs_every_n_steps
        self._flush_at: int | None = None
        self._file: MetricsFile | None = None

    @property
    def experiment(self) -> MetricsFile:
        """The file of its metrics."""
        if self._file is None:
            self._file = MetricsFile(LocalStore(self.log_dir), self.NAME_METRICS_FILE)
        return self._file

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
        file.log_metrics({self._prefixed(name): value for name, value in metrics.items()}, at)
        if self._flush_at is None:
            self._flush_at = at + self._every
        if at >= self._flush_at:
            self.save()
            self._flush_at = at + self._every

    def save(self) -> None:
        """Write what was only kept so far; ``StoreError`` where that fails."""
        super().save()
        if self._file is not None:
            self._file.save()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Write, so that a run that goes on from the checkpoint finds every row before it."""
        self.save()

    def rewind(self, step: int) -> None:
        """Move the rows of this step and later ones, if there are any, into ``metrics.abandoned-N.csv``."""
        self.experiment.rewind(step)
        self._flush_at = None
