"""Log to MLflow. The package is loaded when the run begins there; every call of it is in this module."""

from __future__ import annotations

import os
import re
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.log import logger
from holdfast.loggers.base import Logger
from holdfast.loggers.params import as_dict, flat, number, require
from holdfast.loggers.uploads import LogModel, Upload, Uploads
from holdfast.loggers.yaml_text import yaml_text

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from holdfast.callbacks.model_checkpoint import ModelCheckpoint

_FILE = "file:"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_/. -]+")
_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
_PARAMS_A_CALL = 100
_PARAM_LENGTH = 6000  # of a value, from MLflow 2.8 on


class MLFlowLogger(Logger):
    """Logs to a run of MLflow.

    Args:
        experiment_name: The experiment; made where there is none.
        run_name: What the run is called.
        tracking_uri: Where MLflow keeps all; by default ``MLFLOW_TRACKING_URI`` in the environment, else ``save_dir``.
        tags: Of the run.
        save_dir: A folder, for where there is no ``tracking_uri``. MLflow 3 and later keeps nothing in a folder unless
            ``MLFLOW_ALLOW_FILE_STORE=true`` is in the environment: ``tracking_uri="sqlite:///mlflow.db"`` is its way.
        log_model: Which checkpoints are kept as artifacts: ``"all"`` each as soon as it is durable, True those that
            are there when the run ends, False none. With ``save_top_k=-1`` True is ``"all"``.
        prefix: Put before each name, with a ``-`` between.
        artifact_location: Where artifacts of a new experiment go; by default MLflow chooses.
        run_id: A run to go on with, instead of a new one.
        synchronous: Whether each call waits for MLflow; by default MLflow chooses.

    Raises:
        ConfigError: An argument makes no sense, or mlflow is not installed.
    """

    LOGGER_JOIN_CHAR: ClassVar[str] = "-"

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
        save_dir: str | os.PathLike[str] | None = "./mlruns",
        log_model: LogModel = False,
        prefix: str = "",
        artifact_location: str | None = None,
        run_id: str | None = None,
        synchronous: bool | None = None,
    ) -> None:
        require("mlflow", type(self).__name__)
        self._uploads = Uploads(log_model)
        folder = os.fspath(save_dir) if save_dir is not None else "./mlruns"
        self._tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_FILE}{folder}"
        self._experiment_name, self._run_name, self._artifacts = experiment_name, run_name, artifact_location
        self.tags = dict(tags or {})
        self._prefix = prefix
        self._run_id: str | None = run_id
        self._experiment_id: str | None = None
        self._options: dict[str, Any] = {} if synchronous is None else {"synchronous": synchronous}
        self._client: MlflowClient | None = None
        self._renamed: set[str] = set()

    @property
    def experiment(self) -> MlflowClient:
        """MLflow's client; asked for the first time, the run begins."""
        if self._client is None:
            import mlflow
            from mlflow.tracking import MlflowClient

            mlflow.set_tracking_uri(self._tracking_uri)  # for what a script does with mlflow itself
            client = MlflowClient(self._tracking_uri)
            self._experiment_id, self._run_id = self._begun(client)
            self._client = client
        return self._client

    @property
    def name(self) -> str:
        """The id of the experiment."""
        return self.experiment_id

    @property
    def version(self) -> str:
        """The id of the run."""
        return self.run_id

    @property
    def run_id(self) -> str:
        """The id of the run, which begins where it has not."""
        _ = self.experiment
        assert self._run_id is not None, "a run that has begun has an id"
        return self._run_id

    @property
    def experiment_id(self) -> str:
        """The id of the experiment, whose run begins where it has not."""
        _ = self.experiment
        assert self._experiment_id is not None, "a run that has begun is of an experiment"
        return self._experiment_id

    @property
    def save_dir(self) -> str | None:
        """The folder of all experiments; None where they are elsewhere."""
        return self._tracking_uri.removeprefix(_FILE) if self._tracking_uri.startswith(_FILE) else None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep values of one step.

        Args:
            metrics: Number or one-element tensor by name. What MLflow does not allow in a name is left out of it.
            step: Optimizer steps done; 0 by default.

        Raises:
            ConfigError: A value is no number.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [
            Metric(key=self._allowed(self._prefixed(name)), value=number(name, value), timestamp=now, step=step or 0)
            for name, value in metrics.items()
        ]
        self.experiment.log_batch(run_id=self.run_id, metrics=made, **self._options)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Keep them; nested ones are ``optimizer/lr``. MLflow never changes one that a run has: a line says so."""
        from mlflow.entities import Param

        values = {self._allowed(name): str(value) for name, value in flat(as_dict(params)).items()}
        long = [name for name, value in values.items() if len(value) > _PARAM_LENGTH]
        if long:
            logger.warning("MLflow takes %d characters: %s cut off there", _PARAM_LENGTH, ", ".join(long))
            values = {name: value[:_PARAM_LENGTH] for name, value in values.items()}
        there = self.experiment.get_run(self.run_id).data.params
        other = [name for name, value in values.items() if there.get(name, value) != value]
        if other:
            logger.warning("the MLflow run %s keeps other values than now of: %s", self.run_id, ", ".join(other))
        new = [Param(key=name, value=value) for name, value in values.items() if name not in there]
        for start in range(0, len(new), _PARAMS_A_CALL):
            some = new[start : start + _PARAMS_A_CALL]
            self.experiment.log_batch(run_id=self.run_id, params=some, **self._options)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Keep what is new as an artifact, where ``log_model`` says so."""
        self._upload(self._uploads.now(checkpoint_callback))

    def finalize(self, status: str = "success") -> None:
        """Keep the checkpoints that are there as artifacts, where ``log_model`` says so, and end the run."""
        self._upload(self._uploads.at_the_end())
        if self._client is not None:
            self._client.set_terminated(self.run_id, _STATUS.get(status, status))

    def go_on_in(self, version: int | str) -> None:
        """Go on with the run of this id, unless one was given or has begun."""
        if self._run_id is None:
            self._run_id = str(version)

    def _begun(self, client: MlflowClient) -> tuple[str, str]:
        """The ids of the experiment and of the run; both begin where they have not."""
        if self._run_id is not None:
            return client.get_run(self._run_id).info.experiment_id, self._run_id
        from mlflow.tracking.context.registry import resolve_tags

        found = client.get_experiment_by_name(self._experiment_name)
        if found is not None and found.lifecycle_stage != "deleted":
            experiment = found.experiment_id
        else:
            experiment = client.create_experiment(self._experiment_name, artifact_location=self._artifacts)
        run = client.create_run(experiment, tags=resolve_tags(self.tags), run_name=self._run_name)
        return experiment, run.info.run_id

    def _upload(self, uploads: Iterable[Upload]) -> None:
        for one in uploads:
            folder = one.path.stem
            self.experiment.log_artifact(self.run_id, str(one.path), folder)
            with tempfile.TemporaryDirectory() as beside:
                Path(beside, "metadata.yaml").write_text(yaml_text(one.metadata), encoding="utf-8")
                Path(beside, "aliases.txt").write_text(str(one.aliases), encoding="utf-8")
                self.experiment.log_artifacts(self.run_id, beside, folder)

    def _allowed(self, name: str) -> str:
        allowed = _NOT_IN_NAMES.sub("", name)
        if allowed != name and name not in self._renamed:
            self._renamed.add(name)
            logger.warning("MLflow takes letters, digits, '_', '/', '.', ' ' and '-': %r is %r there", name, allowed)
        return allowed

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}  # another process goes on with the same run, by its id
