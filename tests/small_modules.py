"""Modules as small as a LightningModule can be, and a file of ours with one in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import nn

from holdfast.training.class_only import class_only
from holdfast.training.hparams import HyperparametersMixin, checkpoint_entries
from holdfast.training.loading import load_module
from writing import write


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


@dataclass
class Conf:
    width: int
    mode: Mode = Mode.FAST


class Module(HyperparametersMixin, nn.Module):
    """As small as a LightningModule can be."""

    strict_loading = True

    def __init__(self):
        super().__init__()

    @class_only
    def load_from_checkpoint(cls, path, map_location=None, hparams_file=None, strict=None, weights_only=None, **kwargs):
        """Build it."""
        return load_module(
            cls,
            path,
            map_location=map_location,
            hparams_file=hparams_file,
            strict=strict,
            weights_only=weights_only,
            kwargs=kwargs,
        )


class Net(Module):
    def __init__(self, width, lr=0.1, mode: Mode = Mode.FAST):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Linear(width, 2)
        self.norm = nn.BatchNorm1d(2)


def saved(path, module, **more):
    """A file of ours with the module's weights and hyperparameters."""
    root = {"epoch": 1, "global_step": 3, "state_dict": module.state_dict(), **checkpoint_entries(module), **more}
    return write(path, root)
