"""The base of callbacks that write predictions. When and what, it says; how, is for those who override it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

Interval = Literal["batch", "epoch", "batch_and_epoch"]


class BasePredictionWriter(Callback):
    """Write predictions as they come. Override ``write_on_batch_end``, ``write_on_epoch_end`` or both.

    With ``trainer.predict(..., return_predictions=False)`` nothing is kept in memory but what a write at the epoch's
    end needs.

    Args:
        write_interval: ``"batch"``, ``"epoch"``, or ``"batch_and_epoch"``: which of the two is called.

    Raises:
        ConfigError: The interval is none of the three.
    """

    def __init__(self, write_interval: Interval = "batch") -> None:
        if write_interval not in get_args(Interval):
            raise ConfigError(
                f"{type(self).__name__}: write_interval is one of {', '.join(get_args(Interval))}, "
                f"not {write_interval!r}."
            )
        self.interval = write_interval
        self._predictions: list[list[Any]] = []
        self._indices: list[list[Sequence[int] | None]] = []
        self._next: list[Iterator[Sequence[int]]] = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write what one batch gave.

        Args:
            trainer: The trainer.
            pl_module: The module.
            prediction: What ``predict_step`` returned.
            batch_indices: The places of the batch's samples in the dataset; None where the loader draws them at random
                or does not say.
            batch: The batch.
            batch_idx: Its index.
            dataloader_idx: Of which loader.
        """
        raise NotImplementedError

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write what all batches gave.

        Args:
            trainer: The trainer.
            pl_module: The module.
            predictions: What ``predict_step`` returned, batch by batch; a list for each loader where there are several.
            batch_indices: For each loader a list, batch by batch, of what ``write_on_batch_end`` gets.
        """
        raise NotImplementedError

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        loaders = trainer.predict_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        self._predictions = [[] for _ in loaders]
        self._indices = [[] for _ in loaders]
        self._next = [_drawn(loader) for loader in loaders]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write, or keep it until the end."""
        indices = next(self._next[dataloader_idx], None)
        if self.interval != "batch":
            self._predictions[dataloader_idx].append(outputs)
            self._indices[dataloader_idx].append(indices)
        if self.interval != "epoch":
            self.write_on_batch_end(trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was kept."""
        if self.interval == "batch":
            return
        several = len(self._predictions) > 1
        kept = self._predictions if several else self._predictions[0]
        self.write_on_epoch_end(trainer, pl_module, kept, self._indices)
        self._predictions, self._indices = [], []


def _drawn(loader: Any) -> Iterator[Sequence[int]]:
    """The indices of each batch, where they can be known without drawing them a second time."""
    from torch.utils.data import SequentialSampler

    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    known = isinstance(sampler, SequentialSampler) or getattr(sampler, "shuffle", True) is False
    return iter(batches) if known and batches is not None else iter(())
