"""What the pages leave out: data, a trainer that ends, and a metric that is known."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L

LOSSES = (0.5, 0.4, 0.32)

Trainer = functools.partial(
    L.Trainer, max_epochs=len(LOSSES), accelerator="cpu", enable_progress_bar=False, enable_model_summary=False
)


class Small(L.LightningModule):
    """A module with everything that the examples do not show."""

    def __init__(self, hparams=None):
        super().__init__()
        self.backbone = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.backbone(x), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", LOSSES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(5, 4), torch.zeros(5, dtype=torch.long)), batch_size=1)

    def val_dataloader(self):
        return self.train_dataloader()
