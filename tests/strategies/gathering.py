"""One file of what fsdp has divided, as two ranks save it; ``test_gathering.py`` looks at the memory that it takes."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import torch
from contract import trainer
from courses import Rows
from torch import nn
from torch.utils.data import DataLoader

from holdfast import LightningModule, full, seed_everything
from holdfast.callbacks import Callback, ModelCheckpoint
from holdfast.catalog.manifest import RunRef
from holdfast.engine.fence import Moved
from holdfast.engine.job import prepare
from holdfast.policy.values import Event, Moment, Progress
from holdfast.store import LocalStore

WIDTH, LAYERS = 1024, 16
TENSOR = WIDTH * WIDTH * 4  # bytes
_LOOK = 0.001  # seconds between two looks at the memory
_M_MMAP_THRESHOLD = -3  # as <malloc.h> has it


def resident() -> int:
    """Bytes of memory that this process alone has."""
    (line,) = (li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


class Large(LightningModule):
    """Many weights, none of which is large beside all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, WIDTH, bias=False)
        self.rest = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))

    def training_step(self, batch, batch_idx):
        return self.rest(self.first(batch[1])).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.001)


class Looking(Callback):
    """Notes the most memory from the end of the last step to the end of the fit, beyond what there was before."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.before = self.most = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == trainer.max_steps:
            self.before = resident()
            self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            self.most = max(self.most, resident())

    def end(self) -> int:
        """How much more there was at the most."""
        self._over.set()
        self._thread.join()
        return self.most - self.before


def saved(folder: str, size: int) -> dict[str, Any]:
    """A save in the background at the end of the second step."""
    # What is freed goes back to the system at once: it would hide what is taken after it otherwise.
    assert ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 64 * 2**10) == 1
    seed_everything(1, verbose=False)
    looking = Looking()
    saver = ModelCheckpoint(folder, every_n_train_steps=2, save_on_train_epoch_end=False)
    fitted = trainer("fsdp", size, max_steps=2, callbacks=[looking, saver], enable_checkpointing=True)
    fitted.fit(Large(), DataLoader(Rows(16), batch_size=4))
    return {
        "taken": looking.end(),
        "file": Path(saver.best_model_path).stat().st_size,
        "state": 3 * LAYERS * TENSOR,  # an optimizer keeps two averages of each weight
        "tensor": TENSOR,
    }


def alone(folder: str) -> list[str]:
    """The one rank has all there is: what is said when a weight changes while a save is written."""
    fitted = trainer("fsdp", 1, max_steps=1)
    module = Large()
    fitted.fit(module, DataLoader(Rows(4), batch_size=4))
    moment = Moment(frozenset({Event.MANUAL}), Progress())
    job = prepare(fitted._capture(full), full, moment, run=RunRef("0" * 32), sequence=1, tallies={})
    with torch.no_grad():
        module.rest[3].weight.mul_(2)
    sinks: list[Any] = []
    try:
        job.write(LocalStore(folder), "of_one_rank.ckpt", sinks)
    except Moved as error:
        return list(error.names)
    finally:
        for sink in sinks:
            sink.discard()
    return []
