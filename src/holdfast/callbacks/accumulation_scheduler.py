"""Change from epoch to epoch how many batches make one optimizer step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer


class GradientAccumulationScheduler(Callback):
    """Accumulate the gradients of so many batches, from epoch to epoch.

    Args:
        scheduling: Batches to a step, by the epoch (from 0) from which on; until the first it is 1.

    Raises:
        ConfigError: It is empty, or holds something else than whole numbers. When training starts: the optimisation is
            manual, or the Trainer has ``accumulate_grad_batches`` too.
    """

    def __init__(self, scheduling: dict[int, int]) -> None:
        wrong = [
            f"{epoch!r}: {batches!r}"
            for epoch, batches in scheduling.items()
            if type(epoch) is not int or type(batches) is not int or epoch < 0 or batches < 1
        ]
        if wrong or not scheduling:
            raise ConfigError(
                "GradientAccumulationScheduler: scheduling is a dict of epochs, from 0, and batches, from 1"
                f"{', not ' if wrong else '; it is empty'}{', '.join(wrong)}."
            )
        self.scheduling = {0: 1, **scheduling}
        self.epochs = sorted(self.scheduling)

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether it ever makes a step of several batches."""
        return any(batches > 1 for batches in self.scheduling.values())

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """Batches to a step in an epoch."""
        return self.scheduling[max(first for first in self.epochs if first <= epoch)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what contradicts it."""
        if not pl_module.automatic_optimization:
            raise ConfigError("GradientAccumulationScheduler: with manual optimisation your training_step does this.")
        if trainer.config.accumulate_grad_batches != 1:
            raise ConfigError(
                "GradientAccumulationScheduler contradicts "
                f"Trainer(accumulate_grad_batches={trainer.config.accumulate_grad_batches}).",
                remedy="Leave out one of the two.",
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on."""
        assert trainer.loop is not None, "a fit has a loop"
        batches = self.get_accumulate_grad_batches(trainer.current_epoch)
        trainer.loop.limits = replace(trainer.loop.limits, accumulate=batches)
