"""The datamodule that users write: where the batches of a run come from. It loads nothing by itself."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from holdfast.training.class_only import class_only
from holdfast.training.hparams import HyperparametersMixin
from holdfast.training.placement import MapLocation

if TYPE_CHECKING:
    from typing_extensions import Self

    from holdfast.training.opening import Source
    from holdfast.training.trainer import Trainer


class LightningDataModule(HyperparametersMixin):
    """The data of a run: its preparation, its loaders, its transfer to the device. Every hook may be left out.

    Its hyperparameters, and what ``state_dict`` gives, go into checkpoints.

    Attributes:
        trainer: The trainer that runs it; None where none does.
        prepare_data_per_node: Whether ``prepare_data`` runs on every host, or on one alone.
    """

    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str] = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str] = "datamodule_hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE: ClassVar[str] = "datamodule_hparams_type"

    # Of the class, so that a subclass whose __init__ does not call this one's works too.
    trainer: Trainer | None = None
    prepare_data_per_node: bool = True

    def __init__(self) -> None:
        pass

    # Set-up

    def prepare_data(self) -> None:
        """Download and such, in one process of each host (of all hosts, without ``prepare_data_per_node``).

        Set nothing on ``self`` here: other processes would not have it.
        """

    def setup(self, stage: str) -> None:
        """Make the datasets, in every process, after ``prepare_data``.

        Args:
            stage: What begins: ``fit``, ``validate``, ``test`` or ``predict``.
        """

    def teardown(self, stage: str) -> None:
        """Clean up, in every process, after ``stage`` has ended."""

    def on_exception(self, exception: BaseException) -> None:
        """When the run ends with an error, before ``teardown``."""

    # Batches. The trainer asks only for those that a subclass defines.

    def train_dataloader(self) -> Any:
        """What to train on: a loader, or a list or dict of several."""
        raise NotImplementedError(_undefined(self, "train_dataloader"))

    def val_dataloader(self) -> Any:
        """What to validate on: a loader, or a list of several."""
        raise NotImplementedError(_undefined(self, "val_dataloader"))

    def test_dataloader(self) -> Any:
        """What to test on: a loader, or a list of several."""
        raise NotImplementedError(_undefined(self, "test_dataloader"))

    def predict_dataloader(self) -> Any:
        """What to predict on: a loader, or a list of several."""
        raise NotImplementedError(_undefined(self, "predict_dataloader"))

    # Transfer. Of these hooks, those that a subclass defines are called instead of the module's.

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch before it goes to the device; returns the batch."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Bring a batch to the device; returns the batch. For batches of types of your own.

        Raises:
            RuntimeError: No trainer runs the datamodule.
        """
        if self.trainer is None:
            raise RuntimeError(f"{type(self).__name__} is not attached to a Trainer.")
        return self.trainer.strategy.move(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch on the device; returns the batch."""
        return batch

    # State

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint is to hold of the datamodule: plain values and tensors; nothing by default."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what ``state_dict`` gave. Not called where a checkpoint holds nothing of this class."""

    # Building

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> Self:
        """A datamodule around datasets; it has the loaders of those that are given.

        Args:
            train_dataset: A dataset, or a list or dict of several, which becomes a list or dict of loaders. Shuffled,
                unless it is an ``IterableDataset``.
            val_dataset: The same, not shuffled.
            test_dataset: The same, not shuffled.
            predict_dataset: The same, not shuffled.
            batch_size: Samples in a batch.
            num_workers: Processes that load; 0 loads in the main one.
            datamodule_kwargs: Arguments of ``__init__``, to which ``batch_size`` and ``num_workers`` are added where it
                takes them.
        """
        options = {"batch_size": batch_size, "num_workers": num_workers}
        parameters = inspect.signature(cls.__init__).parameters.values()
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        accepted = {p.name for p in parameters}
        made = cls(**datamodule_kwargs, **{k: v for k, v in options.items() if takes_all or k in accepted})
        for kind, dataset in (
            ("train", train_dataset),
            ("val", val_dataset),
            ("test", test_dataset),
            ("predict", predict_dataset),
        ):
            if dataset is not None:
                setattr(made, f"{kind}_dataloader", _Loaders(dataset, kind == "train", batch_size, num_workers))
        return made

    @class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: Source,
        map_location: MapLocation = None,
        hparams_file: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build the datamodule with the hyperparameters and the state of a checkpoint.

        Args:
            checkpoint_path: The file: a path, a URL (http, https, or whatever fsspec opens) or an open binary file.
            map_location: Where tensors go, in any form that ``torch.load`` takes.
            hparams_file: Hyperparameters to use instead of the checkpoint's, a .yaml or .csv file.
            weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.
            kwargs: Arguments of ``__init__``, over those of the checkpoint.

        Raises:
            NotFound: There is no such file.
            Corrupt: It is damaged.
            Foreign: It is not ours, and the safe loader cannot read it.
            Incompatible: It does not fit the class.
            TypeError: It was called on an instance.
        """
        from holdfast.training.loading import load_datamodule  # loaded by those who load

        return load_datamodule(
            cls,
            checkpoint_path,
            map_location=map_location,
            hparams_file=hparams_file,
            weights_only=weights_only,
            kwargs=kwargs,
        )


class _Loaders:
    """Makes the loaders of one kind when it is called. A class, so that a datamodule can be pickled."""

    def __init__(self, datasets: Any, shuffle: bool, batch_size: int, num_workers: int) -> None:
        self.datasets = datasets
        self.shuffle = shuffle
        self.batch_size = batch_size
        self.num_workers = num_workers

    def __call__(self) -> Any:
        if isinstance(self.datasets, Mapping):
            return {name: self._loader(dataset) for name, dataset in self.datasets.items()}
        if isinstance(self.datasets, (list, tuple)):
            return [self._loader(dataset) for dataset in self.datasets]
        return self._loader(self.datasets)

    def _loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle and not isinstance(dataset, IterableDataset),
            num_workers=self.num_workers,
            pin_memory=torch.accelerator.is_available(),
        )


def _undefined(datamodule: LightningDataModule, name: str) -> str:
    return f"{type(datamodule).__name__} has no {name}(). Define it, or give the loaders to the trainer."
