"""The hooks of a module, doing nothing: those of callbacks without their first two arguments. Order: docs/hooks.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class ModuleHooks:
    """What a module may override to hear of a run. A hook that is not overridden is never called."""

    if TYPE_CHECKING:

        def eval(self) -> Any:
            """``nn.Module``'s."""

        def train(self, mode: bool = True) -> Any:
            """``nn.Module``'s."""

        def zero_grad(self, set_to_none: bool = True) -> None:
            """``nn.Module``'s."""

    def on_fit_start(self) -> None:
        """When fit begins."""

    def on_fit_end(self) -> None:
        """When fit ends without an error."""

    def on_train_start(self) -> None:
        """Before the first epoch."""

    def on_train_end(self) -> None:
        """After the last epoch."""

    def on_train_epoch_start(self) -> None:
        """Before an epoch's first batch."""

    def on_train_epoch_end(self) -> None:
        """After an epoch's last batch and validation."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Before a batch; returning -1 skips the rest of the epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a batch."""

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Before gradients are cleared."""

    def on_before_backward(self, loss: torch.Tensor) -> None:
        """Before the backward pass."""

    def on_after_backward(self) -> None:
        """After the backward pass."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """When gradients are complete and unscaled, before they are clipped."""

    def on_validation_model_zero_grad(self) -> None:
        """Clear gradients before a validation, unless they wait for more batches."""
        self.zero_grad()

    def on_validation_model_eval(self) -> None:
        """Put the model into evaluation mode for a validation."""
        self.eval()

    def on_validation_model_train(self) -> None:
        """Put the model back into training mode. Unless it is overridden, each part goes back to what it was in."""
        self.train()

    def on_test_model_eval(self) -> None:
        """Put the model into evaluation mode for a test."""
        self.eval()

    def on_test_model_train(self) -> None:
        """Put the model back into training mode. Unless it is overridden, each part goes back to what it was in."""
        self.train()

    def on_validation_start(self) -> None:
        """When a validation begins."""

    def on_validation_end(self) -> None:
        """When a validation is over."""

    def on_validation_epoch_start(self) -> None:
        """Before its first batch."""

    def on_validation_epoch_end(self) -> None:
        """After its last batch."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before a batch of validation."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """After a batch of validation."""

    def on_test_start(self) -> None:
        """When a test begins."""

    def on_test_end(self) -> None:
        """When a test is over."""

    def on_test_epoch_start(self) -> None:
        """Before its first batch."""

    def on_test_epoch_end(self) -> None:
        """After its last batch."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before a batch of the test."""

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """After a batch of the test."""

    def on_predict_model_eval(self) -> None:
        """Put the model into evaluation mode for a prediction."""
        self.eval()

    def on_predict_start(self) -> None:
        """Before a prediction."""

    def on_predict_end(self) -> None:
        """After it."""

    def on_predict_epoch_start(self) -> None:
        """Before its batches."""

    def on_predict_epoch_end(self) -> None:
        """After its batches."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Before one of its batches."""

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """After one of its batches."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """When a checkpoint is put together; ``checkpoint`` may be edited."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """When a checkpoint was read, before anything of it is put back; ``checkpoint`` may be edited."""
