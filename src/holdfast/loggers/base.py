"""What a logger offers to a run. Knows no trainer: it is handed numbers, and told when to write."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from holdfast.callbacks.model_checkpoint import ModelCheckpoint


class Logger:
    """Base class of all loggers. One of your own overrides ``name``, ``version``, ``log_metrics``, ``log_hyperparams``.

    A run calls it on rank 0 only.
    """

    @property
    def name(self) -> str | None:
        """The name of the experiment."""
        raise NotImplementedError

    @property
    def version(self) -> int | str | None:
        """Which run of the experiment this is."""
        raise NotImplementedError

    @property
    def save_dir(self) -> str | None:
        """The folder of all experiments; None where nothing is kept in files."""
        return None

    @property
    def root_dir(self) -> str | None:
        """The folder of the experiment; None where nothing is kept in files."""
        return None

    @property
    def log_dir(self) -> str | None:
        """The folder of this run; None where nothing is kept in files."""
        return None

    @property
    def experiment(self) -> Any:
        """What it writes with, for what only this kind of logger can do."""
        return None

    @property
    def group_separator(self) -> str:
        """What stands between the group of a metric and its name."""
        return "/"

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep values of one step.

        Args:
            metrics: Number by name.
            step: Optimizer steps done; what None means, each kind of logger says.
        """
        raise NotImplementedError

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Keep what the run was made with."""
        raise NotImplementedError

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Keep how the module computes, where this kind of logger can.

        Args:
            model: The module.
            input_array: An input of it; by default its ``example_input_array``.
        """

    def save(self) -> None:
        """Write what was only kept so far."""

    def finalize(self, status: str) -> None:
        """The run is over.

        Args:
            status: ``"success"`` or ``"failed"``.
        """
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """A checkpoint of this callback is durable. Called on the main thread, once for each save."""

    # A run that goes on

    def go_on_in(self, version: int | str) -> None:
        """The run goes on that had this version: take it, unless a version was given or taken already."""

    def rewind(self, step: int) -> None:
        """The same run goes on from a checkpoint: what was logged at this step and after it is not of its past.

        Args:
            step: The next one that will be logged.
        """
