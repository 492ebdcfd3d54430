"""Small modules and datasets for tests of programs, under the names that those tests know. Learn nothing useful."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from holdfast.training.datamodule import LightningDataModule
from holdfast.training.module import LightningModule

T = TypeVar("T")

_FEATURES = 32
_SAMPLES = 64


class _Drawn(Dataset[T]):
    """Vectors that are drawn once.

    Args:
        size: Numbers in each.
        length: How many.
    """

    def __init__(self, size: int, length: int) -> None:
        self.len = length
        self.data = torch.randn(length, size)

    def __len__(self) -> int:
        return self.len


class RandomDataset(_Drawn[Tensor]):
    """Random vectors: ``length`` of ``size`` numbers each."""

    def __getitem__(self, index: int) -> Tensor:
        return self.data[index]


class RandomDictDataset(_Drawn[dict[str, Tensor]]):
    """Random vectors ``a``, and ``b``, which is 2 more: ``length`` pairs of ``size`` numbers each."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"a": self.data[index], "b": self.data[index] + 2}


class RandomIterableDataset(IterableDataset[Tensor]):
    """Random vectors, new ones in each pass; it does not say how many.

    Args:
        size: Numbers in each.
        count: How many.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.count):
            yield torch.randn(self.size)


class RandomIterableDatasetWithLen(RandomIterableDataset):
    """The same, and it says how many."""

    def __len__(self) -> int:
        return self.count


class BoringModel(LightningModule):
    """One linear layer of 32 numbers to 2, trained towards 1, with loaders of its own. Override what a test needs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(_FEATURES, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        output: Tensor = self.layer(x)
        return output

    def loss(self, preds: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean square of what is off, from 1 where there are no labels."""
        return nn.functional.mse_loss(preds, torch.ones_like(preds) if labels is None else labels)

    def step(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        return self.loss(self(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """A dict with ``loss``."""
        return {"loss": self.step(batch)}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """A dict with the loss as ``x``."""
        return {"x": self.step(batch)}

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """A dict with the loss as ``y``."""
        return {"y": self.step(batch)}

    def configure_optimizers(self) -> Any:
        """SGD, whose rate falls to a tenth after each epoch."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)]

    def train_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(RandomDataset(_FEATURES, _SAMPLES))

    def val_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(RandomDataset(_FEATURES, _SAMPLES))

    def test_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(RandomDataset(_FEATURES, _SAMPLES))

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(RandomDataset(_FEATURES, _SAMPLES))


class ManualOptimBoringModel(BoringModel):
    """``BoringModel`` that steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """One step."""
        optimizer = self.optimizers()
        loss = self.step(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class BoringDataModule(LightningDataModule):
    """Four times 64 vectors of 32 numbers: for fit, validation, test and prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.random_full = RandomDataset(_FEATURES, _SAMPLES * 4)

    def setup(self, stage: str) -> None:
        """Make those of the stage."""
        if stage == "fit":
            self.random_train = self._quarter(0)
        if stage in ("fit", "validate"):
            self.random_val = self._quarter(1)
        if stage == "test":
            self.random_test = self._quarter(2)
        if stage == "predict":
            self.random_predict = self._quarter(3)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(self.random_train)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(self.random_val)

    def test_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(self.random_test)

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """64 batches of one sample."""
        return DataLoader(self.random_predict)

    def _quarter(self, index: int) -> Dataset[Tensor]:
        return Subset(self.random_full, range(_SAMPLES * index, _SAMPLES * (index + 1)))


class _Unsized(IterableDataset[Tensor]):
    """The samples of a dataset, of which it does not say how many.

    Args:
        dataset: The dataset.
        count: How many.
    """

    def __init__(self, dataset: Dataset[Tensor], count: int) -> None:
        self.dataset, self.count = dataset, count

    def __iter__(self) -> Iterator[Tensor]:
        return (self.dataset[index] for index in range(self.count))


class BoringDataModuleNoLen(BoringDataModule):
    """The same, by loaders that do not say how many batches they have."""

    def _quarter(self, index: int) -> Dataset[Tensor]:
        return _Unsized(super()._quarter(index), _SAMPLES)


class DemoModel(LightningModule):
    """One linear layer of 32 numbers, trained to give little.

    Args:
        out_dim: What it gives.
        learning_rate: Adam's.
    """

    def __init__(self, out_dim: int = 10, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.l1 = nn.Linear(_FEATURES, out_dim)
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """The layer, nothing below 0."""
        return torch.relu(self.l1(x.view(x.size(0), -1)))

    def training_step(self, batch: Any, batch_nb: int) -> Any:
        """The sum of what it gives."""
        return self(batch).sum()

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)
