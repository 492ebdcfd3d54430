"""The average and the weights are two parts of a checkpoint: neither is ever saved, or trained, as the other."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import holdfast as L
from holdfast.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from holdfast.errors import ConfigError, Incompatible
from resuming import at_ends, copied, differing, saver
from sameness import same
from small_fits import Net, fit, loaders, make_trainer, names, read


class Normed(Net):
    """With a batch norm: buffers that are averaged too."""

    def __init__(self, **options):
        super().__init__(**options)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))


class Watcher(L.Callback):
    """What the module is at each batch's end, and what it computes with in validations."""

    def __init__(self, averaging):
        self.averaging, self.trained, self.validated = averaging, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append(copied(dict(pl_module.named_parameters())))

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.validated.append(copied(dict(pl_module.named_parameters())))


def ema():
    return EMAWeightAveraging(decay=0.8)


class ByEpoch(WeightAveraging):
    """Takes in the weights of each epoch's end."""

    def should_update(self, step_idx=None, epoch_idx=None):
        return epoch_idx is not None


KINDS = {
    "equal": WeightAveraging,
    "exponential": ema,
    "late": lambda: EMAWeightAveraging(decay=0.5, update_starting_at_step=6, update_every_n_steps=2),
    "by epoch": ByEpoch,
    "parameters only": lambda: WeightAveraging(use_buffers=False),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_pain_33_a_run_resumed_from_any_step_goes_on_with_weights_and_average(make, tmp_path):
    """The module at the end is the average, bit for bit as if nothing had been interrupted."""
    wrong, files = differing(tmp_path, make, net=Normed, val_check_interval=0.5)
    assert wrong == []
    assert files == 12


def test_it_is_the_average_that_torch_computes(tmp_path):
    """Taken in after each step; the module has it when the fit is over."""
    averaging = ema()
    watcher = Watcher(averaging)
    trainer = fit(tmp_path, averaging, watcher, max_epochs=2)
    first = Net()
    first.load_state_dict(watcher.trained[0])
    expected = AveragedModel(first, avg_fn=get_ema_avg_fn(0.8), use_buffers=True)
    for weights in watcher.trained:
        first.load_state_dict(weights)
        expected.update_parameters(first)
    assert same(dict(trainer.lightning_module.state_dict()), dict(expected.module.state_dict()))


def test_validations_compute_with_the_average_and_training_goes_on_with_its_weights(tmp_path):
    """What is validated is what the checkpoint of that step calls its state_dict."""
    averaging = ema()
    watcher = Watcher(averaging)
    plain = Watcher(None)
    fit(tmp_path / "a", averaging, watcher, saver(tmp_path / "a"), max_epochs=1, val_check_interval=0.5)
    fit(tmp_path / "b", plain, max_epochs=1, val_check_interval=0.5)
    assert same(watcher.trained, plain.trained)
    for step, validated in ((2, watcher.validated[0]), (4, watcher.validated[-1])):
        file = read(tmp_path / f"a/step={step}.ckpt")
        assert same(file["state_dict"], validated)
        assert same(file["current_model_state"], watcher.trained[step - 1])
        assert not same(file["state_dict"], file["current_model_state"])


def test_the_file_has_the_keys_that_lightning_reads(tmp_path):
    """The average under state_dict, the weights beside it, how many were averaged, and the steps."""
    fit(tmp_path, WeightAveraging(), at_ends(tmp_path), max_epochs=1)
    file = read(tmp_path / "step=4.ckpt")
    assert list(file["averaging_state"]) == ["n_averaged"]
    assert int(file["averaging_state"]["n_averaged"]) == 4
    assert list(file["current_model_state"]) == list(file["state_dict"])
    assert file["callbacks"]["WeightAveraging"]["latest_update_step"] == 4


def stops_in_validation(what):
    """A stumble that does ``what`` in the second validation of the fit."""

    def stumble(hook, module):
        if hook == "validation_step" and module.global_step >= 4:
            what(module)

    return stumble


def parts_of(file):
    return {"average": file["state_dict"], "live": file["current_model_state"], "step": file["global_step"]}


def wanted_parts(folder):
    """The two parts after four steps, of a run in which nothing happened."""
    fit(folder, ema(), saver(folder), max_epochs=1, val_check_interval=0.5)
    return parts_of(read(folder / "step=4.ckpt"))


def test_pain_33_an_exception_in_a_validation_saves_neither_as_the_other(tmp_path):
    """The rescue, and the file of OnExceptionCheckpoint, hold both; the module has the weights that were trained."""

    def breaks(module):
        raise RuntimeError("the labels are gone")

    wanted = wanted_parts(tmp_path / "whole")
    made = []

    def make():
        made.append(Net(stumble=stops_in_validation(breaks)))
        return made[0]

    callbacks = OnExceptionCheckpoint(tmp_path / "mine"), ema(), at_ends(tmp_path / "a")
    with pytest.raises(RuntimeError, match="labels"):
        fit(tmp_path / "a", *callbacks, make=make, val_check_interval=0.5)
    [rescue] = [name for name in names(tmp_path / "a") if name.startswith("rescue")]
    assert same(parts_of(read(tmp_path / "a" / rescue)), wanted)
    assert same(parts_of(read(tmp_path / "mine/on_exception.ckpt")), wanted)
    assert same(dict(made[0].state_dict()), dict(wanted["live"]))


def test_pain_33_a_signal_in_a_validation_saves_neither_as_the_other(tmp_path):
    """SIGTERM between two batches of it."""
    wanted = wanted_parts(tmp_path / "whole")
    stumble = stops_in_validation(lambda module: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        fit(tmp_path / "a", ema(), at_ends(tmp_path / "a"), make=lambda: Net(stumble=stumble), val_check_interval=0.5)
    [rescue] = [name for name in names(tmp_path / "a") if name.startswith("rescue")]
    assert same(parts_of(read(tmp_path / "a" / rescue)), wanted)


def test_pain_33_a_save_by_hand_in_a_validation_saves_neither_as_the_other(tmp_path):
    """Nor does the module's own state_dict, with which users save by themselves."""
    wanted = wanted_parts(tmp_path / "whole")
    found = {}

    def saves(module):
        module.trainer.save_checkpoint(tmp_path / "mine.ckpt")
        found["state"] = copied(dict(module.state_dict()))

    stumble = stops_in_validation(saves)
    fit(tmp_path / "a", ema(), make=lambda: Net(stumble=stumble), max_epochs=1, val_check_interval=0.5)
    assert same(parts_of(read(tmp_path / "mine.ckpt")), wanted)
    assert same(found["state"], wanted["live"])


def test_the_save_at_fits_end_still_holds_both(tmp_path):
    """Though the module computes with the average by then: in on_train_end, and when fit returns."""
    seen = {}

    class Looks(Net):
        def on_train_end(self):
            seen["computes"] = copied(dict(self.named_parameters()))

    wanted = wanted_parts(tmp_path / "whole")
    callback = ModelCheckpoint(tmp_path / "a", every_n_epochs=5, save_last=False)
    trainer = fit(tmp_path / "a", ema(), callback, make=Looks, max_epochs=1, val_check_interval=0.5)
    [name] = names(tmp_path / "a")
    assert same(parts_of(read(tmp_path / "a" / name)), wanted)
    assert same(seen["computes"], wanted["average"])
    assert same(dict(trainer.lightning_module.state_dict()), wanted["average"])


def test_a_save_by_hand_after_the_fit_holds_both_until_other_weights_are_loaded(tmp_path):
    """What was loaded since then is saved as it is."""
    wanted = wanted_parts(tmp_path / "whole")
    trainer = fit(tmp_path / "a", ema(), max_epochs=1, val_check_interval=0.5)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert same(parts_of(read(tmp_path / "end.ckpt")), wanted)
    net = trainer.lightning_module
    torch.manual_seed(3)
    net.load_state_dict(Net().state_dict())
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    file = read(tmp_path / "other.ckpt")
    assert same(file["state_dict"], dict(net.state_dict()))
    assert "current_model_state" not in file


def test_load_from_checkpoint_and_validate_get_the_average(tmp_path):
    """Whoever uses the file, and does not train on, wants that; a later validation is not averaged anew."""
    averaging = ema()
    trainer = fit(tmp_path, averaging, at_ends(tmp_path), max_epochs=2)
    file = read(tmp_path / "step=4.ckpt")
    loaded = Net.load_from_checkpoint(tmp_path / "step=4.ckpt")
    assert same(dict(loaded.state_dict()), file["state_dict"])
    watcher = Watcher(None)
    trainer.callbacks.append(watcher)
    trainer.validate(trainer.lightning_module, loaders()[1], ckpt_path=tmp_path / "step=4.ckpt", verbose=False)
    assert same(watcher.validated[0], file["state_dict"])


def test_a_checkpoint_without_an_average_begins_one(tmp_path, caplog):
    """One line says so."""
    fit(tmp_path / "a", at_ends(tmp_path / "a"), max_epochs=1)
    averaging = WeightAveraging()
    trainer = fit(tmp_path / "b", averaging, ckpt_path=tmp_path / "a/step=4.ckpt", max_epochs=2)
    assert "averaging begins with its weights" in caplog.text
    assert trainer.global_step == 8
    assert int(averaging._average_model.n_averaged) == 4


def test_an_average_that_does_not_fit_is_refused_before_anything_is_changed(tmp_path):
    """By name, as the weights themselves are."""
    fit(tmp_path, WeightAveraging(), at_ends(tmp_path), max_epochs=1)
    net = Net(width=5)
    before = copied(dict(net.state_dict()))
    with pytest.raises(Incompatible, match=r"average\.layers\.0\.weight has shape"):
        fit(tmp_path / "b", WeightAveraging(), net=net, ckpt_path=tmp_path / "step=4.ckpt")
    assert same(dict(net.state_dict()), before)


def test_a_callback_used_for_a_second_fit_averages_anew(tmp_path):
    """As for the folds of a cross-validation: the second ends as if there had been no first."""
    averaging = ema()
    fit(tmp_path / "a", averaging, max_epochs=2)
    second = fit(tmp_path / "b", averaging, max_epochs=1)
    alone = fit(tmp_path / "c", ema(), max_epochs=1)
    assert same(dict(second.lightning_module.state_dict()), dict(alone.lightning_module.state_dict()))


def test_it_stays_off_while_gradients_accumulate(tmp_path):
    """An update a step, not a batch."""
    averaging = WeightAveraging()
    fit(tmp_path, averaging, max_epochs=1, accumulate_grad_batches=2)
    assert int(averaging._average_model.n_averaged) == 2


def test_tied_weights_stay_tied_while_they_are_lent(tmp_path):
    """And both names are saved with what is trained."""

    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(4, 8)
            self.other.weight = self.layers[0].weight

    found = []

    def looks(module):
        found.append((module.other.weight is module.layers[0].weight, copied(dict(module.state_dict()))))

    net = Tied()
    net.stumble = stops_in_validation(looks)
    watcher = Watcher(None)
    fit(tmp_path, ema(), watcher, net=net, max_epochs=1)
    tied, state = found[0]
    assert tied
    assert torch.equal(state["other.weight"], watcher.trained[-1]["layers.0.weight"])
    assert torch.equal(state["layers.0.weight"], watcher.trained[-1]["layers.0.weight"])


def test_a_decay_that_is_no_share_is_refused():
    """Before anything runs."""
    with pytest.raises(ConfigError, match="decay"):
        EMAWeightAveraging(decay=1.5)


@pytest.mark.parametrize("callback", [WeightAveraging(), StochasticWeightAveraging(0.1)])
def test_a_module_that_is_divided_over_ranks_is_refused(callback, tmp_path):
    """A copy of one rank's part would be an average of nothing."""
    with pytest.raises(ConfigError, match="divided it over ranks"):
        fit(tmp_path, callback, strategy="fsdp", enable_checkpointing=False)


def test_a_sanity_check_leaves_nothing_behind(tmp_path):
    """It computes with the first weights, and the run is the one without it."""
    with_check = fit(tmp_path / "a", ema(), max_epochs=1, num_sanity_val_steps=2)
    without = fit(tmp_path / "b", ema(), max_epochs=1)
    assert same(dict(with_check.lightning_module.state_dict()), dict(without.lightning_module.state_dict()))


def test_a_fit_goes_on_with_the_average_where_a_trainer_fits_twice(tmp_path):
    """As documented: what the module has after a fit is the average, and it is trained from there."""
    trainer = make_trainer(tmp_path, ema(), max_epochs=1, enable_checkpointing=False)
    net = Net()
    trainer.fit(net, *loaders())
    assert trainer.global_step == 4
    trainer.fit(net, *loaders())
    assert trainer.global_step == 4
