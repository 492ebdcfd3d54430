"""Fits in which one rank knows what all must do, as ranks run them: a signal, a wish to stop, the time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from contract import trainer
from courses import Course, loader

from holdfast.callbacks import Callback, EarlyStopping, ModelCheckpoint

ENDLESS = {"max_epochs": -1, "limit_train_batches": 2000}


class Slow(Course):
    """Takes a hundredth of a second a step, and notes what happens when; its last rank does something at step 7."""

    def __init__(self, does: Any = lambda module: None) -> None:
        super().__init__()
        self.does = does
        self.validated: list[int] = []
        self.polls, self.polled_before = 0, None

    def on_train_start(self):
        agreement, poll = self.trainer.loop.agreement, self.trainer.loop.agreement.poll

        def counted():
            self.polls += 1
            poll()

        agreement.poll = counted

    def training_step(self, batch, batch_idx):
        if self.global_step == 7 and self.global_rank == self.trainer.world_size - 1:
            self.polled_before = self.polls
            self.does(self)
        time.sleep(0.01)
        return self.net(batch[1]).pow(2).mean()

    def on_validation_start(self):
        if not self.trainer.sanity_checking:
            self.validated.append(self.global_step)

    def validation_step(self, batch, batch_idx):
        value = self.net(batch[1]).pow(2).mean()
        self.log("val", value)
        worse = torch.tensor(float(self.global_step)) if self.global_rank else -torch.tensor(float(self.global_step))
        self.log("own", worse)  # on rank 1 it gets worse, on rank 0 better


class Rows(loader(1).dataset.__class__):
    """Enough of them."""

    def __len__(self):
        return 40_000

    def __getitem__(self, index):
        return index, self.rows[index % len(self.rows)]


def long(size: int) -> torch.utils.data.DataLoader:
    """A loader that does not end within a test."""
    return torch.utils.data.DataLoader(Rows(), batch_size=8 // size, shuffle=True)


def signalled(strategy: str, name: str, folder: str, size: int) -> None:
    """One rank gets a signal; the process ends as that ends one."""
    saver = ModelCheckpoint(folder, every_n_train_steps=10_000, save_last=True)
    fitted = trainer(strategy, size, callbacks=[saver], enable_checkpointing=None, **ENDLESS)
    module = Slow(lambda module: os.kill(os.getpid(), signal.Signals[name]))
    try:
        fitted.fit(module, long(size))
    finally:
        polls = "" if module.polled_before is None else str(module.polls - module.polled_before)
        Path(folder, f"rank-{os.environ['RANK']}").write_text(f"{fitted.global_step} {polls}")


def wishes(folder: str, size: int) -> dict[str, Any]:
    """Fits that end because of one rank, and what each rank did at which step."""
    seen: dict[str, Any] = {}

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *rest):
            if trainer.global_step == 7 and trainer.global_rank == 1:
                trainer.should_stop = True

    class StopsOnce(Callback):
        """Rank 1 has had enough once something has happened, however long that took."""

        def __init__(self, happened: Callable[[Any], bool]) -> None:
            self.happened = happened

        def on_train_batch_end(self, trainer, pl_module, *rest):
            if trainer.global_rank == 1 and self.happened(pl_module):
                trainer.should_stop = True

    def fit(name: str, callbacks: list[Any], validates: bool = False, **options: Any) -> None:
        module = Slow()
        fitted = trainer("ddp", size, callbacks=callbacks, **{**ENDLESS, "num_sanity_val_steps": 0, **options})
        began = time.monotonic()
        fitted.fit(module, long(size), loader(size, 16, shuffle=False) if validates else None)
        seen[name] = {"step": fitted.global_step, "validated": module.validated, "seconds": time.monotonic() - began}

    fit("stop", [Stop()])
    fit("early", [EarlyStopping("own", patience=1)], validates=True, limit_train_batches=3)
    fit("time", [], max_time=timedelta(seconds=1))
    twice = StopsOnce(lambda module: len(module.validated) == 2)
    fit("validated", [twice], validates=True, val_check_interval=timedelta(seconds=0.7))
    saver = ModelCheckpoint(folder, train_time_interval=timedelta(seconds=0.6), save_top_k=-1)
    fit("saved", [saver, StopsOnce(lambda module: saver.best_model_path != "")], enable_checkpointing=None)
    seen["saved"]["names"] = sorted(path.name for path in Path(folder).glob("*.ckpt"))
    seen["saved"]["best"] = saver.best_model_path
    return seen
