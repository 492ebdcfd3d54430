"""What users of other trainers meet on many ranks, as ranks run it; ``test_pains_ranks.py`` says what comes of it."""

from __future__ import annotations

import os
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from contract import trainer
from courses import loader
from measures import Flat
from torch import nn

from holdfast import HoldfastError, seed_everything
from holdfast.callbacks import Callback, EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint
from holdfast.strategies import DDPStrategy, FSDPStrategy

PATIENT = timedelta(minutes=10)  # as by default: no test may wait for it
RANK = "RANK"


class Raises(Flat):
    """One rank raises at step 4."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def training_step(self, batch, batch_idx):
        if self.global_rank == self.rank and self.global_step == 4:
            raise ValueError("on purpose")
        return super().training_step(batch, batch_idx)


def one_fails(strategy: str, folder: str, rank: int, asked: bool, size: int) -> None:
    """A fit in which one rank raises; ``asked`` to save then, in both ways there are, or not."""
    callbacks: list[Any] = [ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, save_on_exception=asked)]
    callbacks += [OnExceptionCheckpoint(folder)] if asked else []
    kind = {"ddp": DDPStrategy, "fsdp": FSDPStrategy}[strategy](timeout=PATIENT)
    trainer(kind, size, callbacks=callbacks, enable_checkpointing=None).fit(Raises(rank), loader(size))


class Apart(Flat):
    """Its ranks measure different things, and one is slower."""

    def training_step(self, batch, batch_idx):
        if self.global_rank:
            time.sleep(0.01)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        sign = -1.0 if self.global_rank else 1.0
        self.log("val", sign * self.global_step)  # better on one, worse on the other


def own_ways(root: str, size: int) -> dict[str, Any]:
    """A fit whose ranks see other metrics, clocks and folders, of which one has a file in the way."""
    own = Path(root, f"{time.time_ns()}-{os.environ[RANK]}")
    own.mkdir(parents=True)
    if os.environ[RANK] == "1":
        (own / "epoch=0-step=6.ckpt").mkdir()
    savers = [
        ModelCheckpoint(own, monitor="val", save_top_k=2, save_last=True),
        ModelCheckpoint(own, "timed-{step}", train_time_interval=timedelta(seconds=0.05), save_top_k=-1),
    ]
    fitted = trainer(
        "ddp", size, callbacks=[*savers, EarlyStopping("val", patience=2, mode="min")], enable_checkpointing=None,
        max_epochs=9,
    )  # fmt: skip
    fitted.fit(Apart(), loader(size), loader(size, 16, shuffle=False))
    names = sorted(path.name for path in Path(savers[0].dirpath).glob("*.ckpt"))
    best = [saver.best_model_path for saver in savers]
    return {"step": fitted.global_step, "names": names, "best": best, "folder": str(savers[0].dirpath)}


class Larger(Flat):
    """Has a layer that the other has not, and lacks one that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = nn.Identity()
        self.other = nn.Linear(33, 7)

    def forward(self, rows):
        return self.other(self.net(rows)) * self.scale


class Loose(Larger):
    """The same, and it says that it does not mind."""

    strict_loading = False


class Says(Callback):
    """Notes which weights a fit goes on with."""

    def on_train_start(self, trainer, pl_module):
        self.scale = float(pl_module.scale.detach())


def save(folder: str, size: int) -> float:
    """A folder of all, and one of the weights alone; a value of a weight."""
    warnings.simplefilter("error")
    seed_everything(5, verbose=False)
    fitted = trainer(FSDPStrategy(state_dict_type="sharded"), size)
    fitted.fit(Flat(), loader(size))
    fitted.save_checkpoint(f"{folder}/all.ckpt")
    fitted.save_checkpoint(f"{folder}/weights.ckpt", weights_only=True)
    return float(fitted.lightning_module.scale.detach())


def load(folder: str, size: int) -> dict[str, Any]:
    """What is said by fits that go on from these with what they need missing, or with too much."""
    said: dict[str, Any] = {}
    kinds = {"weights": Flat, "larger": Larger, "loose": Loose}
    for name, kind in kinds.items():
        says = Says()
        fitted = trainer("fsdp" if size > 1 else "single_device", size, max_epochs=2, callbacks=[says])
        path = f"{folder}/{'weights' if name == 'weights' else 'all'}.ckpt"
        try:
            if name == "loose":
                module = kind()
                fitted.validate(module, loader(size, 16, shuffle=False), ckpt_path=path, verbose=False)
                said[name] = float(module.scale.detach())
            else:
                fitted.fit(kind(), loader(size), ckpt_path=path)
                said[name] = "trained"
        except HoldfastError as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said
