"""A run that goes on is one curve: steps never go back, none is there twice, and nothing that was logged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.callbacks import ModelCheckpoint
from holdfast.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from small_fits import Net, fit, loaders
from tracked import rows, scalars


class Crash(Exception):
    """Power, for instance."""


def crash_at(step):
    """Stumbles in the training step after ``step`` optimizer steps."""

    def stumble(hook, module):
        if hook == "training_step" and module.global_step == step:
            raise Crash

    return stumble


def crashed_and_resumed(folder, make):
    """A fit that crashed after 6 of 12 steps, and went on from its checkpoint of step 4 in the version that it had."""
    first = make()
    with pytest.raises(Crash):
        fit(folder, ModelCheckpoint(folder, filename="{step}", save_top_k=-1), net=Net(stumble=crash_at(6)),
            logger=first, max_epochs=3, log_every_n_steps=1)  # fmt: skip
    second = make()
    fit(folder, ModelCheckpoint(folder, filename="{step}", save_top_k=-1), logger=second, max_epochs=3,
        log_every_n_steps=1, ckpt_path=folder / "step=4.ckpt")  # fmt: skip
    assert second.version == first.version
    return second


def test_pain_30_a_table_has_each_step_once_after_a_crash(tmp_path):
    """The rows of the steps that are made again lie in a file beside it."""
    logger = crashed_and_resumed(tmp_path, lambda: CSVLogger(tmp_path, version=0))

    steps = [int(row["step"]) for row in rows(logger.log_dir) if "train_loss_step" in row]
    assert steps == list(range(12))
    heading, *aside = Path(logger.log_dir, "metrics.abandoned-1.csv").read_text().splitlines()
    at = heading.split(",").index("step")
    assert [row.split(",")[at] for row in aside] == ["4", "5"]


def test_pain_30_tensorboard_shows_each_step_once_after_a_crash(tmp_path):
    """Its reader leaves out what was logged of the steps that are made again; the placeholder is there once too."""
    logger = crashed_and_resumed(tmp_path, lambda: TensorBoardLogger(tmp_path, version=0))

    assert [step for step, _ in scalars(logger.log_dir, "train_loss_step")] == list(range(12))
    assert scalars(logger.log_dir, "hp_metric") == [(0, -1.0)]


def test_pain_30_a_second_fit_of_one_trainer_goes_on_too(tmp_path):
    """Going back to an earlier step within one process: the same logger, and no step twice."""
    logger = TensorBoardLogger(tmp_path)
    callback = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    trainer = fit(tmp_path, callback, logger=logger, max_epochs=2, log_every_n_steps=1)
    trainer.fit(Net(), *loaders(), ckpt_path=tmp_path / "step=4.ckpt")

    assert [step for step, _ in scalars(logger.log_dir, "train_loss_step")] == list(range(8))


def test_pain_30_a_new_version_begins_where_the_checkpoint_stood(tmp_path):
    """Without word of a version each fit has its own; its steps go on from the checkpoint, and both stay whole."""
    options = {"logger": True, "log_every_n_steps": 1}
    fit(tmp_path, net=Net(), max_epochs=1, **options)
    [checkpoint] = tmp_path.rglob("*.ckpt")
    fit(tmp_path, net=Net(), max_epochs=2, ckpt_path=checkpoint, **options)

    home = tmp_path / "lightning_logs"
    assert [step for step, _ in scalars(home / "version_0", "train_loss_step")] == [0, 1, 2, 3]
    assert [step for step, _ in scalars(home / "version_1", "train_loss_step")] == [4, 5, 6, 7]


def test_a_branch_from_another_run_leaves_that_runs_rows_alone(tmp_path):
    """A checkpoint taken to another folder begins a run of its own: a version that has later rows keeps them."""
    logger = CSVLogger(tmp_path, version=0)
    fit(tmp_path, ModelCheckpoint(tmp_path / "one", filename="{step}", save_top_k=-1), logger=logger, max_epochs=2,
        log_every_n_steps=1)  # fmt: skip
    before = rows(logger.log_dir)
    again = CSVLogger(tmp_path, version=0)
    fit(tmp_path, ModelCheckpoint(tmp_path / "two"), logger=again, max_epochs=2, log_every_n_steps=1,
        ckpt_path=tmp_path / "one" / "step=4.ckpt")  # fmt: skip

    assert rows(logger.log_dir)[: len(before)] == before


def test_rewinding_keeps_rows_of_whoever_counts_otherwise(tmp_path):
    """Rows before the step stay, whatever else they hold; nothing to move makes no file; two rewinds make two."""
    logger = CSVLogger(tmp_path, version=0)
    for step in (0, 5, 5, 10):
        logger.log_metrics({"loss": step / 2}, step=step)
    logger.rewind(11)
    assert [row["step"] for row in rows(logger.log_dir)] == ["0", "5", "5", "10"]
    logger.rewind(10)
    logger.rewind(5)
    logger.log_metrics({"loss": 9.0, "new": 1}, step=5)
    logger.save()

    assert [(row["step"], row["loss"]) for row in rows(logger.log_dir)] == [("0", "0.0"), ("5", "9.0")]
    aside = {p.name: p.read_text().splitlines()[1:] for p in Path(logger.log_dir).glob("*abandoned*")}
    assert aside == {"metrics.abandoned-1.csv": ["10,5.0"], "metrics.abandoned-2.csv": ["5,2.5", "5,2.5"]}


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_run_that_goes_on_keeps_its_version_folder(tmp_path, kind):
    """Told which version goes on, a logger takes it, unless it was given one or has taken one."""
    fresh, given, taken = kind(tmp_path), kind(tmp_path, version=7), kind(tmp_path)
    assert taken.version == 0
    for one in (fresh, given, taken):
        one.go_on_in("version_3")
    named = kind(tmp_path)
    named.go_on_in("baseline")

    assert [one.version for one in (fresh, given, taken, named)] == [3, 7, 0, "baseline"]
    assert sorted(p.name for p in (tmp_path / "lightning_logs").iterdir()) == ["version_0"]


def test_a_trackers_run_goes_on_by_its_id():
    """The id is the version; one that was given stays."""
    for kind, given in ((WandbLogger, {"version": "mine"}), (WandbLogger, {"id": "mine"})):
        fresh, told = kind(), kind(**given)
        for one in (fresh, told):
            one.go_on_in("x7")
        assert (fresh.version, told.version) == ("x7", "mine")


def test_an_mlflow_run_goes_on_by_its_id(mlruns):
    """What is logged then is in the run that was."""
    first = MLFlowLogger(save_dir=mlruns)
    first.log_metrics({"loss": 1.0}, step=1)
    second = MLFlowLogger(save_dir=mlruns)
    second.go_on_in(first.run_id)
    second.log_metrics({"loss": 0.5}, step=2)

    history = second.experiment.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
