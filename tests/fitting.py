"""A small network, its data, and a trainer that does nothing but train: for tests of the loop."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast


class Net(holdfast.LightningModule):
    """Two layers whose steps note what the trainer knew then."""

    def __init__(self, configure=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.configure = configure
        self.seen = []

    def loss(self, batch):
        return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        self.seen.append(f"t{self.current_epoch}.{batch_idx}")
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.seen.append("s" if self.trainer.sanity_checking else "v")
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        if self.configure is not None:
            return self.configure(self)
        return torch.optim.SGD(self.parameters(), lr=0.1)


def net(configure=None, kind=Net):
    """The same network each time."""
    torch.manual_seed(7)
    return kind(configure)


def data(batches=4, seed=0):
    """The same batches of three each time."""
    generator = torch.Generator().manual_seed(seed)
    rows = batches * 3
    return TensorDataset(torch.randn(rows, 4, generator=generator), torch.randn(rows, 1, generator=generator))


def loader(batches=4, seed=0):
    return DataLoader(data(batches, seed), batch_size=3)


class Unsized:
    """A loader that does not say how long it is."""

    def __init__(self, batches=4):
        self.batches = batches

    def __iter__(self):
        return iter(loader(self.batches))


def trainer(folder, **options):
    """A trainer that saves and shows nothing."""
    quiet = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "default_root_dir": folder, "accelerator": "cpu",
    }  # fmt: skip
    return holdfast.Trainer(**{**quiet, **options})


def weights(module):
    """All weights as one tensor."""
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])
