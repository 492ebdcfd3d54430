"""What WandbLogger promises, offline: what wandb's own file holds of a run."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
import wandb

from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.loggers import WandbLogger
from small_fits import Net, falling, fit
from tracked import end_wandb, wandb_history, wandb_records


def test_values_steps_and_hyperparameters_are_in_the_run(offline):
    """Under the names and on the x-axis that users of this API know; the project, name and id are as asked for."""
    logger = WandbLogger("first try", offline, version="abc123", project="fish", prefix="a", tags=["x"])
    assert (logger.name, logger.version, logger.save_dir) == ("fish", "abc123", str(offline))
    logger.log_hyperparams({"lr": 0.1, "opt": {"betas": (0.9, 0.99)}, "act": torch.relu, "dtype": torch.float16})
    logger.log_metrics({"loss": torch.tensor(0.5)}, step=3)
    logger.log_metrics({"loss": 0.25})
    end_wandb()

    assert wandb_history(offline) == [
        {"a-loss": 0.5, "trainer/global_step": 3},
        {"a-loss": 0.25, "trainer/global_step": 3},
    ]
    [run] = wandb_records(offline, "run")
    assert (run.project, run.display_name, run.run_id, list(run.tags)) == ("fish", "first try", "abc123", ["x"])
    told = {u.key: json.loads(u.value_json) for record in wandb_records(offline, "config") for u in record.update}
    assert {name: told[name] for name in ("lr", "opt", "act", "dtype")} == {
        "lr": 0.1, "opt": {"betas": [0.9, 0.99]}, "act": "relu", "dtype": "torch.float16",
    }  # fmt: skip
    axes = [(m.name or m.glob_name, m.step_metric) for m in wandb_records(offline, "metric")]
    assert axes == [("trainer/global_step", ""), ("*", "trainer/global_step")]


def test_nothing_begins_before_something_is_logged(offline):
    """Neither a run nor a folder; the id is known when it has begun."""
    logger = WandbLogger(save_dir=offline, offline=True)
    assert (logger.version, logger.name) == (None, "lightning_logs")
    assert wandb.run is None
    assert logger.experiment.id == logger.version
    assert logger.experiment.offline


def test_a_run_that_has_begun_is_logged_to(offline, caplog):
    """Whoever calls wandb.init() before wants that run; a line says so."""
    with wandb.init(dir=offline, project="mine") as run:
        logger = WandbLogger(save_dir=offline)
        assert logger.experiment is run
        assert run.id in caplog.text
        assert WandbLogger(experiment=run).version == run.id


def test_tables_texts_and_images_are_handed_on(offline):
    """As wandb's own kinds, each keyword item by item; what does not fit together is refused."""
    logger = WandbLogger(save_dir=offline)
    logger.log_table("numbers", columns=["a", "b"], data=[[1, 2], [3, 4]], step=1)
    logger.log_text("texts", columns=["word"], data=[["hello"]], step=1)
    logger.log_image("pictures", [np.zeros((2, 2, 3), dtype=np.uint8)] * 2, step=2, caption=["one", "two"])
    with pytest.raises(ConfigError, match="caption"):
        logger.log_image("pictures", [np.zeros((2, 2, 3))], caption=["one", "two"])
    with pytest.raises(ConfigError, match="takes a list"):
        logger.log_image("pictures", np.zeros((2, 2, 3)))
    end_wandb()

    history = {}
    for call in wandb_history(offline):
        history.update(call)
    assert history["numbers._type"] == history["texts._type"] == "table-file"
    assert history["pictures._type"] == "images/separated"
    assert history["pictures.captions"] == ["one", "two"]


def test_a_module_is_watched(offline):
    """Its gradients are in the run after a step."""
    logger, module = WandbLogger(save_dir=offline), torch.nn.Linear(2, 1)
    logger.watch(module, log_freq=1)
    module(torch.ones(1, 2)).sum().backward()
    logger.log_metrics({"loss": 1.0}, step=1)
    end_wandb()

    assert any(name.startswith("gradients/weight") for call in wandb_history(offline) for name in call)


def artifacts(folder):
    """Of each artifact: the file's name when it was saved, its score, and its aliases."""
    found = []
    for record in wandb_records(folder, "artifact"):
        told = json.loads(record.metadata)
        assert [content.path for content in record.manifest.contents] == ["model.ckpt"]
        found.append((told["original_filename"], told["score"], set(record.aliases)))
    return found


def test_every_checkpoint_is_an_artifact_where_all_are_asked_for(offline):
    """Each as soon as it is durable, once, though ``last.ckpt`` is another name of it; the best is called so."""
    logger = WandbLogger(save_dir=offline, log_model="all")
    callback = ModelCheckpoint(offline / "run", monitor="val_loss", save_top_k=1, save_last=True)
    fit(offline, callback, net=Net(falling), logger=logger)
    end_wandb()

    assert artifacts(offline) == [
        ("epoch=0-step=4.ckpt", 1.0, {"latest", "best"}),
        ("epoch=1-step=8.ckpt", pytest.approx(0.9), {"latest", "best"}),
    ]


def test_what_is_there_at_the_end_is_an_artifact_where_models_are_asked_for(offline):
    """Of every callback, each file once, and not what was evicted meanwhile; a fit that failed gives none."""
    logger = WandbLogger(save_dir=offline, log_model=True)
    callbacks = [
        ModelCheckpoint(offline / "best", monitor="val_loss", mode="max", save_last=True),
        ModelCheckpoint(offline / "newest", filename="{epoch}"),
    ]
    fit(offline, *callbacks, net=Net(falling), logger=logger, max_epochs=3)
    end_wandb()

    assert sorted(artifacts(offline)) == [
        ("epoch=0-step=4.ckpt", 1.0, {"latest", "best"}),
        ("last.ckpt", None, {"latest"}),  # the other callback's newest is the same file
    ]


def test_another_process_goes_on_with_the_same_run(offline):
    """It is pickled with the run's id, without the run."""
    logger = WandbLogger(save_dir=offline)
    begun = logger.experiment.id
    assert pickle.loads(pickle.dumps(logger)).version == begun


def test_the_environment_may_name_the_project(offline, monkeypatch):
    """``WANDB_PROJECT``, where the script does not."""
    monkeypatch.setenv("WANDB_PROJECT", "from outside")
    assert WandbLogger().name == "from outside"
    assert WandbLogger(project="mine").name == "mine"


def test_log_model_is_one_of_three():
    """Anything else is refused."""
    with pytest.raises(ConfigError, match="log_model"):
        WandbLogger(log_model="some")
