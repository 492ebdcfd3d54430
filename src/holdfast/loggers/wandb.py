"""Log to Weights & Biases. The package is loaded when the run begins there; every call of it is in this module."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.loggers.base import Logger
from holdfast.loggers.params import as_dict, number, readable, require
from holdfast.loggers.uploads import LogModel, Upload, Uploads

if TYPE_CHECKING:
    from holdfast.callbacks.model_checkpoint import ModelCheckpoint

_STEP = "trainer/global_step"


class WandbLogger(Logger):
    """Logs to a run of Weights & Biases. ``wandb`` itself ends that run: call ``wandb.finish()`` between two of them.

    Args:
        name: What the run is called there.
        save_dir: The folder that wandb writes to, below ``wandb/``.
        version: The id of the run; with the id of an earlier one, that run is gone on with.
        offline: Write to files alone, for ``wandb sync`` later; so does ``WANDB_MODE=offline`` in the environment.
        dir: An older name of ``save_dir``.
        id: An older name of ``version``.
        anonymous: Handed to ``wandb.init``.
        project: The project; by default ``WANDB_PROJECT`` in the environment, else ``lightning_logs``.
        log_model: Which checkpoints are kept as artifacts: ``"all"`` each as soon as it is durable, True those that
            are there when the run ends well, False none. With ``save_top_k=-1`` True is ``"all"``.
        experiment: A run of ``wandb`` to log to, instead of one of its own.
        prefix: Put before each name, with a ``-`` between.
        checkpoint_name: The name of the artifact; ``model-<id>`` by default.
        add_file_policy: Whether wandb copies a checkpoint aside before it uploads it (``"mutable"``), or reads it
            where it is, where a rule may evict it meanwhile (``"immutable"``).
        kwargs: More for ``wandb.init``.

    Raises:
        ConfigError: An argument makes no sense, or wandb is not installed.
    """

    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | os.PathLike[str] = ".",
        version: str | None = None,
        offline: bool = False,
        dir: str | os.PathLike[str] | None = None,
        id: str | None = None,
        anonymous: bool | None = None,
        project: str | None = None,
        log_model: LogModel = False,
        experiment: Any = None,
        prefix: str = "",
        checkpoint_name: str | None = None,
        add_file_policy: Literal["mutable", "immutable"] = "mutable",
        **kwargs: Any,
    ) -> None:
        require("wandb", type(self).__name__)
        self._uploads = Uploads(log_model)
        self._run = experiment
        self._prefix, self._checkpoint_name, self._policy = prefix, checkpoint_name, add_file_policy
        self._init: dict[str, Any] = {
            "name": name,
            "project": project or os.environ.get("WANDB_PROJECT", "lightning_logs"),
            "dir": os.fspath(save_dir if dir is None else dir),
            "id": version or id,
            "resume": "allow",
            **({"mode": "offline"} if offline else {}),
            **({"anonymous": "allow"} if anonymous else {}),
            **kwargs,
        }

    @property
    def name(self) -> str | None:
        """The project."""
        name: str | None = self._init["project"]
        return name

    @property
    def version(self) -> str | None:
        """The id of the run; None before it has begun without one."""
        version: str | None = self._init["id"] if self._run is None else self._run.id
        return version

    @property
    def save_dir(self) -> str | None:
        """The folder that wandb writes to."""
        folder: str | None = self._init["dir"]
        return folder

    @property
    def experiment(self) -> Any:
        """The run of wandb; asked for the first time, it begins, or it is the one that has begun already."""
        if self._run is None:
            import wandb

            if wandb.run is not None:
                logger.warning("WandbLogger logs to the run %s; call wandb.finish() first for another", wandb.run.id)
                self._run = wandb.run
            else:
                self._run = wandb.init(**self._init)
                # The x-axis of all: wandb's own counter counts calls, not steps.
                axis = "global_step" if self._init.get("sync_tensorboard") else _STEP
                self._run.define_metric(axis)
                self._run.define_metric("*", step_metric=axis, step_sync=True)
        return self._run

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep values of one step.

        Args:
            metrics: By name a number, a one-element tensor, or what else wandb shows.
            step: Optimizer steps done: ``trainer/global_step`` there; by default that of the call before.
        """
        named = {self._prefixed(name): _shown(name, value) for name, value in metrics.items()}
        if step is not None and not self._init.get("sync_tensorboard"):
            named[_STEP] = step
        self.experiment.log(named)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Keep them as the run's configuration; what has no plain value is written as text."""
        self.experiment.config.update(readable(as_dict(params)), allow_val_change=True)

    def watch(
        self, model: nn.Module, log: str | None = "gradients", log_freq: int = 100, log_graph: bool = True
    ) -> None:
        """Let wandb look at a module: ``"gradients"``, ``"parameters"``, ``"all"`` or None, every so many batches."""
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    def log_table(
        self,
        key: str,
        columns: Sequence[str] | None = None,
        data: Sequence[Sequence[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Keep a table: columns and rows, or a data frame."""
        import wandb

        given = {"dataframe": dataframe} if dataframe is not None else {"columns": columns, "data": data}
        self.log_metrics({key: wandb.Table(**given)}, step)

    def log_text(
        self,
        key: str,
        columns: Sequence[str] | None = None,
        data: Sequence[Sequence[str]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Keep texts, as a table."""
        self.log_table(key, columns, data, dataframe, step)

    def log_image(self, key: str, images: Sequence[Any], step: int | None = None, **kwargs: Sequence[Any]) -> None:
        """Keep images: tensors, arrays, PIL images or paths. Each keyword has an item for each, such as ``caption``."""
        import wandb

        self._log_media(wandb.Image, key, images, step, kwargs)

    def log_audio(self, key: str, audios: Sequence[Any], step: int | None = None, **kwargs: Sequence[Any]) -> None:
        """Keep sounds: arrays or paths. Each keyword has an item for each, such as ``sample_rate``."""
        import wandb

        self._log_media(wandb.Audio, key, audios, step, kwargs)

    def log_video(self, key: str, videos: Sequence[Any], step: int | None = None, **kwargs: Sequence[Any]) -> None:
        """Keep videos: arrays or paths. Each keyword has an item for each, such as ``fps``."""
        import wandb

        self._log_media(wandb.Video, key, videos, step, kwargs)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Keep what is new as an artifact, where ``log_model`` says so."""
        self._upload(self._uploads.now(checkpoint_callback))

    def finalize(self, status: str) -> None:
        """After a good end, keep the checkpoints that are there as artifacts, where ``log_model`` says so."""
        if status == "success":
            self._upload(self._uploads.at_the_end())

    def go_on_in(self, version: int | str) -> None:
        """Go on with the run of this id, unless one was given or has begun."""
        if self._run is None and self._init["id"] is None:
            self._init["id"] = str(version)

    def _upload(self, uploads: Iterable[Upload]) -> None:
        for one in uploads:
            import wandb

            name = self._checkpoint_name or f"model-{self.experiment.id}"
            artifact = wandb.Artifact(name=name, type="model", metadata=one.metadata)
            artifact.add_file(str(one.path), name="model.ckpt", policy=self._policy)
            self.experiment.log_artifact(artifact, aliases=one.aliases)

    def _log_media(
        self, kind: Any, key: str, items: Sequence[Any], step: int | None, options: Mapping[str, Sequence[Any]]
    ) -> None:
        if not isinstance(items, (list, tuple)):
            raise ConfigError(f"{key!r} takes a list, not a {type(items).__name__}.")
        wrong = [name for name, values in options.items() if len(values) != len(items)]
        if wrong:
            raise ConfigError(f"{key!r} has {len(items)} items, and {', '.join(wrong)} another number of them.")
        made = [kind(item, **{name: values[i] for name, values in options.items()}) for i, item in enumerate(items)]
        self.log_metrics({key: made}, step)

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name

    def __getstate__(self) -> dict[str, Any]:
        # Another process goes on with the same run, by its id.
        return {**self.__dict__, "_run": None, "_init": {**self._init, "id": self.version}}


def _shown(name: str, value: Any) -> Any:
    """A tensor of one element as a number; all else is for wandb to take."""
    return number(name, value) if getattr(value, "ndim", None) == 0 else value
