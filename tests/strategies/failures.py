"""Fits in which one rank fails, as ranks run them: it raises, dies, sleeps, or does not do what the others do."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from contract import trainer
from courses import loader
from torch import nn

from holdfast import LightningModule
from holdfast.callbacks import Callback, ModelCheckpoint
from holdfast.engine.group import TorchGroup
from holdfast.strategies import DDPStrategy, FSDPStrategy
from holdfast.training import running

PATIENT = 600.0  # seconds that ranks wait for each other, as by default: no test may wait for it
SHORT = 5.0  # the same, where one is silent
KINDS = {"ddp": DDPStrategy, "fsdp": FSDPStrategy}


class Failing(LightningModule):
    """Its last rank fails in a way, at a place, at step 5."""

    def __init__(self, how: str, where: str) -> None:
        super().__init__()
        self.how, self.where = how, where
        self.net = nn.Linear(5, 7)

    def fail(self, where: str) -> None:
        due = self.where == where and self.global_step >= 5 and not self.trainer.sanity_checking
        if not due or self.global_rank != self.trainer.world_size - 1:
            return
        if self.how == "raises":
            raise ValueError("on purpose")
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleeps":
            self.how = "has slept"
            time.sleep(2 * SHORT)

    def training_step(self, batch, batch_idx):
        self.fail("training")
        loss = self.net(batch[1]).pow(2).mean()
        absent = self.how == "lacks" and self.where == "training" and self.global_step == 5 and self.global_rank
        if not absent:
            self.log("loss", loss, on_step=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.fail("validation")
        self.log("val", self.net(batch[1]).pow(2).mean(), sync_dist=True)

    def on_save_checkpoint(self, checkpoint):
        self.fail("save")

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def fit(strategy: str, how: str, where: str, folder: str, size: int) -> None:
    """The fit; a failure ends the process as it ends a script."""
    if how == "lacks":
        running._SILENCE = 30.0  # none is silent, however slow it is
    saver = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)
    kind = KINDS[strategy](timeout=timedelta(seconds=PATIENT if how == "raises" else SHORT))
    fitted = trainer(kind, size, callbacks=[saver], enable_checkpointing=None, max_epochs=3)
    try:
        fitted.fit(Failing(how, where), loader(size), loader(size, shuffle=False))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        Path(folder, f"ended-{os.environ['RANK']}").touch()
        raise


class Late(Callback):
    """At step 3 rank 2 fails, and rank 1 hears of it when rank 0 waits for it, or has ended."""

    def __init__(self, lock: str) -> None:
        self.lock = open(lock, "w")  # noqa: SIM115  # held until the process ends

    def on_train_start(self, trainer, pl_module):
        if trainer.global_rank == 0:
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            failed = TorchGroup.failed

            def waiting(group, seconds):
                fcntl.flock(self.lock, fcntl.LOCK_UN)
                return failed(group, seconds)

            TorchGroup.failed = waiting

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3 and trainer.global_rank == 2:
            raise ValueError("on purpose")
        if trainer.global_step == 3 and trainer.global_rank == 1:
            fcntl.flock(self.lock, fcntl.LOCK_EX)


def late(folder: str, size: int) -> None:
    """A fit in which rank 0 hears of a failure in a save, and another rank long after it."""
    running._SILENCE = 30.0  # none is silent, however slow it is
    callbacks = [Late(f"{folder}/lock"), ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)]
    fitted = trainer(DDPStrategy(), size, callbacks=callbacks, enable_checkpointing=None, max_epochs=3)
    fitted.fit(Failing("works", ""), loader(size))


def go_on(folder: str, size: int) -> list[object]:
    """The fit that follows a failed one: where it began, and where it has ended."""
    fitted = trainer(
        "ddp",
        size,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)],
        enable_checkpointing=None,
        max_epochs=2,
    )
    module = Failing("works", "")
    began = []
    module.on_train_start = lambda: began.append(module.global_step)
    fitted.fit(module, loader(size), loader(size, shuffle=False), ckpt_path="auto")
    return [began[0], fitted.global_step]
