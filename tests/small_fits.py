"""Small fits for tests of saving and resuming: a module whose metrics are scripted, data, a trainer, what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L

BATCHES = 4


class Net(L.LightningModule):
    """A network with dropout; its validation reports what the script says.

    Args:
        script: The metric by (epoch, step); by default the loss.
        stumble: Raises whatever it likes, called with the name of the hook and the module.
    """

    def __init__(self, script=None, stumble=lambda hook, module: None, width=8):
        super().__init__()
        self.save_hyperparameters("width")
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 1))
        self.script, self.stumble = script, stumble
        self.seen = []

    def loss(self, batch):
        (x,) = batch
        return self.layers(x).square().mean()

    def training_step(self, batch, batch_idx):
        self.stumble("training_step", self)
        self.seen.append((self.current_epoch, batch_idx))
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.stumble("validation_step", self)
        value = self.loss(batch) if self.script is None else self.script(self.current_epoch, self.global_step)
        self.log("val_loss", value)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)]


def falling(epoch, step):
    """A metric that gets better, for who wants less of it."""
    return 1.0 - epoch / 10


def rising(epoch, step):
    """One that gets worse."""
    return 1.0 + epoch / 10


def loaders(shuffle=False):
    """Four batches to train on, two to validate on."""
    data = torch.randn(16, 4, generator=torch.Generator().manual_seed(7))
    return (
        DataLoader(TensorDataset(data), batch_size=16 // BATCHES, shuffle=shuffle),
        DataLoader(TensorDataset(data[:4]), batch_size=2),
    )


def make_trainer(folder, *callbacks, **options):
    """A trainer that shows nothing."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, **quiet, **options}
    return L.Trainer(callbacks=list(callbacks), default_root_dir=folder, **options)


def fit(folder, *callbacks, net=None, make=Net, shuffle=False, ckpt_path=None, seed=1, **options):
    """Train ``net``, or what ``make`` makes once the seed is set; the trainer."""
    L.seed_everything(seed)
    net = make() if net is None else net
    trainer = make_trainer(folder, *callbacks, **options)
    trainer.fit(net, *loaders(shuffle), ckpt_path=ckpt_path)
    return trainer


def names(folder):
    """The checkpoints in a folder and below it."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.ckpt"))


def read(path):
    """A checkpoint's dictionary, as stock torch reads it."""
    return torch.load(path, weights_only=True)


def steps(path):
    """The optimizer steps that a checkpoint holds."""
    return read(path)["global_step"]


def facts(folder, kind):
    """The ledger's facts of a kind."""
    lines = Path(folder, ".holdfast/ledger.jsonl").read_text().splitlines()
    return [fact for fact in map(json.loads, lines) if fact["fact"] == kind]


def writes(folder):
    """How many files were written there."""
    return len(facts(folder, "committed"))
