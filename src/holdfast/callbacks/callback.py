"""What a callback may do: every hook, doing nothing. The order in which they run is docs/hooks.md's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.callbacks.older import OlderHooks
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer


class Callback(OlderHooks):
    """Base class of all callbacks. A hook that is not overridden costs nothing: it is never called.

    Each hook gets the trainer and the module; those of batches also the outputs, the batch and its index.
    """

    _logs_by: LightningModule | None = None
    """The module of the run; the trainer says which."""

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Log a metric, as ``LightningModule.log`` does in the same hook.

        Raises:
            ConfigError: As there; or no trainer runs the callback.
        """
        if self._logs_by is None:
            raise ConfigError(
                f"log({name!r}) was called on a {type(self).__name__} that no trainer runs.",
                remedy="Call it in a hook while fit, validate or test runs.",
            )
        self._logs_by.log(name, value, **options)

    def log_dict(self, dictionary: Mapping[str, Any], **options: Any) -> None:
        """Log several metrics with the same options; see ``log``."""
        for name, value in dictionary.items():
            self.log(name, value, **options)

    @property
    def state_key(self) -> str:
        """The key under which the callback's state is kept in a checkpoint; override it to keep two of a class."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """What the callback must remember, as plain values and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned."""

    @property
    def edits_weights(self) -> bool:
        """Whether ``on_save_checkpoint`` is to be called for a file of weights alone too."""
        return False

    def state_places(self, checkpoint: Mapping[str, Any]) -> Mapping[str, tuple[str | int, ...]]:
        """The parts that this callback adds to a checkpoint, or moves in it: each name with its path in the dict."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything else of fit, validate, test or predict."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After everything else."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When fit begins."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When fit ends without an error."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the few batches of validation that come before training."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After them."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first epoch."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before an epoch's first batch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After an epoch's last batch and validation."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before a batch, which is on its device."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a batch; ``outputs`` is what the training step returned, its loss divided by the accumulation."""

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Before gradients are cleared."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Before the backward pass."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the backward pass."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """When gradients are complete and unscaled, before they are clipped."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a validation begins."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a validation is over and its metrics are there."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before its first batch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After its last batch."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before a batch of validation."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After a batch of validation."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a test begins."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a test is over."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before its first batch."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After its last batch."""

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before a batch of the test."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After a batch of the test."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a prediction begins."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a prediction is over."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before its first batch."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After its last batch; ``trainer.predictions`` has what the steps returned, if that is kept."""

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before a batch of the prediction."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After a batch of the prediction."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """When an error ends the run."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """When a checkpoint is put together; ``checkpoint`` may be edited."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """When a checkpoint was read, before anything of it is put back; ``checkpoint`` may be edited."""
