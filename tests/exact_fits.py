"""Fits whose data matters, for a process of its own: what they trained on and where they ended is left in a file."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler

import holdfast as L
from holdfast.callbacks import ModelCheckpoint

SAMPLES, EPOCHS = 20, 3
READ: list[int] = []


class Rows(Dataset):
    """Rows with their number; with ``noise``, also what Python, NumPy and torch draw."""

    def __init__(self, samples=SAMPLES, noise=False):
        self.rows = torch.randn(samples, 4, generator=torch.Generator().manual_seed(7))
        self.noise = noise

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        READ.append(index)
        row = self.rows[index]
        if self.noise:
            row = row + random.random() + float(np.random.rand()) + torch.rand(4)
        return row, index


class Unsized(Sampler):
    """Shuffles, and does not say how long it is."""

    def __iter__(self):
        return iter(torch.randperm(SAMPLES).tolist())


class Stream(IterableDataset):
    """Rows in a row, with a state and without a length."""

    def __init__(self):
        self.rows, self.at = Rows(noise=True), 0

    def __iter__(self):
        while self.at < SAMPLES:
            self.at += 1
            yield self.rows[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def stateful(**options):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Rows(), batch_size=4, shuffle=True, **options)


def plain(**options):
    options = {"batch_size": 4, "shuffle": True, **options}
    return DataLoader(options.pop("dataset", None) or Rows(), **options)


START = "start.ckpt"
LOADERS = {
    "shuffled": plain,
    "shuffled, workers": lambda: plain(num_workers=2, persistent_workers=True, prefetch_factor=3),
    "augmented": lambda: plain(dataset=Rows(noise=True)),
    "augmented, workers": lambda: plain(dataset=Rows(noise=True), num_workers=2),
    "augmented, workers that stay": lambda: plain(dataset=Rows(noise=True), num_workers=2, persistent_workers=True),
    "weighted": lambda: plain(shuffle=False, sampler=WeightedRandomSampler(torch.linspace(0.1, 1, SAMPLES), SAMPLES)),
    "by a generator": lambda: plain(generator=torch.Generator().manual_seed(4)),
    "unsized": lambda: plain(dataset=Rows(noise=True), shuffle=False, sampler=Unsized()),
    "several": lambda: {"long": plain(), "short": plain(dataset=Rows(12), batch_size=6)},
    "stateful": stateful,
    "stateful, workers": lambda: stateful(num_workers=2),
    "stream with a state": lambda: DataLoader(Stream(), batch_size=4),
}


class Net(L.LightningModule):
    """With dropout; notes the samples of each step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        parts = list(batch.values()) if isinstance(batch, dict) else [batch]
        self.seen.append((self.current_epoch, batch_idx, [part[1].tolist() for part in parts]))
        loss = sum(self.layers(part[0]).square().mean() for part in parts)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=4)
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append((self.global_step, batch_idx))
        self.log("val_loss", self.layers(batch[0]).square().mean())

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0  # whoever asks makes no loader begin
        return torch.optim.Adam(self.parameters(), lr=0.01)


class SavesAtTheStart(L.Callback):
    """Saves by hand before the second epoch's first batch is asked for."""

    def __init__(self, folder):
        self.path = Path(folder, START)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


def run(folder, kind, seed, name="", *, make=Net, loader=None, validation=None, **options):
    """Train, saving after each step; or go on from checkpoint ``name``. The trainer."""
    L.seed_everything(seed, verbose=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, "val_check_interval": 0.6, **options}
    if kind in ("unsized", "stream with a state"):
        options["val_check_interval"] = 3
        options["check_val_every_n_epoch"] = None
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [] if name else [saver, SavesAtTheStart(folder)]
    trainer = L.Trainer(callbacks=callbacks, enable_checkpointing=not name, **quiet, **options)
    validation = validation or DataLoader(Rows(8, noise=True), batch_size=2, shuffle=True)
    net = make()
    trainer.fit(net, loader or LOADERS[kind](), validation, ckpt_path=Path(folder, name) if name else None)
    return trainer


def end_of(trainer):
    """All that must be equal at the end."""
    net = trainer.lightning_module
    return {
        "weights": dict(net.state_dict()),
        "optimizer": trainer.optimizers[0].state_dict(),
        "seen": net.seen,
        "validated": net.validated,
        "metrics": {name: value.clone() for name, value in trainer.callback_metrics.items()},
    }


def main(folder, kind, seed, checkpoints, out, options):
    """In a process of its own: a run from each of some checkpoints, or from the beginning."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "'set_vital' is deprecated")
    torch.save([end_of(run(folder, kind, seed, name, **options)) for name in checkpoints], out)
