"""Ranks that differ in what they see or were told, as ranks run them: folders, paths, stale listings, failing saves."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

from contract import trainer
from courses import Course, loader

from holdfast import HoldfastError
from holdfast.callbacks import ModelCheckpoint
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


def by_hand(root: str, size: int) -> dict[str, Any]:
    """Saves by path: one that works, one that cannot, and one more."""
    fitted = trainer("ddp", size)
    fitted.fit(Course(), loader(size))
    seen: dict[str, Any] = {}
    for name in ("good", "folder", "after"):
        path = Path(root, f"{name}.ckpt")
        if name == "folder" and fitted.is_global_zero:
            path.mkdir()
        fitted.strategy.group.barrier(phase="there")
        try:
            fitted.save_checkpoint(path)
            seen[name] = "saved"
        except HoldfastError as error:
            seen[name] = f"{type(error).__name__}: {error}"
    return seen


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
