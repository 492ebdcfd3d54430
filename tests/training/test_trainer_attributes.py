"""What scripts read off a trainer: the values they gave, and the state of the run."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast import LightningModule, Trainer


class Tiny(LightningModule):
    """One weight, three batches."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch):
        self.seen.append((str(self.trainer.state.fn), str(self.trainer.state.status), str(self.trainer.state.stage)))
        return self.layer(batch[0]).mean()

    def validation_step(self, batch):
        self.seen.append(str(self.trainer.state.stage))

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(3, 1)))

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet(tmp_path, **options):
    return Trainer(
        default_root_dir=tmp_path, logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("limit_train_batches", 7),
        ("limit_val_batches", 0.5),
        ("limit_test_batches", 3),
        ("limit_predict_batches", 2),
        ("overfit_batches", 0.25),
        ("val_check_interval", 0.5),
        ("check_val_every_n_epoch", 3),
        ("num_sanity_val_steps", 4),
        ("reload_dataloaders_every_n_epochs", 2),
        ("max_time", "00:01:00:00"),
        ("barebones", False),
        ("fast_dev_run", False),
        ("min_epochs", 2),
        ("max_steps", 9),
    ],
)
def test_what_was_given_can_be_read(tmp_path, name, given):
    """Each argument is an attribute of the same name."""
    assert getattr(quiet(tmp_path, **{name: given}), name) == given


def test_defaults_are_what_they_stand_for(tmp_path):
    """An argument left out reads as what it means."""
    runs = quiet(tmp_path)
    assert (runs.limit_train_batches, runs.val_check_interval, runs.num_sanity_val_steps) == (1.0, 1.0, 2)
    assert (runs.ckpt_path, runs.fit_loop, runs.interrupted, runs.received_sigterm) == (None, None, False, False)
    assert quiet(tmp_path, num_sanity_val_steps=-1).num_sanity_val_steps == float("inf")


def test_the_state_follows_the_run(tmp_path):
    """Verb, status and stage are those of the moment, within the steps and after the end."""
    runs, module = quiet(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1), Tiny()
    assert (runs.state.fn, str(runs.state.status), runs.state.stage) == (None, "initializing", None)
    runs.fit(module)
    assert module.seen == ["sanity_check", ("fit", "running", "train"), "validate"]
    assert (str(runs.state.fn), runs.state.finished, runs.state.stage) == ("fit", True, None)
    assert runs.fit_loop is not None


def test_an_error_leaves_the_trainer_interrupted(tmp_path):
    """The status says so, and the next verb begins anew."""

    class Fails(Tiny):
        def training_step(self, batch):
            raise ValueError("on purpose")

    runs = quiet(tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match="on purpose"):
        runs.fit(Fails())
    assert runs.interrupted
    assert runs.state.stopped
    runs.fit(Tiny())
    assert not runs.interrupted


def test_the_checkpoint_that_a_verb_began_with_can_be_read(tmp_path):
    """``ckpt_path`` is that of the verb under way, and of no other."""
    runs = quiet(tmp_path, max_epochs=1)
    runs.fit(Tiny())
    path = runs.checkpoint_callback.best_model_path
    runs.validate(Tiny(), ckpt_path=path)
    assert runs.ckpt_path == path
    runs.validate(Tiny())
    assert runs.ckpt_path is None
