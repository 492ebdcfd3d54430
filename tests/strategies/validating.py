"""Fits in which a signal comes in a long validation, as ranks run them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from contract import trainer
from courses import Course, loader

from holdfast.callbacks import ModelCheckpoint

BATCHES = 400


class Long(Course):
    """Each batch of its validation takes a hundredth of a second; its last rank is sent a signal in the third."""

    def __init__(self, sanity: bool) -> None:
        super().__init__()
        self.sanity = sanity
        self.validated = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.sanity_checking is not self.sanity:
            return
        self.validated += 1
        if batch_idx == 2 and self.global_rank == self.trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def rows(count: int) -> torch.utils.data.DataLoader:
    """So many batches of one row."""
    return torch.utils.data.DataLoader([(i, torch.full((4,), float(i))) for i in range(count)], batch_size=1)


def signalled(sanity: bool, folder: str, size: int) -> None:
    """One rank gets a signal while all validate."""
    saver = ModelCheckpoint(folder, every_n_train_steps=10_000, save_last=True)
    fitted = trainer(
        "ddp", size, callbacks=[saver], enable_checkpointing=None, max_epochs=1, limit_train_batches=3,
        num_sanity_val_steps=BATCHES if sanity else 0,
    )  # fmt: skip
    module = Long(sanity)
    try:
        fitted.fit(module, loader(size), rows(BATCHES * size + 1))  # one rank has a batch more
    finally:
        Path(folder, f"rank-{os.environ['RANK']}").write_text(f"{fitted.global_step} {module.validated}")
