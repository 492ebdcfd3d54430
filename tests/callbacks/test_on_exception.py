"""What OnExceptionCheckpoint promises: a file after an error, none after a clean end, and never another error."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from holdfast.callbacks import OnExceptionCheckpoint
from holdfast.errors import ConfigError, SaveFailed


def saving_trainer(making, error=None):
    """A trainer whose ``save_checkpoint`` writes a line, or fails."""

    def save_checkpoint(path):
        if error is not None:
            raise error
        Path(path).write_text("state")

    return making(save_checkpoint=save_checkpoint)


def test_an_error_leaves_the_file_and_a_clean_end_takes_it_away(making, tmp_path):
    """The file stands after the run that failed, and is gone after the one that did not."""
    callback, trainer = OnExceptionCheckpoint(tmp_path / "here", "oops"), saving_trainer(making)
    callback.setup(trainer, None, "fit")
    callback.on_exception(trainer, None, RuntimeError("boom"))
    callback.teardown(trainer, None, "fit")
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["oops.ckpt"]
    assert callback.ckpt_path == str(tmp_path / "here" / "oops.ckpt")

    callback.setup(trainer, None, "fit")
    callback.teardown(trainer, None, "fit")

    assert list((tmp_path / "here").iterdir()) == []


def test_a_clean_end_without_a_file_is_no_error(making, tmp_path):
    """Nothing was ever saved, and not even the folder is made."""
    callback, trainer = OnExceptionCheckpoint(tmp_path / "here"), saving_trainer(making)
    callback.setup(trainer, None, "fit")
    callback.teardown(trainer, None, "fit")

    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_other_stages_leave_the_file(making, tmp_path, stage):
    """A validation of the state that was rescued does not delete it."""
    (tmp_path / "on_exception.ckpt").write_text("state")
    callback, trainer = OnExceptionCheckpoint(tmp_path), saving_trainer(making)
    callback.setup(trainer, None, stage)
    callback.teardown(trainer, None, stage)

    assert (tmp_path / "on_exception.ckpt").exists()


def test_a_fast_development_run_touches_no_file(making, tmp_path):
    """It neither saves nor removes."""
    (tmp_path / "on_exception.ckpt").write_text("of the real run")
    callback, trainer = OnExceptionCheckpoint(tmp_path), saving_trainer(making)
    trainer.config.fast_dev_run = True
    callback.setup(trainer, None, "fit")
    callback.teardown(trainer, None, "fit")
    callback.on_exception(trainer, None, RuntimeError("boom"))

    assert (tmp_path / "on_exception.ckpt").read_text() == "of the real run"


def test_weights_that_are_half_a_step_on_are_not_saved(making, tmp_path, caplog):
    """An error within an optimizer's step leaves no file, and a line says why."""
    callback, trainer = OnExceptionCheckpoint(tmp_path), saving_trainer(making)
    trainer.strategy.stepping = True
    callback.on_exception(trainer, None, RuntimeError("boom"))

    assert list(tmp_path.iterdir()) == []
    assert "middle of an optimizer's step" in caplog.text


def test_a_save_that_fails_hides_no_error(making, tmp_path, caplog):
    """The failure of saving is a line in the log."""
    caplog.set_level(logging.ERROR, "holdfast")
    failure = SaveFailed("was not saved: the disk is full.", checkpoint="x")
    callback = OnExceptionCheckpoint(tmp_path)

    callback.on_exception(saving_trainer(making, failure), None, RuntimeError("boom"))

    assert "the disk is full" in caplog.text


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    """A name is one file in the folder."""
    with pytest.raises(ConfigError, match="filename"):
        OnExceptionCheckpoint(tmp_path, name)
