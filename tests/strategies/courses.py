"""Fits of several ranks, as ranks run them: with dropout and shuffling, gone on with in one world or another."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from contract import digest, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from holdfast import LightningModule, seed_everything
from holdfast.callbacks import ModelCheckpoint

SAMPLES, BATCH = 48, 8  # the batch is that of all ranks together: 6 steps an epoch


class Rows(Dataset):
    """Rows that know their number."""

    def __init__(self, count: int = SAMPLES) -> None:
        self.rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, self.rows[index]


class Shard(IterableDataset):
    """Every other of the rows, by what each rank is; knows its place."""

    def __init__(self, rank: int) -> None:
        self.rank, self.next = rank, rank

    def __iter__(self):
        rows = Rows()
        while self.next < SAMPLES:
            at, self.next = self.next, self.next + 2
            yield rows[at]
        self.next = self.rank

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class Course(LightningModule):
    """Draws at random, notes which samples it has seen, and logs."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 33), nn.Dropout(dropout), nn.Tanh(), nn.Linear(33, 7))
        self.seen: list[list[int]] = []
        self.stop_at = None

    def training_step(self, batch, batch_idx):
        index, rows = batch
        self.seen.append([self.current_epoch, batch_idx, *index.tolist()])
        loss = self.net(rows).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", self.net(batch[1]).pow(2).mean(), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def loader(size: int, count: int = SAMPLES, **options: Any) -> DataLoader:
    """Rows in batches of which all ranks together have ``BATCH``."""
    return DataLoader(Rows(count), batch_size=BATCH // size, **{"shuffle": True, **options})


def train(
    strategy: str,
    size: int,
    folder: str,
    ckpt: str | None = None,
    validates: bool = True,
    shards: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """One fit; what it ended with, and what each rank has seen."""
    warnings.simplefilter("error")
    seed_everything(options.pop("seed", 3), verbose=False)
    torch.manual_seed(100 + int(os.environ["RANK"]))  # ranks draw differently
    every = options.pop("every", None)
    saver = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=every)
    fitted = trainer(strategy, size, callbacks=[saver], enable_checkpointing=None, **options)
    module = Course()
    rows = DataLoader(Shard(int(os.environ["RANK"])), BATCH // size) if shards else loader(size)
    fitted.fit(module, rows, loader(size, 20, shuffle=False) if validates else None, ckpt_path=ckpt)
    metrics = {name: float(value) for name, value in fitted.callback_metrics.items()}
    state = digest(fitted)
    names = sorted(path.name for path in Path(folder).glob("*.ckpt"))
    return {"state": state, "seen": module.seen, "metrics": metrics, "names": names, "best": saver.best_model_path}


def several(calls: list[list[Any]], size: int) -> list[Any]:
    """Fits in one process, one after the other: to join again costs nothing."""
    return [train(strategy, size, *rest, **options) for strategy, *rest, options in calls]
