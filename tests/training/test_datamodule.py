"""What a datamodule promises: loaders from datasets, hooks that may be left out, hyperparameters and state in files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from holdfast.errors import Incompatible
from holdfast.training.datamodule import LightningDataModule
from holdfast.training.hparams import checkpoint_entries
from writing import write


class Counting(LightningDataModule):
    def __init__(self, folder, size=4):
        super().__init__()
        self.save_hyperparameters()
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def numbers(count):
    """A dataset of the numbers below ``count``."""
    return TensorDataset(torch.arange(count))


def test_from_datasets_makes_loaders_of_those_given():
    """Training is shuffled, the rest is not; the options reach every loader."""
    data = LightningDataModule.from_datasets(numbers(5), val_dataset=numbers(3), batch_size=2)
    train, val = data.train_dataloader(), data.val_dataloader()
    assert isinstance(train.sampler, RandomSampler)
    assert isinstance(val.sampler, SequentialSampler)
    assert [batch.tolist() for (batch,) in val] == [[0, 1], [2]]
    with pytest.raises(NotImplementedError, match="LightningDataModule has no test_dataloader"):
        data.test_dataloader()


def test_several_datasets_become_several_loaders():
    """A list gives a list and a dict a dict; a stream is not shuffled."""
    data = LightningDataModule.from_datasets(
        Stream(), [numbers(1), numbers(2)], {"a": numbers(3)}, predict_dataset=numbers(1), batch_size=3
    )
    assert [batch.tolist() for batch in data.train_dataloader()] == [[0, 1, 2]]
    assert [len(loader.dataset) for loader in data.val_dataloader()] == [1, 2]
    assert len(data.test_dataloader()["a"].dataset) == 3
    assert len(data.predict_dataloader()) == 1


def test_from_datasets_hands_its_options_to_init_where_it_takes_them():
    """A subclass gets its own arguments, and batch_size if it has one; it can be pickled, loaders and all."""

    class Narrow(LightningDataModule):
        def __init__(self, name, batch_size):
            super().__init__()
            self.given = (name, batch_size)

    assert Narrow.from_datasets(numbers(1), batch_size=7, num_workers=0, name="x").given == ("x", 7)
    data = pickle.loads(pickle.dumps(LightningDataModule.from_datasets(numbers(5), batch_size=5)))
    assert len(data.train_dataloader()) == 1


def test_hooks_may_be_left_out():
    """Those without a subclass's do nothing, and return the batch where there is one."""
    data = LightningDataModule()
    data.prepare_data()
    data.setup("fit")
    data.on_exception(ValueError())
    data.teardown("fit")
    batch = object()
    assert data.on_before_batch_transfer(batch, 0) is batch
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert data.state_dict() == {}
    for kind in ("train", "val", "test", "predict"):
        with pytest.raises(NotImplementedError, match=f"no {kind}_dataloader"):
            getattr(data, f"{kind}_dataloader")()


def test_transfer_goes_through_the_trainers_strategy():
    """The strategy knows how to bring a batch to the device; without a trainer that is an error."""

    class Strategy:
        def move(self, batch, device):
            return (batch, device)

    class Trainer:
        strategy = Strategy()

    data = LightningDataModule()
    with pytest.raises(RuntimeError, match="LightningDataModule is not attached to a Trainer"):
        data.transfer_batch_to_device(1, torch.device("cpu"), 0)
    data.trainer = Trainer()
    assert data.transfer_batch_to_device(1, torch.device("cpu"), 0) == (1, torch.device("cpu"))


def test_a_subclass_need_not_call_init():
    """All attributes have defaults of the class."""

    class Bare(LightningDataModule):
        def __init__(self, size):
            self.save_hyperparameters()

    bare = Bare(3)
    assert bare.trainer is None
    assert bare.prepare_data_per_node
    assert bare.hparams.size == 3


def test_it_comes_back_from_a_checkpoint(tmp_path):
    """Hyperparameters, kept apart from the module's, and state are those that were saved; given arguments win."""
    data = Counting(Path("x"), size=9)
    data.seen = 5
    entries = checkpoint_entries(data)
    assert set(entries) == {"datamodule_hyper_parameters", "datamodule_hparams_name"}
    root = {"state_dict": {}, "hyper_parameters": {"folder": "no", "size": 0}, "Counting": data.state_dict(), **entries}
    path = write(tmp_path / "a.ckpt", root)
    back = Counting.load_from_checkpoint(path)
    assert dict(back.hparams) == {"folder": Path("x"), "size": 9}
    assert back.seen == 5
    assert dict(Counting.load_from_checkpoint(path, size=1).hparams) == {"folder": Path("x"), "size": 1}
    with pytest.raises(TypeError, match="call it on the class"):
        back.load_from_checkpoint(path)


def test_a_checkpoint_without_one_builds_a_fresh_one(tmp_path):
    """Without state nothing is loaded; without hyperparameters the required ones are asked for."""
    path = write(tmp_path / "a.ckpt", {"state_dict": {}})
    assert Counting.load_from_checkpoint(path, folder="y").seen == 0
    with pytest.raises(Incompatible, match=r"has no value for folder, which Counting\.__init__ needs"):
        Counting.load_from_checkpoint(path)
    (tmp_path / "h.yaml").write_text("folder: z\nsize: 2\n")
    assert Counting.load_from_checkpoint(path, hparams_file=tmp_path / "h.yaml").hparams.size == 2
