"""What scripts read off a trainer: the values they gave, and the state of the run."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Callback, LightningDataModule, LightningModule, Trainer
from holdfast.errors import ConfigError
from holdfast.loggers import CSVLogger
from holdfast.training.states import TrainerFn


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
    assert (runs.ckpt_path, runs.interrupted, runs.received_sigterm) == (None, False, False)
    assert (runs.max_epochs, runs.max_steps) == (1000, -1)
    assert (runs.min_epochs, runs.fit_loop.min_epochs, runs.min_steps) == (0, 0, None)
    assert quiet(tmp_path, num_sanity_val_steps=-1).num_sanity_val_steps == float("inf")


def test_the_state_follows_the_run(tmp_path):
    """Verb, status and stage are those of the moment, within the steps and after the end."""
    runs, module = quiet(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1), Tiny()
    assert (runs.state.fn, str(runs.state.status), runs.state.stage) == (None, "initializing", None)
    runs.fit(module)
    assert module.seen == ["sanity_check", ("fit", "running", "train"), "validate"]
    assert (str(runs.state.fn), runs.state.finished, runs.state.stage) == ("fit", True, None)


def test_the_stage_that_setup_is_given_is_the_verb(tmp_path):
    """As its text and as ``TrainerFn``, to module, datamodule and callbacks."""

    class Asks(Callback):
        def setup(self, trainer, pl_module, stage):
            given.append(stage)

        def teardown(self, trainer, pl_module, stage):
            given.append(stage)

    class Data(LightningDataModule):
        def setup(self, stage):
            given.append(stage)

        def val_dataloader(self):
            return Tiny().val_dataloader()

    given = []
    runs = quiet(tmp_path, callbacks=[Asks()], max_epochs=1)
    runs.fit(Tiny())
    runs.validate(Tiny(), datamodule=Data(), verbose=False)
    fit, validate = TrainerFn.FITTING, TrainerFn.VALIDATING
    assert [stage.value for stage in given] == ["fit", "fit", "validate", "validate", "validate"]
    assert given == [fit, fit, validate, validate, validate]
    assert "fit" in given
    assert f"{given[0]}" in {"fit"}


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


def test_a_word_for_a_checkpoint_is_said_as_the_file_that_it_meant(tmp_path, caplog):
    """Which weights were measured can be read off the trainer, and off what it prints."""
    runs = quiet(tmp_path, max_epochs=1)
    runs.fit(Tiny())
    path = runs.checkpoint_callback.best_model_path
    for word in ("best", "last", None):
        caplog.clear()
        runs.validate(Tiny() if word else None, ckpt_path=word)
        assert runs.ckpt_path == path
        assert f"taking the weights of '{path}'" in caplog.messages


def test_limits_set_between_fits_count_for_the_next(tmp_path):
    """By ``fit_loop``, as programs do, or on the trainer: the second fit goes on to the new limit, then a third."""
    runs = quiet(tmp_path, max_epochs=2)
    runs.fit(Tiny())
    runs.fit_loop.max_epochs += 1
    assert (runs.max_epochs, runs.fit_loop.max_epochs) == (3, 3)
    runs.fit(runs.lightning_module)
    assert (runs.current_epoch, runs.global_step) == (3, 9)
    runs.max_steps = 11
    runs.max_epochs = -1
    runs.fit(runs.lightning_module)
    assert (runs.global_step, runs.fit_loop.max_steps, runs.max_epochs) == (11, 11, -1)


def test_a_limit_set_within_a_fit_counts_at_once(tmp_path):
    """A callback shortens the fit that it is in, and forbids another to stop it."""

    class Shortens(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.fit_loop.max_epochs = 2

    class Stops(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.fit_loop.min_epochs = 3

        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    runs = quiet(tmp_path, max_epochs=9, callbacks=[Shortens()])
    runs.fit(Tiny())
    assert runs.current_epoch == 2
    runs = quiet(tmp_path, max_epochs=9, callbacks=[Stops()])
    runs.fit(Tiny())
    assert runs.current_epoch == 3


@pytest.mark.parametrize(
    ("name", "value", "batches"),
    [("limit_train_batches", 2, 2), ("accumulate_grad_batches", 3, 1), ("overfit_batches", 1, 1)],
)
def test_an_argument_set_between_fits_counts_for_the_next(tmp_path, name, value, batches):
    """It reads as it was set, and the fit that follows does as it says."""
    runs = quiet(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    runs.fit(Tiny())
    setattr(runs, name, value)
    runs.max_epochs = 2
    runs.fit(runs.lightning_module)
    assert getattr(runs, name) == value
    assert runs.global_step == 3 + batches


def test_clipping_set_between_fits_and_within_one_counts_from_there_on(tmp_path):
    """The gradient is 1 for the weight and 1 for the bias: what a step takes off shows how it was clipped."""

    class Clips(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            biases.append(pl_module.layer.bias.item())
            if batch_idx == 1:
                trainer.gradient_clip_val = 0.25

        def on_train_end(self, trainer, pl_module):
            biases.append(pl_module.layer.bias.item())

    biases = []
    runs = quiet(tmp_path, max_epochs=1, callbacks=[Clips()])
    runs.gradient_clip_val, runs.gradient_clip_algorithm = 0.5, "value"
    runs.fit(Tiny())
    assert (runs.gradient_clip_val, runs.gradient_clip_algorithm) == (0.25, "value")
    taken = [before - after for before, after in pairwise(biases)]
    assert taken == pytest.approx([0.05, 0.025, 0.025], rel=1e-4)
    with pytest.raises(ConfigError, match="gradient_clip_val is a number of 0 or more, not -1"):
        runs.gradient_clip_val = -1


def test_loops_are_read_as_programs_do(tmp_path):
    """How many batches an evaluation has, what a prediction has returned so far, whether a fit is done."""

    class Predicts(Tiny):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            seen.append(len(self.trainer.predict_loop.predictions))
            return batch_idx

    seen = []
    module, runs = Predicts(), quiet(tmp_path, max_epochs=1)
    assert (runs.fit_loop.done, runs.validate_loop.num_dataloaders, runs.predict_loop.predictions) == (False, 0, [])
    runs.fit(module)
    assert runs.fit_loop.done
    runs.fit_loop.max_epochs = 2
    assert not runs.fit_loop.done
    assert runs.validate_loop.max_batches == runs.fit_loop.epoch_loop.val_loop.max_batches == [3]
    assert (runs.validate_loop.num_dataloaders, runs.test_loop.num_dataloaders) == (1, 0)

    runs.predict(module, module.train_dataloader())
    assert runs.predict_loop.predictions == [0, 1, 2]
    assert seen == [0, 1, 2]
    runs.predict(module, [module.train_dataloader()] * 2)
    assert runs.predict_loop.predictions == [[0, 1, 2]] * 2
    runs.predict(module, module.train_dataloader(), return_predictions=False)
    assert runs.predict_loop.predictions == []


def test_what_is_logged_can_be_read_at_once(tmp_path):
    """Numbers for the bar; tensors for loggers, though none is there and the step is none at which one writes."""

    class Logs(Tiny):
        def training_step(self, batch):
            self.log("shown", torch.tensor(0.5), prog_bar=True, logger=False)
            self.log("kept", torch.tensor(2.0), on_epoch=True)
            return super().training_step(batch)

    class Reads(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            read.append((trainer.progress_bar_metrics, dict(trainer.logged_metrics)))

    read = []
    runs = quiet(tmp_path, max_epochs=1, callbacks=[Reads()])
    runs.fit(Logs())
    assert read == [({"shown": 0.5}, {"kept_step": torch.tensor(2.0)})] * 3
    assert type(runs.progress_bar_metrics["shown"]) is float
    assert runs.logged_metrics == {"kept_step": torch.tensor(2.0), "kept_epoch": torch.tensor(2.0)}


def test_a_limit_that_makes_no_sense_is_refused_where_it_is_set(tmp_path):
    """With the sentence of the argument; what was there stays."""
    runs = quiet(tmp_path, max_epochs=2)
    with pytest.raises(ConfigError, match="max_epochs is a whole number of at least -1, not 'three'"):
        runs.fit_loop.max_epochs = "three"
    assert runs.max_epochs == 2


@pytest.mark.parametrize("name", ["current_epoch", "epoch_progress", "restarting", "max_epoch"])
def test_what_cannot_be_set_in_the_loop_is_refused(tmp_path, name):
    """It would have no effect; the error says what can be."""
    with pytest.raises(AttributeError, match=f"fit_loop.{name} cannot be set, only max_epochs, min_epochs"):
        setattr(quiet(tmp_path).fit_loop, name, 0)


def test_the_loop_counts_as_programs_read_it(tmp_path):
    """Within a batch, at its end, at an epoch's end, and afterwards."""
    seen = []

    class Reads(Callback):
        def look(self, trainer):
            loop = trainer.fit_loop
            epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
            seen.append((loop.batch_idx, loop.total_batch_idx, batches.ready, epochs.ready, epochs.completed))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.look(trainer)

        def on_train_epoch_end(self, trainer, pl_module):
            self.look(trainer)

    runs = quiet(tmp_path, max_epochs=2, limit_train_batches=2, callbacks=[Reads()])
    assert (runs.fit_loop.batch_idx, runs.fit_loop.epoch_progress.current.completed) == (-1, 0)
    runs.fit(Tiny())
    assert seen == [
        (0, 0, 1, 1, 0),
        (1, 1, 2, 1, 0),
        (1, 1, 2, 1, 0),
        (0, 2, 1, 2, 1),
        (1, 3, 2, 2, 1),
        (1, 3, 2, 2, 1),
    ]
    loop = runs.fit_loop
    assert (loop.epoch_progress.current.completed, loop.epoch_loop.batch_progress.total.completed) == (2, 4)
    assert (loop.epoch_loop.global_step, loop.epoch_loop._batches_that_stepped, loop.max_batches) == (4, 4, 2)


def test_a_logger_can_be_taken_away_or_given(tmp_path):
    """As programs do between a fit and a test."""
    runs = quiet(tmp_path)
    mine = CSVLogger(tmp_path)
    runs.logger = mine
    assert runs.loggers == [mine]
    runs.logger = None
    assert (runs.logger, runs.loggers) == (None, [])
