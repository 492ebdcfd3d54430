"""A program as people submit it to Slurm: it says nothing of checkpoints to go on from."""

from __future__ import annotations

import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import ModelCheckpoint

EPOCHS, BATCHES = 4, 40


class Model(L.LightningModule):
    """Small, and slow enough for a signal to come in the middle of it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        if self.global_step == 0:
            print("training", flush=True)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def main(folder: str) -> None:
    """Train; where Slurm has started the job again, go on."""
    L.seed_everything(0)
    data = DataLoader(TensorDataset(torch.randn(BATCHES * 4, 4)), batch_size=4, shuffle=True)
    callback = ModelCheckpoint(folder, save_last=True)
    trainer = L.Trainer(
        max_epochs=EPOCHS, callbacks=[callback], default_root_dir=folder, logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Model(), data)
    print(f"done at step {trainer.global_step}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
