"""Saves of fsdp that read each rank's part in place, as ranks run them; ``test_lending_on_ranks.py`` looks at them."""

from __future__ import annotations

import threading
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from contract import trainer
from courses import Rows
from torch import nn
from torch.utils.data import DataLoader

from faults import stalled
from holdfast import LightningModule, SaveFailedWarning, full, seed_everything
from holdfast.callbacks import Callback, ModelCheckpoint
from holdfast.catalog.manifest import RunRef
from holdfast.engine import sharded
from holdfast.engine.directory import CheckpointDirectory
from holdfast.engine.fence import Moved
from holdfast.engine.lending import part_here
from holdfast.policy.values import Event, Moment, Progress
from holdfast.store import LocalStore
from holdfast.strategies import DDPStrategy, FSDPStrategy

WIDTH = 600
WAITED = 0.2  # seconds after which a thread that has not gone on is said to wait
SAVED = 160  # steps; as many follow, of a twentieth of a second each
TIMEOUT = 4.0  # seconds that ranks wait for each other, where that matters


class Wide(LightningModule):
    """A weight that is large enough to be lent, and a bias that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch, batch_idx):
        return self.second(self.first(batch[1])).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.001)


def loader(size: int, count: int = 48) -> DataLoader:
    """So many rows, shared out."""
    return DataLoader(Rows(count), batch_size=8 // size)


def own_parts(fitted: Any) -> dict[str, torch.Tensor]:
    """This rank's part of all that its optimizer owns, by the name in a checkpoint."""
    parts = {}
    (optimizer,) = fitted.optimizers
    for name, p in fitted.lightning_module.named_parameters():
        parts[f"model.{name}"] = part_here(p)
        parts |= {f"optimizer.state.{name}.{key}": part_here(value) for key, value in optimizer.state[p].items()}
    return parts


def taken(fitted: Any, group: Any, **options: Any) -> sharded.ShardedJob:
    """This rank's part of a save, begun and not written."""
    moment = Moment(frozenset({Event.MANUAL}), Progress())
    return sharded.prepare(
        fitted._capture(full), full, moment, rank=group.rank, ordinal="0-0", run=RunRef("0" * 32), sequence=1,
        tallies={}, **options,
    )  # fmt: skip


def tried(change: Any, job: sharded.ShardedJob, folder: str) -> str:
    """What is said when something changes before the part is written."""
    change()
    sinks: list[Any] = []
    try:
        job.write(LocalStore(folder), f"{time.monotonic_ns()}.ckpt", sinks)
    except Moved as error:
        return ", ".join(error.names)
    finally:
        for sink in sinks:
            sink.discard()
    return "written"


def parts(folder: str, size: int) -> dict[str, Any]:
    """What is lent of a trained module, what waits for it, and what is noticed."""
    warnings.simplefilter("error")
    seed_everything(1, verbose=False)
    fitted = trainer(FSDPStrategy(state_dict_type="sharded"), size, max_steps=2, max_epochs=-1)
    fitted.fit(Wide(), loader(size))
    group, own = fitted.strategy.group, own_parts(fitted)
    there = {name: part.untyped_storage().data_ptr() for name, part in own.items()}
    (optimizer,) = fitted.optimizers
    weight = fitted.lightning_module.second.weight

    job = taken(fitted, group)
    data = {p.name: p.data for p in job._pieces if p.data is not None}
    seen: dict[str, Any] = {
        "in place": sorted(n for n, d in data.items() if d.untyped_storage().data_ptr() == there.get(n)),
        "copied": sorted(n for n, d in data.items() if d.untyped_storage().data_ptr() != there.get(n)),
    }
    step = threading.Thread(target=optimizer.step, daemon=True)
    step.start()
    step.join(WAITED)
    seen["the step waits"] = step.is_alive()
    seen["written meanwhile"] = tried(lambda: None, job, folder)
    step.join(60)
    seen["the step has ended"] = not step.is_alive()

    def by_torch() -> None:
        with torch.no_grad():
            weight.mul_(2)

    changes = {
        "divided": by_torch,
        "the part": lambda: part_here(weight).detach().mul_(2),
        "data of the part": lambda: part_here(weight).data.mul_(2),
    }
    seen["noticed"] = {name: tried(change, taken(fitted, group), folder) for name, change in changes.items()}
    copied = taken(fitted, group, copied={"model.second.weight"})
    seen["not lent again"] = tried(changes["the part"], copied, folder)
    return seen


class Oracle(Callback):
    """Keeps this rank's part of each step's end."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.kept[trainer.global_step] = {name: part.detach().clone() for name, part in own_parts(trainer).items()}


class Meddles(Callback):
    """Changes a weight by hand on one rank while the save of a step is read."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 3 and trainer.global_rank == 1:
            part_here(pl_module.second.weight).data.mul_(2)


def fitted_with(oracle: Oracle, strategy: Any, folder: str, size: int, *callbacks: Callback) -> tuple[Any, list[str]]:
    """A fit that saves each step, and what is said of saves that failed."""
    seed_everything(1, verbose=False)
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
    options = {"callbacks": [oracle, *callbacks, saver], "enable_checkpointing": None}
    fitted = trainer(strategy, size, max_steps=6, max_epochs=-1, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaveFailedWarning)
        fitted.fit(Wide(), loader(size))
    fitted.strategy.group.barrier(phase="all saved")
    return fitted, [str(one.message) for one in caught if one.category is SaveFailedWarning]


def saved(folder: str, size: int, meddles: bool) -> dict[str, Any]:
    """By fsdp: whether what this rank finds in each folder is what it held at that step's end."""
    oracle, strategy = Oracle(), FSDPStrategy(state_dict_type="sharded")
    fitted, said = fitted_with(oracle, strategy, folder, size, *([Meddles()] if meddles else []))
    wrong, steps = [], []
    for path in sorted(Path(folder).glob("*.ckpt")):
        steps.append(step := int(path.name.partition("step=")[2].removesuffix(".ckpt")))
        with CheckpointDirectory(LocalStore(folder), path.name, name=path.name) as found:
            for name, part in oracle.kept[step].items():
                rows = part.shape[0] if part.dim() else 0
                whole = found.tensor(name)
                here = whole[rows * fitted.global_rank : rows * (fitted.global_rank + 1)] if rows else whole
                if not torch.equal(here, part):
                    wrong.append([step, name])
    return {"wrong": wrong, "steps": steps, "said": said}


def saved_by_ddp(folder: str, size: int) -> dict[str, Any]:
    """By ddp, which writes one file on rank 0: whether this rank held at each step's end what is in it."""
    oracle = Oracle()
    fitted, said = fitted_with(oracle, DDPStrategy(), folder, size)
    names = [name for name, _ in fitted.lightning_module.named_parameters()]
    wrong, steps = [], []
    for path in sorted(Path(folder).glob("*.ckpt")):
        steps.append(step := int(path.name.partition("step=")[2].removesuffix(".ckpt")))
        root = torch.load(path, weights_only=True)
        found = {f"model.{name}": tensor for name, tensor in root["state_dict"].items()}
        for index, of in root["optimizer_states"][0]["state"].items():
            found |= {f"optimizer.state.{names[index]}.{key}": tensor for key, tensor in of.items()}
        assert found.keys() == oracle.kept[step].keys()
        wrong += [[step, name] for name, part in oracle.kept[step].items() if not torch.equal(found[name], part)]
    return {"wrong": wrong, "steps": steps, "said": said}


class Stalls(Callback):
    """Rank 0's disk does not answer from the first save on, for longer than ranks wait for each other."""

    def __init__(self) -> None:
        self.longest, self.last = 0.0, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == SAVED - 1 and trainer.is_global_zero:
            self.block = stalled("posix_fallocate")
            self.stall = self.block.__enter__()

    def on_train_batch_end(self, trainer, pl_module, *args):
        now = time.monotonic()
        if trainer.global_step == SAVED:
            self.began = self.last = now
        elif trainer.global_step > SAVED:
            self.longest, self.last = max(self.longest, now - self.last), now
            if trainer.is_global_zero and now - self.began > 1.5 * TIMEOUT and not self.stall.go.is_set():
                self.block.__exit__(None, None, None)
        time.sleep(0.05)  # a step's time: the fit is to outlast the stall


def slow_disk(folder: str, size: int) -> dict[str, Any]:
    """A fit by ddp whose rank 0 cannot write for longer than ranks wait for each other."""
    seed_everything(1, verbose=False)
    stalls, saver = Stalls(), ModelCheckpoint(folder, every_n_train_steps=SAVED, save_top_k=-1)
    fitted = trainer(
        DDPStrategy(timeout=timedelta(seconds=TIMEOUT)), size, max_steps=2 * SAVED, max_epochs=-1,
        callbacks=[stalls, saver], enable_checkpointing=None,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaveFailedWarning)
        fitted.fit(Wide(), loader(size, 8 * 3 * SAVED))  # one epoch
    said = [str(one.message) for one in caught if one.category is SaveFailedWarning]
    names = sorted(path.name for path in Path(folder).glob("*.ckpt"))
    return {"said": said, "names": names, "longest": stalls.longest, "step": fitted.global_step}
