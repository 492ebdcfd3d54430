"""What was unfrozen is trained after a resume too, in its own parameter groups, at its own rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import holdfast as L
from holdfast.callbacks import BackboneFinetuning, BaseFinetuning
from holdfast.errors import ConfigError, Incompatible
from resuming import at_ends, copied, differing, saver
from sameness import same
from small_fits import Net, fit, read


class Two(Net):
    """A backbone with a batch norm, and a head."""

    def __init__(self, **options):
        super().__init__(**options)
        del self.layers
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1))

    def loss(self, batch):
        (x,) = batch
        return self.head(self.backbone(x)).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)]


class Piecewise(BaseFinetuning):
    """Unfreezes one layer at epoch 1, the other at epoch 2."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch in (1, 2):
            self.unfreeze_and_add_param_group(pl_module.backbone[epoch - 1], optimizer)


def backbone(**options):
    return BackboneFinetuning(**{"unfreeze_backbone_at_epoch": 1, **options})


class Rates(L.Callback):
    """The learning rates at the end of each epoch, and what is frozen then."""

    def __init__(self):
        self.rates, self.frozen = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
            self.frozen.append(sorted(n for n, p in pl_module.named_parameters() if not p.requires_grad))


@pytest.mark.parametrize("make", [Piecewise, backbone])
def test_pain_27_a_run_resumed_from_any_step_trains_what_was_unfrozen(make, tmp_path):
    """Weights, groups, rates and what is frozen, as if nothing had been interrupted."""
    # The callback's own state is as of the last save, and the resumed fits save nothing.
    wrong, files = differing(tmp_path, make, net=Two, epochs=4, but=("callback",))
    assert wrong == []
    assert files == 16


def test_pain_27_unfrozen_layers_move_after_a_resume(tmp_path):
    """Not only do they ask for gradients: the optimizer steps them."""
    fit(tmp_path / "a", backbone(), saver(tmp_path / "a"), make=Two, max_epochs=2)
    before = read(tmp_path / "a/step=8.ckpt")["state_dict"]["backbone.0.weight"]
    resumed = fit(tmp_path / "b", backbone(), make=Two, max_epochs=3, ckpt_path=tmp_path / "a/step=8.ckpt")
    assert not torch.equal(resumed.lightning_module.backbone[0].weight, before)


def test_nothing_of_a_frozen_layer_moves(tmp_path):
    """Not its weights, nor the statistics of its batch norm where that is frozen too."""
    L.seed_everything(1)
    first = copied(dict(Two().backbone.state_dict()))
    trainer = fit(tmp_path, Piecewise(), make=Two, max_epochs=1)
    now = dict(trainer.lightning_module.backbone.state_dict())
    assert same({k: v for k, v in now.items() if "running" not in k and "tracked" not in k},
                {k: v for k, v in first.items() if "running" not in k and "tracked" not in k})  # fmt: skip


def test_the_backbone_begins_at_a_share_of_the_rate_and_catches_up(tmp_path):
    """A tenth, then twice as much every epoch, never more than the rest."""
    rates = Rates()
    fit(tmp_path, backbone(lambda_func=lambda epoch: 4.0), rates, make=Two, max_epochs=5)
    heads = [0.01 * 0.9**epoch for epoch in range(5)]
    assert [one[0] for one in rates.rates] == pytest.approx(heads)
    assert [len(one) for one in rates.rates] == [1, 2, 2, 2, 2]
    first = heads[1] * 0.1
    assert [one[1] for one in rates.rates[1:]] == pytest.approx([first, first * 4, heads[3], heads[4]])
    assert rates.frozen[0] == ["backbone.0.bias", "backbone.0.weight"]
    assert rates.frozen[1] == []


def test_the_callback_unfreezes_once_an_epoch_however_often_it_is_resumed(tmp_path):
    """A resume in the middle of an epoch begins that epoch again, and its backbone's rate does not grow again."""
    fit(tmp_path / "a", backbone(), saver(tmp_path / "a"), make=Two, max_epochs=3)
    again = backbone()
    fit(tmp_path / "b", again, make=Two, max_epochs=3, ckpt_path=tmp_path / "a/step=10.ckpt")
    assert (
        again.previous_backbone_lr
        == read(tmp_path / "a/step=12.ckpt")["callbacks"]["BackboneFinetuning"]["previous_backbone_lr"]
    )


def test_a_file_of_lightnings_that_does_not_say_what_is_frozen_is_understood(tmp_path):
    """The groups that the callback added are trained."""
    fit(tmp_path, backbone(), at_ends(tmp_path), make=Two, max_epochs=2)
    state = read(tmp_path / "step=8.ckpt")["callbacks"]["BackboneFinetuning"]
    theirs = {key: state[key] for key in ("internal_optimizer_metadata", "previous_backbone_lr")}

    class Strips(L.Callback):
        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            checkpoint["callbacks"]["BackboneFinetuning"] = theirs

    rates = Rates()
    fit(tmp_path / "b", Strips(), backbone(), rates, make=Two, max_epochs=3, ckpt_path=tmp_path / "step=8.ckpt")
    assert rates.frozen == [[]]
    assert len(rates.rates[0]) == 2


def test_names_that_the_module_lacks_are_refused(tmp_path):
    """Before anything is changed; nothing that was trained is silently left out."""
    fit(tmp_path, backbone(), at_ends(tmp_path), make=Two, max_epochs=2)

    class Other(Two):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))

    with pytest.raises(Incompatible, match=r"backbone\.1\.bias"):
        fit(tmp_path / "b", backbone(), make=Other, max_epochs=3, ckpt_path=tmp_path / "step=8.ckpt")


def test_a_module_without_a_backbone_is_refused(tmp_path):
    """By what it lacks."""
    with pytest.raises(ConfigError, match="no module named 'backbone'"):
        fit(tmp_path, backbone(), net=Net())


def test_parameters_of_equal_values_are_not_taken_for_each_other():
    """What an optimizer has already is known by the parameter itself."""
    one, other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([one], lr=0.1)
    assert BaseFinetuning.filter_on_optimizer(optimizer, [other]) == [other]


def test_what_the_optimizer_has_already_is_left_where_it_is(caplog):
    """And a line says what to do about it."""
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    BaseFinetuning.unfreeze_and_add_param_group(layer, optimizer)
    assert len(optimizer.param_groups) == 1
    assert "2 of the parameters" in caplog.text


class Nested(nn.Module):
    """A module with a parameter of its own and parts."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())})


def test_freezing_reaches_every_parameter_once():
    """Those of a module with parts too; batch norms stay where they are asked to."""
    module = Nested()
    BaseFinetuning.freeze(module)
    assert [n for n, p in module.named_parameters() if p.requires_grad] == ["parts.b.0.weight", "parts.b.0.bias"]
    BaseFinetuning.freeze(module, train_bn=False)
    assert [n for n, p in module.named_parameters() if p.requires_grad] == []
    assert module.parts["b"][0].track_running_stats is False
    BaseFinetuning.make_trainable([module.parts, [module]])
    found = list(BaseFinetuning.filter_params(module))
    assert len(found) == len(set(map(id, found))) == 5
    assert len(list(BaseFinetuning.filter_params(module, train_bn=False))) == 3
