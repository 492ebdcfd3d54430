"""What a fit runs, in which order, and what the trainer says of it afterwards."""

import datetime

import pytest
import torch

import holdfast
from fitting import Net, Unsized, loader, net, trainer, weights
from holdfast.loggers import Logger

E = "t0.0 t0.1 t0.2 t0.3"
F = "t1.0 t1.1 t1.2 t1.3"
BOTH = f"{E} v v {F} v v"

COURSES = {
    "plain": ({}, BOTH, 2, 8),
    "sanity check": ({"num_sanity_val_steps": 1}, f"s {BOTH}", 2, 8),
    "whole sanity check": ({"num_sanity_val_steps": -1}, f"s s {BOTH}", 2, 8),
    "every second batch": ({"val_check_interval": 2}, "t0.0 t0.1 v v t0.2 t0.3 v v t1.0 t1.1 v v t1.2 t1.3 v v", 2, 8),
    "half an epoch": ({"val_check_interval": 0.5}, "t0.0 t0.1 v v t0.2 t0.3 v v t1.0 t1.1 v v t1.2 t1.3 v v", 2, 8),
    "less than a batch": (
        {"val_check_interval": 0.1, "max_epochs": 1}, "t0.0 v v t0.1 v v t0.2 v v t0.3 v v", 1, 4,
    ),
    "over epochs": (
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        "t0.0 t0.1 t0.2 v v t0.3 t1.0 t1.1 v v t1.2 t1.3", 2, 8,
    ),
    "by time that never comes": ({"val_check_interval": "01:00:00:00"}, f"{E} {F}", 2, 8),
    "by time that always comes": (
        {"val_check_interval": datetime.timedelta(0), "max_epochs": 1}, "t0.0 v v t0.1 v v t0.2 v v t0.3 v v", 1, 4,
    ),
    "every second epoch": ({"check_val_every_n_epoch": 2}, f"{E} {F} v v", 2, 8),
    "limits": ({"limit_train_batches": 0.5, "limit_val_batches": 1}, "t0.0 t0.1 v t1.0 t1.1 v", 2, 4),
    "no validation": ({"limit_val_batches": 0}, f"{E} {F}", 2, 8),
    "no training": ({"limit_train_batches": 0}, "", 0, 0),
    "no epochs": ({"max_epochs": 0}, "", 0, 0),
    "steps": ({"max_steps": 6}, f"{E} v v t1.0 t1.1", 2, 6),
    "steps alone": ({"max_steps": 5, "max_epochs": None}, f"{E} v v t1.0", 2, 5),
    "no time": ({"max_time": datetime.timedelta(0)}, "", 0, 0),
    "no time, but an epoch": ({"max_time": {"seconds": 0}, "min_epochs": 1}, f"{E} v v", 1, 4),
    "no time, but steps": ({"max_time": {"seconds": 0}, "min_steps": 2}, "t0.0 t0.1 v v", 1, 2),
    "overfit": ({"overfit_batches": 1}, "t0.0 v t1.0 v", 2, 2),
    "fast run": ({"fast_dev_run": True, "check_val_every_n_epoch": 5}, "t0.0 v", 1, 1),
    "fast run of two": ({"fast_dev_run": 2}, "t0.0 t0.1 v v", 1, 2),
    "accumulation": ({"accumulate_grad_batches": 3}, BOTH, 2, 4),
}  # fmt: skip


@pytest.mark.parametrize("case", COURSES)
def test_a_fit_takes_its_course(case, tmp_path):
    """Batches, validations, epochs and steps are those that users of this API expect from these arguments."""
    options, course, epochs, steps = COURSES[case]
    module, run = net(), trainer(tmp_path, **{"max_epochs": 2, **options})
    run.fit(module, loader(4), loader(2))

    assert " ".join(module.seen) == course
    assert (run.current_epoch, run.global_step) == (epochs, steps)


@pytest.mark.parametrize(
    ("options", "course"),
    [
        ({}, "t0.0 t0.1 t0.2 v t1.0 t1.1 t1.2 v"),
        ({"val_check_interval": 2}, "t0.0 t0.1 v t0.2 t1.0 t1.1 v t1.2"),
        ({"accumulate_grad_batches": 2}, "t0.0 t0.1 t0.2 v t1.0 t1.1 t1.2 v"),
        ({"limit_train_batches": 2}, "t0.0 t0.1 v t1.0 t1.1 v"),
    ],
)
def test_a_loader_without_a_length_is_read_to_its_end(options, course, tmp_path):
    """The last batch is known as such: the epoch's validation follows it, and so does the step of what is left."""
    module, run = net(), trainer(tmp_path, max_epochs=2, **options)
    run.fit(module, Unsized(3), loader(1))

    assert " ".join(module.seen) == course
    assert run.global_step == (4 if "accumulate_grad_batches" in options or "limit_train_batches" in options else 6)


def test_a_stop_within_an_epoch_ends_with_a_validation(tmp_path):
    """``should_stop`` is heeded after the batch, once ``min_epochs`` and ``min_steps`` are done."""

    class Stopping(Net):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.trainer.should_stop = True

    courses = {}
    for name, options in {"at once": {}, "min_steps": {"min_steps": 3}, "min_epochs": {"min_epochs": 1}}.items():
        module = net(kind=Stopping)
        trainer(tmp_path, max_epochs=3, **options).fit(module, loader(4), loader(1))
        courses[name] = " ".join(module.seen)

    assert courses == {"at once": "t0.0 v", "min_steps": "t0.0 t0.1 t0.2 v", "min_epochs": f"{E} v"}


def test_programs_can_tell_that_the_time_ran_out(tmp_path):
    """``should_stop`` is set by the end of the time, within the fit and after it; by another end it is not."""

    class Reading(Net):
        def on_train_end(self):
            self.seen.append(self.trainer.should_stop)

    told = {}
    for name, options in {"time": {"max_time": {"seconds": 0}, "min_steps": 1}, "epochs": {"max_epochs": 1}}.items():
        module, run = net(kind=Reading), trainer(tmp_path, **options)
        run.fit(module, loader(2))
        told[name] = (module.seen[-1], run.should_stop, run.global_step)

    assert told == {"time": (True, True, 1), "epochs": (False, False, 2)}


def test_a_second_fit_counts_on(tmp_path):
    """What is done already is not done again, neither its epochs nor its sanity check's training."""
    module, run = net(), trainer(tmp_path, max_epochs=2)
    run.fit(module, loader(4))
    after = weights(module)
    run.fit(module, loader(4))

    assert (run.current_epoch, run.global_step) == (2, 8)
    assert torch.equal(weights(module), after)


def test_a_step_may_take_the_batch_alone(tmp_path):
    """``batch_idx`` may be left out, and ``dataloader_idx`` is there only where there are several loaders."""
    given = []

    class Short(Net):
        def training_step(self, batch):
            return self.loss(batch)

        def validation_step(self, batch):
            given.append("v")

        def on_validation_batch_end(self, outputs, batch, batch_idx):
            given.append(batch_idx)

    trainer(tmp_path, max_epochs=1).fit(net(kind=Short), loader(1), loader(2))

    assert given == ["v", 0, "v", 1]


def test_several_loaders_are_read_side_by_side_in_training(tmp_path):
    """A dict of loaders gives dicts of batches until the longest is done; the shorter begins again."""
    given = []

    class Pairs(Net):
        def training_step(self, batch, batch_idx):
            given.append({name: float(part[0][0, 0]) for name, part in batch.items()})
            return self.loss(batch["a"])

    trainer(tmp_path, max_epochs=1).fit(net(kind=Pairs), {"a": loader(3), "b": loader(2, seed=1)})
    first = [float(batch[0][0, 0]) for batch in loader(3)]
    second = [float(batch[0][0, 0]) for batch in loader(2, seed=1)]

    assert given == [{"a": first[i], "b": second[i % 2]} for i in range(3)]


def test_loaders_are_asked_for_anew_every_n_epochs(tmp_path):
    """``reload_dataloaders_every_n_epochs=2`` asks in epochs 0, 2 and 4; 0 asks once."""
    asked = []

    class Own(Net):
        def train_dataloader(self):
            asked.append(self.current_epoch)
            return loader(1)

    trainer(tmp_path, max_epochs=5, reload_dataloaders_every_n_epochs=2).fit(net(kind=Own))
    trainer(tmp_path, max_epochs=5).fit(net(kind=Own))

    assert asked == [0, 2, 4, 0]


def test_the_sanity_check_draws_nothing_from_the_random_state(tmp_path):
    """With and without it, training draws the same numbers."""

    class Noisy(Net):
        def training_step(self, batch, batch_idx):
            return self.loss(batch) * torch.rand(())

        def validation_step(self, batch, batch_idx):
            torch.rand(5)

    found = []
    for steps in (0, 2):
        module = net(kind=Noisy)
        torch.manual_seed(3)
        trainer(tmp_path, max_epochs=1, num_sanity_val_steps=steps).fit(module, loader(4), loader(2))
        found.append(weights(module))

    assert torch.equal(*found)


def test_loggers_are_given_what_a_step_logged(tmp_path):
    """Every n-th step's values, at the number of steps before it; an epoch's under the number of its last one."""

    class Kept(Logger):
        name = version = None

        def __init__(self):
            self.rows = []

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, sorted(metrics)))

        def log_hyperparams(self, params):
            """Nothing."""

        def finalize(self, status):
            self.rows.append(status)

    kept = Kept()
    run = trainer(tmp_path, max_epochs=1, logger=[kept], log_every_n_steps=2, accumulate_grad_batches=2)
    run.fit(net(), loader(8), loader(1))

    step, epoch = ["epoch", "train_loss"], ["epoch", "val_loss"]
    assert kept.rows == [(1, step), (3, step), (3, epoch), "success"]


def test_barebones_logs_and_saves_nothing(tmp_path):
    """It trains, and leaves no file and no metric."""
    module = net()
    run = holdfast.Trainer(barebones=True, max_epochs=1, default_root_dir=tmp_path, accelerator="cpu")
    run.fit(module, loader(4), loader(1))

    assert run.global_step == 4
    assert run.callback_metrics == {}
    assert list(tmp_path.iterdir()) == []


def test_anomalies_are_named_where_asked_for(tmp_path):
    """``detect_anomaly`` raises at a NaN of the backward pass, and is off again afterwards."""

    class Broken(Net):
        def training_step(self, batch, batch_idx):
            return (self.layers(batch[0]) * 0).sum().sqrt() * 0

    run = trainer(tmp_path, max_epochs=1, detect_anomaly=True)
    with pytest.raises(RuntimeError, match="nan"), pytest.warns(UserWarning, match="Error detected"):
        run.fit(net(kind=Broken), loader(1))

    assert not torch.is_anomaly_enabled()
