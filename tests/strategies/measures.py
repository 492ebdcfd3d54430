"""What several ranks measure and compute, as ranks run it: to be equal to what one process does."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from contract import Pair, data, trainer
from courses import Course, loader
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from holdfast import ConfigError, LightningModule, seed_everything
from holdfast.strategies import FSDPStrategy


class Measuring(LightningModule):
    """Logs what it sees of numbers from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.layer = nn.Linear(1, 1)

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        self.layer(x[:, None].float())
        self.seen += x.tolist()
        values = x.float()
        self.log("mean", values.mean(), sync_dist=True)
        self.log("both", values.mean(), on_step=True, on_epoch=True, sync_dist=True)
        self.log("sum", x.sum(), sync_dist=True, reduce_fx="sum")
        self.log("least", values.min(), sync_dist=True, reduce_fx="min")
        self.log("largest", x.max(), sync_dist=True, reduce_fx="max")
        self.log("alone", values.mean())
        if 3 in x.tolist():
            self.log("with three", values.mean(), sync_dist=True)
            self.log("mixed", 1 if batch_idx else 0.5, sync_dist=True, reduce_fx="sum")
        else:
            self.log("mixed", 1, sync_dist=True, reduce_fx="sum")


def evaluate(strategy: str, counts: list[int], size: int) -> list[Any]:
    """Validations of so many samples each."""
    warnings.simplefilter("error")
    seen = []
    for count in counts:
        module = Measuring()
        loaders = DataLoader(TensorDataset(torch.arange(count)), batch_size=4)
        (values,) = trainer(strategy, size).validate(module, loaders, verbose=False)
        seen.append({"values": values, "seen": module.seen})
    return seen


class Flat(Course):
    """Draws nothing; a part of it is used in some steps only, by its own name."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, rows):
        return self.net(rows) * self.scale

    def training_step(self, batch, batch_idx):
        return (self(batch[1]) - 1).pow(2).mean()


class ShardedByHand(Flat):
    """Sharded where its user says."""

    def configure_model(self):
        fully_shard(self.net[0])


class Meta(Flat):
    """Made without memory."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.net = nn.Sequential(nn.Linear(5, 33), nn.Tanh(), nn.Linear(33, 7))


KINDS = {"flat": Flat, "by hand": ShardedByHand, "meta": Meta, "pair": Pair}
STRATEGIES = {
    "by policy": FSDPStrategy(auto_wrap_policy={nn.Linear}),
    "by function": FSDPStrategy(auto_wrap_policy=lambda module: isinstance(module, nn.Sequential)),
    "given up": FSDPStrategy(auto_wrap_policy={nn.Linear}, reshard_after_forward=True),
}


def weights(calls: list[list[Any]], size: int) -> list[dict[str, Any]]:
    """Fits; the weights that each ends with, and what a validation of them says."""
    warnings.simplefilter("error")
    ended = []
    for kind, strategy, options in calls:
        seed_everything(5, verbose=False)
        module = KINDS[kind]()
        fitted = trainer(STRATEGIES.get(strategy, strategy), size, **options)
        pair = kind == "pair"
        loaders = data(size, shuffle=False) if pair else loader(size, shuffle=False)
        fitted.fit(module, loaders, None if pair else loader(size, 20, shuffle=False))
        whole, _ = fitted.strategy.whole(module.state_dict())
        ended.append({name: value.flatten().tolist() for name, value in whole.items()})
    return ended


def within_a_step(strategy: str, folder: str, size: int) -> list[Any]:
    """A fit that is saved between the batches of a step, and one that goes on from there."""
    seed_everything(5, verbose=False)
    options = {"accumulate_grad_batches": 3, "max_epochs": 1}
    path, ended = f"{folder}/{strategy}-{size}.ckpt", []
    for ckpt in (None, path):
        module, fitted = Flat(), trainer(strategy, size, **options)
        if ckpt is None:
            module.on_train_batch_end = lambda *args, f=fitted: args[2] == 4 and f.save_checkpoint(path)
        fitted.fit(module, loader(size), ckpt_path=ckpt)
        whole, _ = fitted.strategy.whole(module.state_dict())
        ended.append({name: value.flatten().tolist() for name, value in whole.items()})
    return ended


class Watched(Flat):
    """Notes its gradients after each backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[float] = []

    def on_after_backward(self):
        self.gradients.append(float(self.net[0].weight.grad.sum()))


def accumulated(size: int) -> list[float]:
    """The gradients of this rank after each of six batches, two of which make a step."""
    seed_everything(5, verbose=False)
    module = Watched()
    trainer("ddp", size, accumulate_grad_batches=2).fit(module, loader(size))
    return module.gradients


def refused(size: int) -> str:
    """What is said of batch norm over all ranks without GPUs."""
    try:
        trainer("ddp", size, sync_batchnorm=True).fit(Course(), loader(size))
    except ConfigError as error:
        return str(error)
    return f"rank {os.environ['RANK']} trained"
