"""Keep the values of a run as TensorBoard's event files. TensorBoard is loaded when something is written."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from holdfast.log import logger
from holdfast.loggers.folder import FolderLogger
from holdfast.loggers.params import as_dict, flat, number, require

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from holdfast.callbacks.model_checkpoint import ModelCheckpoint

_NO_METRIC = {"hp_metric": -1}


class TensorBoardLogger(FolderLogger):
    """Writes event files and ``hparams.yaml`` into ``<save_dir>/<name>/version_N``.

    The default logger where TensorBoard is installed. Its first event file is made when something is logged.

    Args:
        save_dir: See ``FolderLogger``.
        name: See ``FolderLogger``.
        version: See ``FolderLogger``.
        log_graph: Whether ``log_graph`` keeps the graph of the module.
        default_hp_metric: Whether hyperparameters logged without metrics get an ``hp_metric`` of -1, without which
            TensorBoard does not show them.
        prefix: See ``FolderLogger``.
        sub_dir: A folder within that of the version.
        kwargs: For ``torch.utils.tensorboard.SummaryWriter``: ``max_queue``, ``flush_secs``, ``filename_suffix``.

    Raises:
        ConfigError: An argument makes no sense, or TensorBoard is not installed.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        require("tensorboard", type(self).__name__)
        super().__init__(save_dir, name, version, prefix)
        self._log_graph, self._default_hp_metric = log_graph, default_hp_metric
        self._sub_dir = None if sub_dir is None else os.fspath(sub_dir)
        self._options = kwargs
        self._writer: SummaryWriter | None = None
        self._rewound: int | None = None
        self._hparams_changed = True  # there is a file of them, if an empty one, beside every event file

    @property
    def sub_dir(self) -> str | None:
        """The folder within that of the version."""
        return self._sub_dir

    @property
    def log_dir(self) -> str:
        """The folder of this run."""
        folder = super().log_dir
        return folder if self._sub_dir is None else str(Path(folder) / self._sub_dir)

    @property
    def experiment(self) -> SummaryWriter:
        """Torch's writer; asked for the first time, it begins an event file."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=self.log_dir, **{"purge_step": self._rewound, **self._options})
        return self._writer

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep values of one step.

        Args:
            metrics: By name a number, a one-element tensor, or several of them by name, which are shown together.
            step: Optimizer steps done; without it TensorBoard shows them at step 0.

        Raises:
            ConfigError: A value is no number.
        """
        writer: Any = self.experiment
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                several = {str(key): number(f"{name}/{key}", one) for key, one in value.items()}
                writer.add_scalars(self._prefixed(name), several, step)
            else:
                writer.add_scalar(self._prefixed(name), number(name, value), step)

    def log_hyperparams(
        self,
        params: Mapping[str, Any] | Namespace | None = None,
        metrics: Mapping[str, Any] | float | None = None,
        step: int | None = None,
    ) -> None:
        """Keep them for ``hparams.yaml``, and for the page of TensorBoard that compares runs.

        Args:
            params: The hyperparameters; nested ones are ``"optimizer/lr"`` there.
            metrics: What runs are compared by: one number, which is called ``hp_metric``, or several by name.
            step: The step of those.
        """
        super().log_hyperparams(params)
        placeholder = _NO_METRIC if self._default_hp_metric else {}
        given = placeholder if metrics is None else metrics
        values = dict(given) if isinstance(given, Mapping) else {"hp_metric": given}
        if not values:
            return
        if metrics is not None or not self._rewound:  # a run that goes on has the placeholder already
            self.log_metrics(values, step)
        from torch.utils.tensorboard.summary import hparams

        names = {self._prefixed(name): number(name, value) for name, value in values.items()}
        file: Any = self.experiment._get_file_writer()  # type: ignore[no-untyped-call]
        for summary in hparams(flat(as_dict(params)), names):  # type: ignore[no-untyped-call]
            file.add_summary(summary, step)

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Keep the graph of the module, if ``log_graph=True`` was given; without an input only a line in the log."""
        if not self._log_graph:
            return
        given = getattr(model, "example_input_array", None) if input_array is None else input_array
        if not isinstance(given, (Tensor, tuple)):
            logger.warning(
                "no graph for TensorBoard: example_input_array of %s is a tensor, or a tuple of forward()'s arguments",
                type(model).__name__,
            )
            return
        writer: Any = self.experiment
        writer.add_graph(model, given)

    def save(self) -> None:
        """Write what was only kept so far; ``StoreError`` where that fails."""
        super().save()
        if self._writer is not None:
            self._writer.flush()

    def finalize(self, status: str) -> None:
        """Write all, and close the event file; what is logged afterwards begins another."""
        self.save()
        if self._writer is not None:
            self._writer.close()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Write, so that a run that goes on from the checkpoint finds every value before it."""
        self.save()

    def rewind(self, step: int) -> None:
        """Tell TensorBoard to show nothing of before that was logged at this step or later. It stays in the files."""
        self._rewound = step
        if self._writer is not None:
            self._writer.close()
            self._writer.purge_step = step

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writer": None}  # it has a thread
