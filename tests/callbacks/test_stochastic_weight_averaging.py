"""Stochastic weight averaging: what is averaged when, that it survives a resume, and that no file holds it swapped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import holdfast as L
from holdfast.callbacks import StochasticWeightAveraging
from holdfast.errors import ConfigError
from resuming import at_ends, copied, differing
from sameness import same
from small_fits import Net, fit, names, read


class Normed(Net):
    """With a batch norm, whose statistics are measured for the average."""

    def __init__(self, **options):
        super().__init__(**options)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


class Unscheduled(Net):
    """Without a scheduler of its own."""

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Starts(L.Callback):
    """The parameters and the learning rate at each epoch's start."""

    def __init__(self):
        self.weights, self.rates = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.weights.append([copied(p) for p in pl_module.parameters()])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def swa(**options):
    return StochasticWeightAveraging(**{"swa_lrs": 0.05, "swa_epoch_start": 2, "annealing_epochs": 2, **options})


@pytest.mark.parametrize("net", [Net, Unscheduled, Normed])
def test_a_run_resumed_from_any_step_averages_on(net, tmp_path):
    """Before averaging, in the middle of it, in the middle of an epoch: weights, rates, scheduler and average."""
    wrong, files = differing(tmp_path, swa, net=net, epochs=4)
    assert wrong == []
    assert files == 16


def test_the_average_is_of_the_starts_of_the_last_epochs(tmp_path):
    """Equal weights; the module has it when the fit is over, and no epoch was added for it."""
    starts = Starts()
    averaging = swa(swa_epoch_start=0.75)
    trainer = fit(tmp_path, averaging, starts, max_epochs=4)
    assert averaging.swa_start == 2
    assert len(starts.weights) == 4
    expected = [(a + (b - a) / 2) for a, b in zip(*starts.weights[2:], strict=True)]
    assert same([p.detach() for p in trainer.lightning_module.parameters()], expected)


def test_the_learning_rate_goes_to_that_of_averaging(tmp_path):
    """In as many epochs as were asked for, in place of the module's scheduler."""
    starts = Starts()
    trainer = fit(tmp_path, swa(annealing_strategy="linear"), starts, max_epochs=5)
    assert starts.rates == pytest.approx([0.01, 0.009, 0.0295, 0.05, 0.05])
    assert type(trainer.lr_scheduler_configs[0].scheduler).__name__ == "SWALR"


def test_files_hold_the_weights_that_are_trained_and_the_average_beside_them(tmp_path):
    """Also the last one, after which the module gets the average."""
    starts = Starts()
    averaging = swa()
    trainer = fit(tmp_path, averaging, starts, at_ends(tmp_path), max_epochs=3)
    second = read(tmp_path / "step=8.ckpt")
    assert same(list(second["state_dict"].values()), starts.weights[2])
    last = read(tmp_path / "step=12.ckpt")
    average = last["callbacks"]["StochasticWeightAveraging"]["average_model_state"]
    assert same(dict(average), dict(trainer.lightning_module.state_dict()))
    assert not same(dict(average), dict(last["state_dict"]))


def test_the_save_at_fits_end_holds_the_weights_that_are_trained(tmp_path):
    """A fit that saved nothing before saves once when its module computes with the average already."""
    fit(tmp_path / "a", swa(), at_ends(tmp_path / "a"), max_epochs=3)
    late = L.callbacks.ModelCheckpoint(tmp_path / "b", "{step}", every_n_epochs=7)
    fit(tmp_path / "b", swa(), late, max_epochs=3)
    one, other = read(tmp_path / "a/step=12.ckpt"), read(tmp_path / "b" / names(tmp_path / "b")[0])
    assert same(dict(one["state_dict"]), dict(other["state_dict"]))
    assert same(one["callbacks"]["StochasticWeightAveraging"], other["callbacks"]["StochasticWeightAveraging"])
    assert same(one["holdfast"]["random"], other["holdfast"]["random"])


def test_batch_norms_are_measured_for_the_average(tmp_path):
    """Over the training data, each batch counting the same; momentum is as before, and nothing of it is logged."""
    trainer = fit(tmp_path, swa(), make=Normed, max_epochs=3)
    net = trainer.lightning_module
    norm = net.layers[1]
    batches = [net.layers[0](x).detach() for (x,) in trainer.train_dataloader]
    assert torch.allclose(norm.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-6)
    assert norm.momentum == 0.1
    assert int(norm.num_batches_tracked) == 4
    assert len(net.seen) == 16


def test_an_error_leaves_the_weights_that_are_trained(tmp_path):
    """Even one that comes when the module computes with the average."""

    class Breaks(Net):
        def on_fit_end(self):
            raise RuntimeError("late")

    made = []

    def make():
        made.append(Breaks())
        return made[0]

    with pytest.raises(RuntimeError, match="late"):
        fit(tmp_path, swa(), at_ends(tmp_path), make=make, max_epochs=3)
    assert same(dict(made[0].state_dict()), dict(read(tmp_path / "step=12.ckpt")["state_dict"]))


def test_a_fit_stopped_before_the_last_epoch_keeps_its_weights(tmp_path):
    """As a fit that ends early has no average of its last epochs."""
    stopping = L.callbacks.LambdaCallback(
        on_train_epoch_end=lambda trainer, module: setattr(trainer, "should_stop", trainer.current_epoch == 2)
    )
    trainer = fit(tmp_path, swa(), stopping, at_ends(tmp_path), max_epochs=5)
    file = read(tmp_path / "step=12.ckpt")
    assert same(dict(trainer.lightning_module.state_dict()), dict(file["state_dict"]))


REFUSED = {
    "rate": ({"swa_lrs": -0.1}, "swa_lrs"),
    "rates": ({"swa_lrs": [0.1, "fast"]}, "swa_lrs"),
    "start": ({"swa_lrs": 0.1, "swa_epoch_start": 0}, "swa_epoch_start"),
    "share": ({"swa_lrs": 0.1, "swa_epoch_start": 1.5}, "swa_epoch_start"),
    "strategy": ({"swa_lrs": 0.1, "annealing_strategy": "steep"}, "annealing_strategy"),
}


@pytest.mark.parametrize(("options", "named"), REFUSED.values(), ids=REFUSED)
def test_arguments_that_make_no_sense_are_refused(options, named):
    """By name, before anything runs."""
    with pytest.raises(ConfigError, match=named):
        StochasticWeightAveraging(**options)


def test_several_optimizers_are_refused(tmp_path):
    """It would not know whose rate to take over."""

    class Two(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.layers[i].parameters(), lr=0.1) for i in (0, 3)]

    with pytest.raises(ConfigError, match="one optimizer, and there are 2"):
        fit(tmp_path, swa(), net=Two())


def test_a_share_of_endless_epochs_is_refused(tmp_path):
    """There is nothing that it could be a share of."""
    with pytest.raises(ConfigError, match="needs max_epochs"):
        fit(tmp_path, swa(swa_epoch_start=0.5), max_epochs=-1, max_steps=4)
