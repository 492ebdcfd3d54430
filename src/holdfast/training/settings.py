"""What a trainer was asked for, and on how many processes it runs. Reads; decides nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from holdfast.strategies.base import TrainingStrategy
    from holdfast.training.config import Config


class Settings:
    """The side of ``Trainer`` that no run changes."""

    config: Config
    strategy: TrainingStrategy

    @property
    def min_epochs(self) -> int | None:
        """Epochs at least."""
        return self.config.min_epochs

    @property
    def min_steps(self) -> int | None:
        """Optimizer steps at least."""
        return self.config.min_steps

    @property
    def gradient_clip_val(self) -> float | None:
        """What gradients are clipped to."""
        return self.config.gradient_clip_val

    @property
    def gradient_clip_algorithm(self) -> str | None:
        """How they are clipped."""
        return self.config.gradient_clip_algorithm

    @property
    def log_every_n_steps(self) -> int:
        """How often loggers get the values of a step."""
        return self.config.log_every_n_steps

    @property
    def max_time(self) -> str | timedelta | dict[str, int] | None:
        """Time at most, as it was asked for."""
        return self.config.max_time

    @property
    def limit_train_batches(self) -> int | float:
        """Batches of an epoch at most: a number, or a share of them."""
        return self.config.limit("train")

    @property
    def limit_val_batches(self) -> int | float:
        """The same of a validation."""
        return self.config.limit("val")

    @property
    def limit_test_batches(self) -> int | float:
        """The same of a test."""
        return self.config.limit("test")

    @property
    def limit_predict_batches(self) -> int | float:
        """The same of a prediction."""
        return self.config.limit("predict")

    @property
    def overfit_batches(self) -> int | float:
        """How many batches are trained on over and over; 0 for all."""
        return self.config.overfit_batches

    @property
    def val_check_interval(self) -> Any:
        """After what a validation follows, as it was asked for; 1.0 is the epoch's end."""
        interval = self.config.val_check_interval
        return 1.0 if interval is None else interval

    @property
    def check_val_every_n_epoch(self) -> int | None:
        """In which epochs a validation follows."""
        return self.config.check_val_every_n_epoch

    @property
    def num_sanity_val_steps(self) -> float:
        """Batches of each loader in the check before training; infinite for all."""
        return float("inf") if self.config.sanity_steps is None else self.config.sanity_steps

    @property
    def reload_dataloaders_every_n_epochs(self) -> int:
        """After how many epochs loaders are asked for anew; 0 for never."""
        return self.config.reload_every

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
    def is_global_zero(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.global_rank == 0
