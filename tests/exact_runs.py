"""Trainers and modules for the tests of ``holdfast.testing``; they are imported by other processes."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast import LightningModule, Trainer


class Exact(LightningModule):
    """Shuffled data, dropout, a momentum and a scheduler: all that a resume must bring back."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def training_step(self, batch):
        loss = self.layers(batch[0]).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def train_dataloader(self):
        rows = torch.arange(24.0).reshape(8, 3) / 24
        return DataLoader(TensorDataset(rows), batch_size=2, shuffle=True)


class Forgets(Exact):
    """Keeps a number that changes what it computes, and saves it nowhere."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def training_step(self, batch):
        self.calls += 1
        return super().training_step(batch) * (1 + self.calls / 10)


class OtherOrder(Exact):
    """Draws its order from a generator that nobody knows of."""

    def train_dataloader(self):
        import os

        rows = torch.arange(24.0).reshape(8, 3) / 24
        order = torch.randperm(8, generator=torch.Generator().manual_seed(os.getpid()))
        return DataLoader(TensorDataset(rows[order]), batch_size=2)


def trainer(epochs=2):
    """Three epochs at most, nothing on the screen."""
    return Trainer(
        max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        enable_checkpointing=False,
    )  # fmt: skip


def fails():
    """A trainer that cannot be made."""
    raise ZeroDivisionError("on purpose")
