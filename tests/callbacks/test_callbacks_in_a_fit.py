"""What callbacks and loggers do in real fits: they stop, leave and take away files, and write what was logged."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast.callbacks import Callback, EarlyStopping, OnExceptionCheckpoint, RichProgressBar
from holdfast.errors import ConfigError
from holdfast.loggers import CSVLogger
from holdfast.training.module import LightningModule
from holdfast.training.trainer import Trainer


class Model(LightningModule):
    """Logs, epoch by epoch, the scores that it is given."""

    def __init__(self, scores=(), fails_at=None, error=RuntimeError):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.scores, self.fails_at, self.error = scores, fails_at, error

    def training_step(self, batch, batch_idx):
        if self.fails_at == (self.current_epoch, batch_idx):
            raise self.error("boom")
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validating(Model):
    """Logs the scores as those of its validations."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.validations = 0

    def validation_step(self, batch, batch_idx):
        at = self.current_epoch if self.scores else 0
        self.log("val_loss", self.scores[at] if self.scores else 1.0)

    def on_validation_epoch_end(self):
        self.validations += not self.trainer.sanity_checking


class LateLogging(Model):
    """Logs them in the module's own hook, which comes after those of ordinary callbacks."""

    def on_train_epoch_end(self):
        self.log("val_loss", self.scores[self.current_epoch])


def loader():
    return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2)


def make_fit_trainer(tmp_path, *callbacks, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, "max_epochs": 10, "default_root_dir": tmp_path, "callbacks": list(callbacks), **options})


@pytest.mark.parametrize("kind", [Validating, LateLogging])
def test_training_stops_when_the_metric_no_longer_improves(tmp_path, kind):
    """Two checks without anything better end it, whether validation or the module's own hook logs the metric."""
    stopping = EarlyStopping("val_loss", patience=2)
    trainer = make_fit_trainer(tmp_path, stopping)
    trainer.fit(kind([3.0, 1.0, 2.0, 2.0, 0.5]), loader(), loader() if kind is Validating else None)

    assert (trainer.current_epoch, stopping.stopped_epoch, stopping.best_score.item()) == (4, 3, 1.0)


def test_validations_within_an_epoch_are_counted_one_by_one(tmp_path):
    """Twice an epoch: the third validation without anything better is in the second epoch."""
    model = Validating([1.0] * 10)
    trainer = make_fit_trainer(tmp_path, EarlyStopping("val_loss", patience=2), val_check_interval=0.5)
    trainer.fit(model, loader(), loader())

    assert (model.validations, trainer.global_step) == (3, 6)


def test_a_resumed_fit_stops_where_the_uninterrupted_one_does(tmp_path):
    """The count goes through the checkpoint: patience is not counted anew."""
    scores = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    whole = make_fit_trainer(tmp_path / "whole", EarlyStopping("val_loss", patience=3))
    whole.fit(Validating(scores), loader(), loader())
    first = make_fit_trainer(tmp_path / "cut", EarlyStopping("val_loss", patience=3), max_epochs=3)
    first.fit(Validating(scores), loader(), loader())
    second = make_fit_trainer(tmp_path / "cut", EarlyStopping("val_loss", patience=3))
    second.fit(Validating(scores), loader(), loader(), ckpt_path="last")

    assert (whole.current_epoch, second.current_epoch) == (5, 5)
    assert whole.global_step == second.global_step


def test_a_metric_that_nobody_logs_ends_the_fit_with_what_there_is(tmp_path):
    """The error lists the metrics of this run."""
    trainer = make_fit_trainer(tmp_path, EarlyStopping("val_los"))

    with pytest.raises(ConfigError, match=r"'val_los'.*val_loss"):
        trainer.fit(Validating([1.0] * 10), loader(), loader())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_a_file_to_go_on_from_that_a_clean_end_removes(tmp_path, error):
    """The file holds the state of the step before the error; the fit that goes on from it takes it away."""
    callback = OnExceptionCheckpoint(tmp_path / "here")
    with pytest.raises(error, match="boom"):
        make_fit_trainer(tmp_path, callback, max_epochs=3).fit(Model(fails_at=(1, 2), error=error), loader())
    assert torch.load(callback.ckpt_path, weights_only=True)["global_step"] == 6

    trainer = make_fit_trainer(tmp_path, OnExceptionCheckpoint(tmp_path / "here"), max_epochs=3)
    trainer.fit(Model(), loader(), ckpt_path=callback.ckpt_path)

    assert trainer.global_step == 12
    assert list((tmp_path / "here").iterdir()) == []


def test_without_a_terminal_a_fit_prints_its_layers_and_a_line_an_epoch(tmp_path, capsys):
    """The summary, then epoch by epoch; nothing is drawn over."""
    make_fit_trainer(tmp_path, max_epochs=2, enable_progress_bar=True, enable_model_summary=True).fit(Model(), loader())

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "layer", "all", "Epoch", "Epoch"]
    assert lines[3].startswith("Epoch 0: 4/4 batches in 0:0")
    assert ", loss " in lines[4]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_bar_gives_the_terminal_back_however_a_fit_ends(tmp_path, terminal, error):
    """After a clean end, an error and Ctrl-C: stdout is the program's, and the cursor is shown."""
    trainer = make_fit_trainer(tmp_path, RichProgressBar(), max_epochs=2, enable_progress_bar=True)
    model = Validating(fails_at=(1, 2) if error else None, error=error)
    if error is None:
        trainer.fit(model, loader(), loader())
    else:
        with pytest.raises(error):
            trainer.fit(model, loader(), loader())

    assert sys.stdout is terminal.stream
    assert "Epoch 0" in terminal.text
    assert terminal.raw.rfind("\x1b[?25h") > terminal.raw.rfind("\x1b[?25l")


def test_what_a_fit_logs_is_in_the_file_of_its_version(tmp_path):
    """Rows of steps and of validations, and the hyperparameters beside them."""

    class Saved(Validating):
        def __init__(self, lr=0.25):
            super().__init__([3.0, 2.0])
            self.save_hyperparameters()

    trainer = make_fit_trainer(tmp_path, max_epochs=2, logger=CSVLogger(tmp_path), log_every_n_steps=2)
    trainer.fit(Saved(), loader(), loader())

    folder = tmp_path / "lightning_logs" / "version_0"
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["val_loss"] for row in rows if row["val_loss"]] == ["3.0", "2.0"]
    assert len([row for row in rows if row["loss"]]) == 4
    assert (folder / "hparams.yaml").read_text() == "lr: 0.25\n"
    assert trainer.log_dir == str(folder)


class Watching(Callback):
    """Logs from its own hooks."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("batches", float(batch_idx), on_step=False, on_epoch=True)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.log_dict({"seen": float(pl_module.validations), "two": 2})


def test_a_callback_logs_as_its_module_does(tmp_path):
    """``self.log`` of a callback, by the options that the hook gives: what it logs can be monitored."""
    stops = EarlyStopping("seen", patience=0)
    trainer = make_fit_trainer(tmp_path, Watching(), stops)
    trainer.fit(Validating(), loader(), loader())
    assert {name: trainer.callback_metrics[name].item() for name in ("batches", "seen", "two")} == {
        "batches": 1.5,
        "seen": 1.0,
        "two": 2.0,
    }
    assert stops.stopped_epoch == 1


def test_a_callback_that_nobody_runs_cannot_log():
    with pytest.raises(ConfigError, match=r"log\('x'\) was called on a Watching that no trainer runs"):
        Watching().log("x", 1.0)
