"""A fit in a process group of its own, all of which gets a signal in the middle of a step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from small_fits import Net


class Indexed(Dataset):
    """Samples by their indices."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return (torch.full((4,), float(index)),)


class Streamed(IterableDataset):
    """The same in a row, in each worker."""

    def __iter__(self):
        return iter([Indexed()[index] for index in range(16)])


class Asked(L.Callback):
    """All processes get the signal before the third step is made; it goes on when all have taken it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2:
            workers = [child.pid for child in multiprocessing.active_children()]
            assert workers
            # Sent by another process: torch takes what a worker's parent sends for the wish that the worker ends.
            send = f"import os; os.killpg({os.getpgrp()}, {self.number:d})"
            subprocess.run([sys.executable, "-c", send], start_new_session=True, check=True)
            while any(waits(worker, self.number) for worker in workers):
                pass


def waits(process: int, number: int) -> bool:
    """Whether a signal was sent to a process and not taken by it yet."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(bits >> (number - 1) & 1 for bits in pending)


def main(folder: str, dataset: str, context: str, number: int) -> None:
    """Train; the exit code and the folder tell what came of it."""
    os.setpgid(0, 0)
    L.seed_everything(3)
    workers = {"num_workers": 2, "multiprocessing_context": context}
    loader = DataLoader({"indexed": Indexed, "streamed": Streamed}[dataset](), batch_size=4, **workers)
    trainer = L.Trainer(
        max_epochs=3, callbacks=[ModelCheckpoint(folder, save_last=True), Asked(signal.Signals(number))], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Net(), loader)
