"""Fits of several ranks that save folders, as ranks run them; ``test_folders.py`` compares what they return."""

from __future__ import annotations

import errno
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from contract import MODULES, data, digest, plain, trainer
from courses import train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from faults import failing_at, unreadable
from holdfast import HoldfastError, SaveFailedWarning, seed_everything
from holdfast.callbacks import Callback, ModelCheckpoint
from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.engine.directory import CheckpointDirectory
from holdfast.engine.shards import copy, region, take
from holdfast.store import LocalStore
from holdfast.strategies import FSDPStrategy

SHARDED = FSDPStrategy(state_dict_type="sharded")


def write(folder: str, kinds: list[str], size: int) -> dict[str, Any]:
    """Train an epoch of each kind of module, save it, and tell what was saved."""
    warnings.simplefilter("error")
    seen = {}
    for kind in kinds:
        seed_everything(1, verbose=False)
        fitted = trainer(SHARDED, size)
        fitted.fit(MODULES[kind](), data(size))
        fitted.save_checkpoint(f"{folder}/{kind}-sharded-{size}.ckpt")
        seen[f"{kind}-sharded-{size}"] = digest(fitted)
    return seen


MESHES = {
    "replicated": [Replicate(), Shard(0)],
    "twice": [Shard(0), Shard(0)],
    "blocks": [Shard(1), Shard(0)],
    "whole": [Replicate(), Replicate()],
}


def pieces(size: int) -> dict[str, Any]:
    """What each rank of a mesh of two dimensions would write of an uneven tensor, and what it reads back."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, size // 2))
    whole = torch.arange(7.0 * 5).reshape(7, 5)
    seen: dict[str, Any] = {}
    for name, placements in MESHES.items():
        tensor = distribute_tensor(whole, mesh, placements)
        _, (piece,) = take(
            {"w": tensor},
            wanted=lambda *_: False,
            kept=lambda *_: True,
            name=lambda place: "w",
            first=True,
            copied=copy,
        )
        own = (
            None if piece.data is None else [list(piece.offsets), list(piece.data.shape), piece.data.flatten().tolist()]
        )
        offsets, local = region(tensor)
        there = whole[tuple(slice(o, o + s) for o, s in zip(offsets, local.shape, strict=True))]
        seen[name] = [own, bool(torch.equal(there, local))]
    dist.destroy_process_group()
    return seen


class Reads(Callback):
    """Notes how many bytes of the checkpoint this rank has read, and whether it was given parts."""

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        self.divided = [name for name, value in checkpoint["state_dict"].items() if isinstance(value, DTensor)]
        part = sum(value.to_local().nbytes for value in checkpoint["state_dict"].values() if isinstance(value, DTensor))
        self.share = part / sum(checkpoint["state_dict"][name].nbytes for name in self.divided)


def shares(path: str, size: int) -> list[Any]:
    """What of the weights is given to hooks of this rank, when a folder is gone on with."""
    warnings.simplefilter("error")
    seed_everything(2, verbose=False)
    callback = Reads()
    fitted = trainer(SHARDED, size, callbacks=[callback])
    fitted.fit(MODULES["odd"](), data(size), ckpt_path=path)
    return [len(callback.divided), callback.share]


def course(folder: str, ckpt: str | None, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """One fit of many saves; as ``courses.train``, with names that are folders."""
    return train(SHARDED, size, folder, ckpt, validates=False, **options)


def unread(folder: str, size: int) -> list[str]:
    """What error of each rank ends a fit that goes on with folders, of whose shards none may be read."""
    with unreadable(*Path(folder).glob("*/*.distcp")):
        try:
            course(folder, "auto", size, {"max_epochs": 3})
        except HoldfastError as error:
            return [type(error).__name__, str(error)]
    return []


def kept(folder: str) -> list[list[str]]:
    """All checkpoints by their names, each verified in full."""
    place = Folder(LocalStore(folder))
    listing = place.scan()
    assert listing.strangers == ()
    return [[*record.names, resolve.check(place, record).verdict.value] for record in listing.records]


class Fails(Callback):
    """One rank's disk is full for the save at one step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step
        self.faults = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step - 1 and trainer.global_rank == self.rank:
            for callback in trainer.checkpoint_callbacks:
                _ = callback.best_model_path  # the save before is over
            self.faults = failing_at(1, errno.ENOSPC, functions=("posix_fallocate",))
            self.faults.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step + 1 and self.faults is not None:
            self.faults.__exit__(None, None, None)
            self.faults = None


def full_disk(folder: str, size: int) -> dict[str, Any]:
    """A fit that saves at every step; at the third, rank 1 cannot write."""
    seed_everything(1, verbose=False)
    saver = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=1)
    fitted = trainer(
        SHARDED, size, max_steps=4, max_epochs=-1, callbacks=[Fails(1, 3), saver], enable_checkpointing=None
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaveFailedWarning)
        began = time.monotonic()
        fitted.fit(MODULES["odd"](), data(size))
    said = [str(one.message) for one in caught if one.category is SaveFailedWarning]
    return {"said": said, "kept": kept(folder), "seconds": time.monotonic() - began}


def stock(path: str, size: int) -> dict[str, str]:
    """The weights, loaded by torch.distributed.checkpoint alone into whole tensors."""
    with CheckpointDirectory(LocalStore(Path(path).parent), Path(path).name, name=path) as found:
        wanted = {t.path: t for t in found.index.tensors if t.path.startswith("model.")}
        into = {name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for name, t in wanted.items()}
    warnings.simplefilter("ignore")
    dcp.load(into, checkpoint_id=path, no_dist=True)
    return {name.removeprefix("model."): plain(value) for name, value in into.items()}


def busy(folder: str, pipe: str, size: int) -> None:
    """A fit that goes on with what the folder holds and saves at every step, until it is killed; tells its steps."""
    warnings.simplefilter("error")
    seed_everything(1, verbose=False)

    class Says(Callback):
        def on_train_start(self, trainer, pl_module):
            self.pipe = Path(pipe).open("w", buffering=1, encoding="utf-8") if trainer.is_global_zero else None  # noqa: SIM115

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if self.pipe is not None:
                self.pipe.write(f"{trainer.global_step}\n")

    saver = ModelCheckpoint(folder, save_top_k=3, monitor="step", mode="max", save_last=True, every_n_train_steps=1)
    fitted = trainer(SHARDED, size, max_epochs=10_000, callbacks=[saver, Says()], enable_checkpointing=None)
    fitted.fit(MODULES["odd"](), data(size), ckpt_path="auto")
