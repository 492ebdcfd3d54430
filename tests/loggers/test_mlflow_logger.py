"""What MLFlowLogger promises: what MLflow's own client finds of a run in a folder."""

from __future__ import annotations

import logging

import pytest
import torch
import yaml

from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.loggers import MLFlowLogger
from small_fits import Net, falling, fit


def points(logger, name):
    """(step, value) of each point of a metric."""
    return [(p.step, p.value) for p in logger.experiment.get_metric_history(logger.run_id, name)]


def test_values_steps_and_hyperparameters_are_in_mlflows_run(mlruns):
    """Under its experiment, name and tags; nested hyperparameters by a path; its end is as fit's was."""
    logger = MLFlowLogger("fish", "first try", tags={"kind": "small"}, save_dir=mlruns, prefix="a")
    logger.log_hyperparams({"lr": 0.1, "opt": {"betas": (0.9, 0.99)}})
    logger.log_metrics({"loss": torch.tensor(0.5)}, step=3)
    logger.log_metrics({"loss": 0.25}, step=4)
    logger.finalize("success")

    run = logger.experiment.get_run(logger.run_id)
    assert points(logger, "a-loss") == [(3, 0.5), (4, 0.25)]
    assert run.data.params == {"lr": "0.1", "opt/betas": "[0.9, 0.99]"}
    assert (run.info.run_name, run.data.tags["kind"], run.info.status) == ("first try", "small", "FINISHED")
    assert logger.experiment.get_experiment(logger.experiment_id).name == "fish"
    assert (logger.name, logger.version, logger.save_dir) == (logger.experiment_id, logger.run_id, str(mlruns))


def test_nothing_of_mlflow_begins_before_something_is_logged(mlruns):
    """Making it makes no run and no folder."""
    logger = MLFlowLogger(save_dir=mlruns)
    logger.finalize("success")
    assert not mlruns.exists()


def test_a_failed_fit_is_a_failed_run(mlruns):
    """And what was logged before it stays."""
    logger = MLFlowLogger(save_dir=mlruns)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("failed")
    assert logger.experiment.get_run(logger.run_id).info.status == "FAILED"


def test_a_run_is_gone_on_with_by_its_id(mlruns, caplog):
    """Its values go on; a hyperparameter that MLflow would not change is said, and stops nothing."""
    first = MLFlowLogger(save_dir=mlruns)
    first.log_hyperparams({"lr": 0.1, "width": 3})
    first.log_metrics({"loss": 1.0}, step=1)
    first.finalize("failed")

    second = MLFlowLogger(tracking_uri=f"file:{mlruns}", run_id=first.run_id)
    second.log_hyperparams({"lr": 0.2, "width": 3, "new": 1})
    second.log_metrics({"loss": 0.5}, step=2)
    second.finalize("success")

    assert second.experiment_id == first.experiment_id
    assert points(second, "loss") == [(1, 1.0), (2, 0.5)]
    assert second.experiment.get_run(first.run_id).data.params == {"lr": "0.1", "width": "3", "new": "1"}
    assert [r.getMessage() for r in caplog.records if r.getMessage().endswith("other values than now of: lr")] != []


def test_names_that_mlflow_refuses_lose_what_it_refuses(mlruns, caplog):
    """Said once a name."""
    logger = MLFlowLogger(save_dir=mlruns)
    for step in (1, 2):
        logger.log_metrics({"val/acc@5": 0.5}, step=step)

    assert points(logger, "val/acc5") == [(1, 0.5), (2, 0.5)]
    assert len([r for r in caplog.records if "val/acc@5" in r.getMessage()]) == 1


def test_more_and_longer_hyperparameters_than_mlflow_takes_at_once(mlruns, caplog):
    """Many are sent in turns; one that is too long is cut off, and named."""
    caplog.set_level(logging.WARNING, "holdfast")
    logger = MLFlowLogger(save_dir=mlruns)
    logger.log_hyperparams({**{f"p{n}": n for n in range(250)}, "long": "x" * 7000})

    params = logger.experiment.get_run(logger.run_id).data.params
    assert len(params) == 251
    assert params["long"] == "x" * 6000
    assert "long" in caplog.text


def test_checkpoints_are_artifacts_of_mlflow(mlruns, tmp_path):
    """Each with what it is beside it, though there is ``=`` in its name; evicted ones are not among them."""
    logger = MLFlowLogger(save_dir=mlruns, log_model=True)
    callback = ModelCheckpoint(tmp_path / "run", monitor="val_loss", save_top_k=1, save_last=True)
    fit(tmp_path, callback, net=Net(falling), logger=logger)

    client = logger.experiment
    assert [f.path for f in client.list_artifacts(logger.run_id)] == ["epoch=1-step=8"]
    inside = client.list_artifacts(logger.run_id, "epoch=1-step=8")
    assert [f.path.split("/")[-1] for f in inside] == ["aliases.txt", "epoch=1-step=8.ckpt", "metadata.yaml"]
    [home] = mlruns.glob(f"*/{logger.run_id}/artifacts/epoch=1-step=8")
    assert (home / "epoch=1-step=8.ckpt").read_bytes() == (tmp_path / "run" / "last.ckpt").read_bytes()
    told = yaml.safe_load((home / "metadata.yaml").read_text())
    assert told["original_filename"] == "epoch=1-step=8.ckpt"
    assert told["score"] == pytest.approx(0.9)
    assert told["ModelCheckpoint"]["monitor"] == "val_loss"
    assert (home / "aliases.txt").read_text() == "['latest', 'best']"


def test_mlflow_gets_numbers_alone(mlruns):
    """The error names the metric."""
    with pytest.raises(ConfigError, match="'loss'"):
        MLFlowLogger(save_dir=mlruns).log_metrics({"loss": "high"}, step=1)
