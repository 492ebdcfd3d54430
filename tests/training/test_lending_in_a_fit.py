"""A fit lends what its optimizers own, and closes the window before anything but their steps may change it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from saving import bits

WIDTH = 1400
"""Wide enough that a save takes much longer than a hook."""


class Net(L.LightningModule):
    """Two layers, each with an optimizer where optimisation is manual."""

    def __init__(self, *, manual=False):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 1, bias=False)
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        loss = self.second(self.first(batch)).square().mean()
        if self.automatic_optimization:
            return loss
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        return None

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.second(self.first(batch)).mean())

    def configure_optimizers(self):
        if self.automatic_optimization:
            return torch.optim.AdamW(self.parameters(), lr=0.01)
        return [torch.optim.AdamW(self.first.parameters()), torch.optim.SGD(self.second.parameters(), lr=0.01)]


class Oracle(L.Callback):
    """Keeps the weights and the optimizers' state of each step's end, by step."""

    def __init__(self):
        self.weights, self.states = {}, {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        step = trainer.global_step
        if step not in self.weights:  # batches whose gradients wait for more are no steps
            self.weights[step] = {k: bits(v) for k, v in pl_module.state_dict().items()}
            self.states[step] = _bits_of([o.state_dict() for o in trainer.optimizers])


class Meddler(L.Callback):
    """Changes weights in hooks, as averages and constraints do, by ways that no version tells of."""

    def on_train_batch_start(self, trainer, pl_module, *args):
        trainer.fence()
        pl_module.second.weight.data.mul_(0.5)
        pl_module.first.weight.data.mul_(0.5)

    def on_validation_start(self, trainer, pl_module):
        self.kept = pl_module.first.weight.detach().clone()
        pl_module.first.weight.data.zero_()

    def on_validation_end(self, trainer, pl_module):
        pl_module.first.weight.data.copy_(self.kept)

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.first.weight.data.mul_(0.5)

    def on_train_end(self, trainer, pl_module):
        pl_module.first.weight.data.zero_()


def _bits_of(states):
    return [bits(v) for s in states for each in s["state"].values() for v in each.values() if torch.is_tensor(v)]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ({}, {"val_check_interval": 2}),
        ({}, {"accumulate_grad_batches": 2, "val_check_interval": 2}),
        ({"manual": True}, {"val_check_interval": 2}),
        ({}, {"precision": "bf16-true", "val_check_interval": 2}),
    ],
    ids=["automatic", "accumulating", "manual", "bf16"],
)
def test_every_file_of_a_fit_is_the_state_of_its_step(tmp_path, module, options):
    """Whatever hooks do between steps: weights and optimizer are those of the step's end, bit for bit."""
    torch.manual_seed(0)
    oracle, net = Oracle(), Net(**module)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = L.Trainer(
        max_epochs=2, limit_val_batches=1, num_sanity_val_steps=0, callbacks=[oracle, Meddler(), saver], logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(net, DataLoader(torch.randn(8, WIDTH), batch_size=2), DataLoader(torch.randn(2, WIDTH)))
    files = sorted(tmp_path.glob("step=*.ckpt"))
    assert len(files) >= 4
    for file in files:
        loaded = torch.load(file, weights_only=True)
        step = loaded["global_step"]
        assert {k: bits(v) for k, v in loaded["state_dict"].items()} == oracle.weights[step], file
        assert _bits_of(loaded["optimizer_states"]) == oracle.states[step], file
