"""A user's own CheckpointIO: it writes by the same rules, reads what it wrote, and is said to be unverified."""

from __future__ import annotations

import logging
import pickle
import warnings
from pathlib import Path

import pytest
import torch

from holdfast import Trainer
from holdfast.callbacks import ModelCheckpoint
from holdfast.compat.boring_classes import BoringDataModule, BoringModel
from holdfast.errors import ConfigError, HoldfastError, SaveFailed
from holdfast.training.checkpoint_io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO, writer_of

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoints are written by")


class Pickles(CheckpointIO):
    """One pickle for each checkpoint, as somebody might."""

    def __init__(self):
        self.calls = []

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.calls.append(("save", Path(path).name, storage_options))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(pickle.dumps(checkpoint))

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        self.calls.append(("load", Path(path).name, weights_only))
        return pickle.loads(Path(path).read_bytes())

    def remove_checkpoint(self, path):
        self.calls.append(("remove", Path(path).name, None))
        Path(path).unlink()

    def teardown(self):
        self.calls.append(("teardown", "", None))


class Model(BoringModel):
    LOSSES = (0.5, 0.3, 0.4, 0.2, 0.6, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("x", self.LOSSES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fitted(io, folder, *, epochs, ckpt_path=None, callbacks=None, model=None):
    """A trainer with that CheckpointIO, after a fit."""
    torch.manual_seed(1)
    callbacks = callbacks or [ModelCheckpoint(folder, monitor="x", save_top_k=2, save_last=True)]
    trainer = Trainer(
        max_epochs=epochs, limit_train_batches=3, limit_val_batches=1, callbacks=callbacks, logger=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", plugins=[io],
    )  # fmt: skip
    trainer.fit(model or Model(), datamodule=BoringDataModule(), ckpt_path=ckpt_path)
    return trainer


def test_files_are_written_and_removed_by_the_same_rules(tmp_path):
    """The best two and the newest, every one by the user's methods, removed after what takes its place is written."""
    io = Pickles()
    trainer = fitted(io, tmp_path, epochs=4)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch=1-step=6.ckpt",
        "epoch=3-step=12.ckpt",
        "last.ckpt",
    ]
    assert [call[:2] for call in io.calls] == [
        ("save", "epoch=0-step=3.ckpt"), ("save", "last.ckpt"),
        ("save", "epoch=1-step=6.ckpt"), ("save", "last.ckpt"),
        ("save", "epoch=2-step=9.ckpt"), ("save", "last.ckpt"), ("remove", "epoch=0-step=3.ckpt"),
        ("save", "epoch=3-step=12.ckpt"), ("save", "last.ckpt"), ("remove", "epoch=2-step=9.ckpt"),
        ("teardown", ""),
    ]  # fmt: skip
    callback = trainer.checkpoint_callback
    assert callback.best_model_path == str(tmp_path / "epoch=3-step=12.ckpt")
    assert callback.best_model_score.item() == pytest.approx(0.2)
    assert pickle.loads((tmp_path / "last.ckpt").read_bytes())["global_step"] == 12


def test_a_run_goes_on_from_what_it_reads(tmp_path):
    """Three epochs and three more are the same as six, weights and momentum."""
    whole = fitted(Pickles(), tmp_path / "whole", epochs=6)
    fitted(Pickles(), tmp_path / "parts", epochs=3)
    io = Pickles()
    parts = fitted(io, tmp_path / "parts", epochs=6, ckpt_path=str(tmp_path / "parts" / "last.ckpt"))

    assert io.calls[0] == ("load", "last.ckpt", None)
    assert parts.global_step == whole.global_step == 18
    for ours, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert parts.optimizers[0].state_dict()["state"][0]["step"] == 18


RAISED = {
    "its own": (OSError("no space"), r"Full raised OSError: no space\. 'epoch=0-step=3\.ckpt' was written before\.\Z"),
    "ours": (
        HoldfastError("the bucket is full.", remedy="Empty it."),
        r"Full raised the bucket is full\. 'epoch=0-step=3\.ckpt' was written before\. Empty it\.\Z",
    ),
}


@pytest.mark.parametrize("whose", RAISED)
def test_what_it_raises_ends_the_fit_and_costs_no_file(whose, tmp_path):
    """The error says whose it is, and what to do where that is known; what was written before stands."""
    error, words = RAISED[whose]

    class Full(Pickles):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            if checkpoint["global_step"] > 3:
                raise error
            super().save_checkpoint(checkpoint, path)

    with pytest.raises(SaveFailed, match=rf"'epoch=1-step=6\.ckpt' was not saved: {words}"):
        fitted(Full(), tmp_path, epochs=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=0-step=3.ckpt", "last.ckpt"]


def test_a_rescue_is_written_and_goes_after_a_clean_end(tmp_path):
    """By the user's methods too."""

    class Breaks(Model):
        def training_step(self, batch, batch_idx):
            if self.global_step == 4:
                raise RuntimeError("the data is gone")
            return super().training_step(batch, batch_idx)

    io = Pickles()
    with pytest.raises(RuntimeError, match="the data is gone"):
        fitted(io, tmp_path, epochs=3, model=Breaks())
    assert (tmp_path / "rescue-epoch=1-step=4.ckpt").exists()
    assert io.calls[-1][0] == "teardown"


def test_torchs_own_subclasses_write_files_that_torch_reads(tmp_path):
    """A subclass that does something beside and calls super() works as in Lightning."""

    class Told(TorchCheckpointIO):
        told = 0

        def save_checkpoint(self, checkpoint, path, storage_options=None):
            self.told += 1
            super().save_checkpoint(checkpoint, path, storage_options)

    io = Told()
    fitted(io, tmp_path, epochs=2)
    assert io.told == 4
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["epoch"] == 1
    with pytest.raises(ConfigError, match="Told takes no storage_options"):
        io.save_checkpoint({}, tmp_path / "x.ckpt", {"acl": "public"})
    io.remove_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("given", [TorchCheckpointIO(), AsyncCheckpointIO(), [AsyncCheckpointIO(TorchCheckpointIO())]])
def test_what_asks_for_what_is_done_anyway_is_ours(given, caplog):
    """In the background and by torch's format: said once, with no warning."""
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, logger="holdfast"):
        warnings.simplefilter("error")
        assert writer_of(given) is None
    assert caplog.messages == [f"{type(given[0] if isinstance(given, list) else given).__name__}: "
                               "that is how checkpoints are saved anyway"]  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda io: io, AsyncCheckpointIO])
def test_a_users_own_is_called_with_a_warning(wrap):
    """Also out of an AsyncCheckpointIO: nobody knows whether its methods bear another thread."""
    io = Pickles()
    with pytest.warns(
        UserWarning, match="written by Pickles.save_checkpoint.. while training waits. Holdfast does not verify"
    ):
        assert writer_of([wrap(io)]) is io


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("16-mixed", "it takes a CheckpointIO"),
        ([Pickles(), Pickles()], "2 CheckpointIO"),
        ([object()], "object object"),
    ],
)
def test_other_plugins_are_refused(given, said):
    """With where to ask for it."""
    with pytest.raises(ConfigError, match=said):
        writer_of(given)
    assert writer_of(None) is writer_of([]) is None


def test_a_save_by_hand_is_handed_on_with_its_options(tmp_path):
    """Where there is nobody to take options, they are refused."""
    io = Pickles()
    trainer = fitted(io, tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "mine.ckpt", weights_only=True, storage_options={"acl": "public"})
    assert io.calls[-1] == ("save", "mine.ckpt", {"acl": "public"})
    assert "optimizer_states" not in pickle.loads((tmp_path / "mine.ckpt").read_bytes())
    trainer.checkpoint_io = None
    with pytest.raises(ConfigError, match="for a CheckpointIO of your own"):
        trainer.save_checkpoint(tmp_path / "other.ckpt", storage_options={})
