"""Modules that users have divided over a mesh of two dimensions, as four ranks run them."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from contract import digest, trainer
from courses import loader
from measures import Flat
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from holdfast import ConfigError, seed_everything
from holdfast.strategies import FSDPStrategy


class Hybrid(Flat):
    """Replicated over one dimension, divided over the other."""

    def configure_model(self):
        fully_shard(self.net, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))


class TensorParallel(Flat):
    """Its layers divided within themselves, and then by fsdp over the other dimension."""

    def configure_model(self):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(self.net, mesh["tensor"], {"0": ColwiseParallel(), "3": RowwiseParallel()})
        fully_shard(self.net, mesh=mesh["data"])


class Halves(Flat):
    """Divided among two ranks; the other two are a run of their own."""

    def configure_model(self):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("apart", "shard"))
        fully_shard(self.net, mesh=mesh["shard"])


class Within(Flat):
    """Divided within a layer, and not by fsdp."""

    def configure_model(self):
        mesh = init_device_mesh("cpu", (4,))
        parallelize_module(self.net, mesh, {"0": ColwiseParallel(), "3": RowwiseParallel()})


FOREIGN = {"tensor parallel": TensorParallel, "halves": Halves, "within": Within}


def fit(state: str, ckpt: str | None, size: int, seed: int, **options: Any) -> Any:
    """A fit of a hybrid module; each rank draws its first weights from a seed of its own."""
    seed_everything(seed, verbose=False)
    torch.manual_seed(seed + int(os.environ["RANK"]))
    fitted = trainer(FSDPStrategy(state_dict_type=state), size, **options)
    fitted.fit(Hybrid(), loader(size, shuffle=False), loader(size, 16, shuffle=False), ckpt_path=ckpt)
    return fitted


def local_sums(fitted: Any) -> list[float]:
    """Of each parameter's part on this rank."""
    return [float(getattr(p, "_local_tensor", p).detach().sum()) for p in fitted.lightning_module.parameters()]


def hybrid(folder: str, size: int) -> dict[str, Any]:
    """Train, save and go on, as one file and as a folder; what each rank holds before and afterwards."""
    warnings.simplefilter("error")
    seen: dict[str, Any] = {}
    for state in ("full", "sharded"):
        path = f"{folder}/{state}.ckpt"
        fitted = fit(state, None, size, seed=5, max_epochs=2)
        fitted.save_checkpoint(path)
        seen[state] = {"parts": local_sums(fitted), "saved": digest(fitted)}
        seen[state]["read"] = digest(fit(state, path, size, seed=6, max_epochs=2))
    return seen


def refused(size: int) -> dict[str, str]:
    """What is said of modules that are divided in other ways."""
    said = {}
    for name, kind in FOREIGN.items():
        try:
            trainer("fsdp", size).fit(kind(), loader(size))
            said[name] = "trained"
        except ConfigError as error:
            said[name] = str(error)
    return said


def elsewhere(strategy: str, paths: list[str], size: int) -> list[Any]:
    """The weights that a fit by another strategy goes on with."""
    found = []
    for path in paths:
        fitted = trainer(strategy, size, max_epochs=2)
        fitted.fit(Flat(), loader(size, shuffle=False), loader(size, 16, shuffle=False), ckpt_path=path)
        found.append(digest(fitted).get("model"))
    return found
