"""A fit that says where it is, in a process of its own; another one that goes on from what it left."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import ModelCheckpoint

BATCHES = 6


class Net(L.LightningModule):
    """Dropout, and wide enough for a save to take as long as some steps."""

    def __init__(self, width=192):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Dropout(0.5), nn.Linear(width, 1))

    def training_step(self, batch, batch_idx):
        return self.layers(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layers(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Saying(L.Callback):
    """A line after each batch: of what kind it was, the step, whether a save is being written; and late beginnings."""

    def __init__(self, digests=False):
        self.digests = digests

    def on_fit_start(self, trainer, pl_module):
        print("begun", flush=True)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.received_sigterm:
            print("late", flush=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.digests:
            print(json.dumps([trainer.global_step, digest(pl_module)]), flush=True)
        else:
            print("train", trainer.global_step, int(trainer.saving.under_way), flush=True)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if not self.digests:
            kind = "sanity" if trainer.sanity_checking else "validation"
            print(kind, trainer.global_step, int(trainer.saving.under_way), flush=True)


def digest(module):
    """A number for the weights: equal for equal bits."""
    found = hashlib.sha256()
    for value in module.state_dict().values():
        found.update(value.numpy().tobytes())
    return found.hexdigest()[:16]


def train(folder: str, max_steps: int, ckpt_path: str | None, digests: bool, seed: int = 1) -> None:
    """Train so many steps."""
    logging.getLogger("holdfast").setLevel(logging.ERROR)
    L.seed_everything(seed)
    data = TensorDataset(torch.randn(BATCHES * 4, 8, generator=torch.Generator().manual_seed(7)))
    trainer = L.Trainer(
        max_epochs=-1, max_steps=max_steps, logger=False, accelerator="cpu", val_check_interval=0.5,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=2, default_root_dir=folder,
        callbacks=[Saying(digests), ModelCheckpoint(Path(folder), every_n_train_steps=4, save_last=True)],
    )  # fmt: skip
    torch.manual_seed(1)
    net = Net()
    torch.manual_seed(seed)
    trainer.fit(net, DataLoader(data, 4, shuffle=True), DataLoader(data, 4), ckpt_path=ckpt_path)
    print(json.dumps([trainer.global_step, digest(net)]), flush=True)
