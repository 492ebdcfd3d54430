"""What is measured in a process of its own."""

from __future__ import annotations

import json
import resource

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from small_fits import make_trainer


class Large(L.LightningModule):
    """So many bytes of weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(size >> 22))

    def training_step(self, batch, batch_idx):
        return self.layers[0].weight[0, 0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def save_large(folder: str, size: int) -> None:
    """Print by how many bytes the most memory ever held grows when a large module is saved."""
    trainer = make_trainer(folder, max_epochs=1, enable_checkpointing=False)
    trainer.fit(Large(size), DataLoader(TensorDataset(torch.zeros(1, 1))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.save_checkpoint(f"{folder}/large.ckpt")
    print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10))


def save_within(folder: str, size: int, memory: int) -> None:
    """Print by how many bytes the most memory ever held grows when a fit saves a large module with such buffers."""

    class Marking(Large):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for number, each in enumerate((4 << 20, size)):  # a first fit loads the code that saves
        model = Marking(each)
        saver = ModelCheckpoint(f"{folder}/{number}")
        trainer = make_trainer(folder, saver, max_epochs=1, save_memory=memory)
        trainer.fit(model, DataLoader(TensorDataset(torch.zeros(1, 1))))
        trainer.save_checkpoint(f"{folder}/{number}.ckpt")
    print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - model.before) << 10))
