"""Pains of users, as they meet them: memory that saving and loading take, and states that come back changed."""

from __future__ import annotations

import io
import json

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from small_fits import make_trainer, names, read

MODEL_BYTES = 64 << 20


def test_pain_38_a_save_takes_no_second_copy_of_the_model(server, tmp_path):
    """What writing takes on top, the code that is loaded for it included, is less than the model once more."""
    with server.start("pains_child:save_large", str(tmp_path), MODEL_BYTES) as child:
        grown = json.loads(child.stdout.read())
        assert child.wait() == 0
    assert (tmp_path / "large.ckpt").stat().st_size > MODEL_BYTES
    assert grown < MODEL_BYTES


def test_pain_38_the_memory_that_a_save_takes_is_a_parameter(server, tmp_path):
    """Two MiB of buffers for a model of 64, where the default takes many more."""
    with server.start("pains_child:save_within", str(tmp_path), MODEL_BYTES, 2 << 20) as child:
        grown = json.loads(child.stdout.read())
        assert child.wait() == 0
    assert grown < 8 << 20


def loader():
    """Six batches of what nobody looks at."""
    return DataLoader(TensorDataset(torch.zeros(6, 1)), batch_size=1)


class Counts(L.LightningModule):
    """Every weight of every layer is the number of steps done."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(300, 300) for _ in range(8))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def training_step(self, batch, batch_idx):
        return -sum(parameter.sum() for parameter in self.parameters())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_pain_40_no_file_mixes_layers_of_different_steps(tmp_path):
    """Saved at every step while training goes on: all layers are of the step that the file says."""
    callback = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    make_trainer(tmp_path, callback, max_epochs=1).fit(Counts(), loader())
    assert len(names(tmp_path)) == 6
    for name in names(tmp_path):
        saved = read(tmp_path / name)
        found = {value for tensor in saved["state_dict"].values() for value in tensor.unique().tolist()}
        assert found == {saved["global_step"]}


class CountingFile(io.FileIO):
    """Counts what is read of it."""

    taken = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.taken += count
        return count


def test_pain_41_taking_the_weights_reads_no_optimizer(tmp_path):
    """Of a file that is two thirds Adam's, the weights alone are read."""

    class Adam(Counts):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1, enable_checkpointing=False)
    trainer.fit(Adam(), loader())
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    with CountingFile(path) as file:
        Adam.load_from_checkpoint(file)
        assert file.taken < 0.4 * path.stat().st_size


class Mixed(L.LightningModule):
    """A half-precision weight and one in another order of memory."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Linear(4, 4, dtype=torch.bfloat16)
        self.image = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)

    def training_step(self, batch, batch_idx):
        x = self.image(torch.ones(1, 3, 2, 2)).flatten()
        return self.narrow(x.to(torch.bfloat16)).float().square().sum()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


def layout(trainer):
    """Where and how every tensor of the optimizer lies."""
    states = [dict(state) for state in trainer.optimizers[0].state.values()]
    return [{k: (v.dtype, v.device, v.shape, v.stride()) for k, v in state.items()} for state in states]


def test_pain_42_the_optimizer_comes_back_where_and_how_it_was(tmp_path):
    """Device, data type and layout of each tensor of its state, the step counters' too."""
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    trainer.fit(Mixed(), loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    again.fit(Mixed(), loader(), ckpt_path=tmp_path / "a.ckpt")
    assert layout(again) == layout(trainer)
    assert any(shape[3] != torch.empty(shape[2]).stride() for state in layout(again) for shape in state.values())
