"""What a trainer was asked for, and on how many processes it runs. Reads; decides nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch

if TYPE_CHECKING:
    from holdfast.profilers.base import Profiler
    from holdfast.strategies.base import TrainingStrategy
    from holdfast.training.config import Config


T = TypeVar("T")


class Setting(Generic[T]):
    """An argument of the trainer that can be read, and set afterwards: what is set is checked as the argument is.

    Args:
        name: What ``Config`` calls it.
        read: How it reads.
    """

    def __init__(self, name: str, read: Callable[[Config], T]) -> None:
        self._name, self._read = name, read

    @overload
    def __get__(self, trainer: None, owner: type) -> Setting[T]: ...

    @overload
    def __get__(self, trainer: Settings, owner: type) -> T: ...

    def __get__(self, trainer: Settings | None, owner: type) -> Setting[T] | T:
        return self if trainer is None else self._read(trainer.config)

    def __set__(self, trainer: Settings, value: Any) -> None:
        trainer._change(**{self._name: value})


class Settings(ABC):
    """The side of ``Trainer`` that no run changes."""

    config: Config
    strategy: TrainingStrategy
    _profiler: Profiler | None = None  # None for nobody, and then nothing is measured

    max_epochs = Setting("max_epochs", lambda config: _as_given(config.epochs))
    """Epochs at most; -1 for no limit."""
    min_epochs = Setting("min_epochs", lambda config: config.min_epochs or 0)
    """Epochs at least; 0 where nobody asked for any."""
    max_steps = Setting("max_steps", lambda config: _as_given(config.steps))
    """Optimizer steps at most; -1 for no limit."""
    min_steps = Setting("min_steps", lambda config: config.min_steps)
    """Optimizer steps at least."""
    limit_train_batches = Setting("limit_train_batches", lambda config: config.limit("train"))
    """Batches of an epoch at most: a number, or a share of them."""
    limit_val_batches = Setting("limit_val_batches", lambda config: config.limit("val"))
    """The same of a validation."""
    limit_test_batches = Setting("limit_test_batches", lambda config: config.limit("test"))
    """The same of a test."""
    limit_predict_batches = Setting("limit_predict_batches", lambda config: config.limit("predict"))
    """The same of a prediction."""
    overfit_batches = Setting("overfit_batches", lambda config: config.overfit_batches)
    """How many batches are trained on over and over; 0 for all."""
    check_val_every_n_epoch = Setting("check_val_every_n_epoch", lambda config: config.check_val_every_n_epoch)
    """In which epochs a validation follows."""
    val_check_interval: Setting[Any] = Setting(
        "val_check_interval", lambda config: 1.0 if config.val_check_interval is None else config.val_check_interval
    )
    """After what a validation follows, as it was asked for; 1.0 is the epoch's end."""
    num_sanity_val_steps: Setting[float] = Setting(
        "num_sanity_val_steps", lambda config: inf if config.sanity_steps is None else config.sanity_steps
    )
    """Batches of each loader in the check before training; infinite for all."""
    log_every_n_steps = Setting("log_every_n_steps", lambda config: config.log_every_n_steps)
    """How often loggers get the values of a step."""
    gradient_clip_val = Setting("gradient_clip_val", lambda config: config.gradient_clip_val)
    """What gradients are clipped to."""
    gradient_clip_algorithm = Setting("gradient_clip_algorithm", lambda config: config.gradient_clip_algorithm)
    """How they are clipped."""
    reload_dataloaders_every_n_epochs = Setting("reload_every", lambda config: config.reload_every)
    """After how many epochs loaders are asked for anew; 0 for never."""

    @abstractmethod
    def _change(self, **settings: Any) -> None:
        """Change what was asked for."""

    @property
    def profiler(self) -> Profiler:
        """Who is told what the run calls, and may be told more; where nobody is, what is told is dropped."""
        from holdfast.profilers.base import PassThroughProfiler

        return PassThroughProfiler() if self._profiler is None else self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        from holdfast.profilers.base import profiler_of

        self._profiler = profiler_of(profiler)

    @property
    def max_time(self) -> str | timedelta | dict[str, int] | None:
        """Time at most, as it was asked for."""
        return self.config.max_time

    @property
    def barebones(self) -> bool:
        """Whether all but the training is switched off."""
        return self.config.barebones

    @property
    def fast_dev_run(self) -> int | bool:
        """Whether everything runs once only."""
        return self.config.fast_dev_run

    @property
    def precision(self) -> str:
        """The kind of numbers."""
        return self.strategy.precision.name

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of half precision, or None."""
        return self.strategy.precision.scaler

    @property
    def device_ids(self) -> list[int]:
        """The indices of the devices of this host."""
        if self.strategy.device.type == "cpu":
            return list(range(self.num_devices))
        return [self.strategy.device.index or 0] if self.num_devices == 1 else list(range(self.num_devices))

    @property
    def num_devices(self) -> int:
        """How many devices of this host are used, by a process each."""
        return self.strategy.world.local_size

    @property
    def num_nodes(self) -> int:
        """How many hosts there are."""
        return self.strategy.world.nodes

    @property
    def node_rank(self) -> int:
        """This host among all."""
        return self.strategy.world.node

    @property
    def global_rank(self) -> int:
        """This process among all."""
        return self.strategy.world.rank

    @property
    def local_rank(self) -> int:
        """This process among those of its host."""
        return self.strategy.world.local_rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.strategy.world.size

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int] | None:
        """What a ``DistributedSampler`` of one's own is to be told; None where there is one process."""
        return None if self.world_size == 1 else {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.global_rank == 0


def _as_given(limit: int | None) -> int:
    return -1 if limit is None else limit
