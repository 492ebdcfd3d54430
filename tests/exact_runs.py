"""Trainers and modules for the tests of ``holdfast.testing``; they are imported by other processes."""

from __future__ import annotations

import fcntl
import os

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

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


class Miscounts(Forgets):
    """Logs that number, and computes nothing with it."""

    def training_step(self, batch):
        self.calls += 1
        self.log("calls", float(self.calls))
        return Exact.training_step(self, batch)


class OtherOrder(Exact):
    """Goes through its rows in an order that hangs on a number which is saved nowhere."""

    def train_dataloader(self):
        rows = torch.arange(24.0).reshape(8, 3) / 24
        first = 0 if self.trainer.ckpt_path is None else 4
        return DataLoader(TensorDataset(rows.roll(first, 0)), batch_size=2)


class Unlike(Exact):
    """Computes with a number of the process: no two of its runs are alike."""

    def training_step(self, batch):
        loss = self.layers(batch[0]).pow(2).mean() + os.getpid()
        self.log("loss", loss)
        return loss


def trainer(epochs=2):
    """Three epochs at most, nothing on the screen."""
    return Trainer(
        max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        enable_checkpointing=False,
    )  # fmt: skip


def fails():
    """A trainer that cannot be made."""
    raise ZeroDivisionError("on purpose")


class Held(Dataset):
    """Rows that are read in workers, each of which holds a file open and locked until it ends."""

    def __init__(self, folder):
        self.folder, self.file = folder, None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.file is None:
            self.file = open(self.folder / str(os.getpid()), "w")  # noqa: SIM115 (held to the worker's end)
            fcntl.flock(self.file, fcntl.LOCK_SH)
        return torch.rand(3) + index


class InWorkers(Exact):
    """Reads in workers, by a function that cannot be sent to them: they are forked, as in a run of its own."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def train_dataloader(self):
        return DataLoader(
            Held(self.folder), batch_size=2, shuffle=True, num_workers=1, collate_fn=lambda rows: [torch.stack(rows)]
        )
