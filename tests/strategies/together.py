"""Ranks that differ in what they see or were told, as ranks run them: folders, paths, stale listings, failing saves."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from contract import trainer
from courses import Course, loader

from faults import refusing
from holdfast import HoldfastError
from holdfast.callbacks import ModelCheckpoint
from holdfast.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from holdfast.training import finding

RANK = "RANK"


def folders(root: str, size: int) -> dict[str, Any]:
    """Each rank was told another folder, as programs do that put the time into it."""
    own = f"{root}/rank-{os.environ[RANK]}"
    saver = ModelCheckpoint(own, save_last=True)
    fitted = trainer("ddp", size, callbacks=[saver], enable_checkpointing=None, default_root_dir=own)
    module = Course()
    fitted.fit(module, loader(size), loader(size, 16, shuffle=False))
    (values,) = fitted.validate(dataloaders=loader(size, 16, shuffle=False), verbose=False)
    again = trainer("ddp", size, callbacks=[ModelCheckpoint(own)], enable_checkpointing=None, max_epochs=2)
    again.fit(Course(), loader(size), ckpt_path="last")
    there = sorted(path.name for path in Path(root).iterdir())
    return {
        "dirpath": saver.dirpath,
        "best": saver.best_model_path,
        "there": there,
        "step": again.global_step,
        **values,
    }


def by_hand(root: str, size: int, sharded: bool) -> dict[str, Any]:
    """Saves by path: one that works, one whose name is taken, one for which a disk is full, and one more."""
    fitted = trainer(FSDPStrategy(state_dict_type="sharded") if sharded else "ddp", size)
    fitted.fit(Course(), loader(size))
    seen: dict[str, Any] = {}
    for name in ("good", "taken", "full", "after"):
        path = Path(root, f"{name}.ckpt")
        if name == "taken" and fitted.is_global_zero:
            path.mkdir()
        fitted.strategy.group.barrier(phase="there")
        full = name == "full" and fitted.global_rank == int(sharded)
        try:
            with refusing(posix_fallocate=errno.ENOSPC) if full else nullcontext():
                fitted.save_checkpoint(path)
            seen[name] = "saved"
        except HoldfastError as error:
            seen[name] = f"{type(error).__name__}: {error}"
    return seen


class InBackground(Course):
    """Saves by path in its second and fourth step, without waiting; the second path is taken by a folder."""

    root: str
    asked: list[Any]

    def on_train_batch_end(self, *args):
        for step, name in ((2, "good"), (4, "taken")):
            if self.global_step == step:
                self.asked.append(self.trainer.save_checkpoint(Path(self.root, f"{name}.ckpt"), blocking=False))


def in_background(root: str, size: int, sharded: bool) -> dict[str, Any]:
    """What came of saves by path while training went on."""
    path = Path(root, "taken.ckpt", "in the way")
    path.mkdir(parents=True, exist_ok=True)
    module = InBackground()
    module.root, module.asked = root, []
    fitted = trainer(FSDPStrategy(state_dict_type="sharded") if sharded else "ddp", size, max_epochs=1)
    raised = ""
    try:
        fitted.fit(module, loader(size))
    except HoldfastError as error:
        raised = f"{type(error).__name__}: {error}"
    good = module.asked[0].record
    return {"id": good.id, "steps": good.progress.steps, "raised": raised, "step": fitted.global_step}


def several_folders(root: str, size: int) -> list[Any]:
    """Two callbacks with a folder each: names and inodes in both, then from the second folder on."""
    both = [ModelCheckpoint(f"{root}/{name}", filename="{epoch}", save_top_k=-1) for name in "ab"]
    trainer("ddp", size, callbacks=both, enable_checkpointing=None, max_epochs=2).fit(Course(), loader(size))
    again = [ModelCheckpoint(f"{root}/{name}", filename="{epoch}", save_top_k=-1) for name in "ab"]
    fitted = trainer("ddp", size, callbacks=again, enable_checkpointing=None, max_epochs=3)
    fitted.fit(Course(), loader(size), ckpt_path=f"{root}/b/epoch=1.ckpt")
    return [fitted.global_step, [callback.best_model_path for callback in again]]


def stale(root: str, size: int, sees: str) -> Any:
    """Rank 1 sees another folder for a while, as hosts of a network file system do: nothing, or what stood there."""
    rank = int(os.environ[RANK])
    path = Path(root, "shared", "one.ckpt")
    fitted = trainer("ddp", size)
    fitted.fit(Course(), loader(size))
    fitted.save_checkpoint(path)
    fitted.save_checkpoint(Path(root, "shared", "other.ckpt"))
    finding._STALE = 10.0 if sees != "nothing for ever" else 1.0
    view = Path(root, f"view-{rank}")
    if rank == 0:
        view.symlink_to(path.parent)
    else:
        view.mkdir()
        if sees == "another":
            shutil.copyfile(path.with_name("other.ckpt"), view / "one.ckpt")
    # Both say the same path, which leads each to its own view.
    Path(root, f"cwd-{rank}").mkdir()
    os.chdir(Path(root, f"cwd-{rank}"))

    def seen(source: Any, _read: Any = None) -> Any:
        return opened(view / Path(source).name)

    from holdfast.training import resume

    opened, resume.open_checkpoint = resume.open_checkpoint, lambda source, **options: seen(source)
    if rank == 1 and sees != "nothing for ever":
        timer = threading.Timer(
            1.0, lambda: shutil.copyfile(path, view / "new") and (view / "new").rename(view / "one.ckpt")
        )
        timer.start()
    again = trainer("ddp", size, max_epochs=2)
    try:
        again.fit(Course(), loader(size), ckpt_path=str(path))
    except HoldfastError as error:
        return f"{type(error).__name__}: {error}"
    return again.global_step


class Asks(Course):
    """Gathers in a step, with gradients and without, and asks its strategy what programs ask."""

    told: dict[str, Any]

    def training_step(self, batch, batch_idx):
        loss, rank = super().training_step(batch, batch_idx), self.global_rank
        if batch_idx == 0:
            strategy, weight = self.trainer.strategy, torch.ones(2, requires_grad=True)
            (self.all_gather(weight * 3, sync_grads=True)[1] * (rank + 1)).sum().backward()
            self.told = {
                "gathered": [
                    one.tolist() for one in self.all_gather({"rank": rank, "x": torch.tensor([1.5, rank])}).values()
                ],
                "gradient": weight.grad.tolist(),
                "said": repr(strategy.broadcast({"rank": rank, "path": Path("x")})),
                "from 1": repr(strategy.broadcast((rank,), src=1)),
                "decisions": [strategy.reduce_boolean_decision(rank == 1, all=every) for every in (True, False)],
                "who": (strategy.global_rank, strategy.world_size, strategy.is_global_zero, str(strategy.root_device)),
                "is": [isinstance(strategy, kind) for kind in (DDPStrategy, FSDPStrategy, SingleDeviceStrategy)],
            }
            strategy.barrier("asked")
        return loss


def asking(root: str, size: int, strategy: str) -> dict[str, Any]:
    """What the ranks of a fit are told."""
    module = Asks()
    trainer(strategy, size, max_epochs=1, default_root_dir=root).fit(module, loader(size))
    return module.told
