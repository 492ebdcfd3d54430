"""``Trainer`` as "Saving and loading weights" says (Lightning 1.5), and "Customize checkpointing behavior" (2.x)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.loggers import CSVLogger
from small_fits import Net, fit, loaders, make_trainer, names, read, steps


def test_saving_is_automatic_in_the_working_directory(tmp_path, monkeypatch):
    """With nothing said at all: the state of the last training epoch."""
    monkeypatch.chdir(tmp_path)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Net(), *loaders())
    assert names(tmp_path) == ["lightning_logs/version_0/checkpoints/epoch=1-step=8.ckpt"]
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path.resolve() / names(tmp_path)[0])


def test_the_root_is_where_default_root_dir_says(tmp_path):
    """With a logger, and without one."""
    fit(tmp_path / "a", max_epochs=1)
    fit(tmp_path / "b", max_epochs=1, logger=CSVLogger(tmp_path / "b"))
    assert names(tmp_path) == [
        "a/checkpoints/epoch=0-step=4.ckpt", "b/lightning_logs/version_0/checkpoints/epoch=0-step=4.ckpt",
    ]  # fmt: skip


@pytest.mark.parametrize("given", ["one", "list"])
def test_callbacks_are_one_or_several(given, tmp_path):
    """``callbacks=cb`` and ``callbacks=[cb]``."""
    callback = ModelCheckpoint(tmp_path)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(callbacks=callback if given == "one" else [callback], max_epochs=1, **quiet)
    trainer.fit(Net(), *loaders())
    assert trainer.checkpoint_callbacks == [callback]
    assert names(tmp_path) == ["epoch=0-step=4.ckpt"]


def test_whatever_is_logged_can_be_monitored(tmp_path):
    """By ``log`` and ``log_dict``, in training and validation."""

    class Logs(Net):
        def training_step(self, batch, batch_idx):
            self.log_dict({"a": float(self.current_epoch), "b": 1.0}, on_epoch=True, on_step=False)
            return super().training_step(batch, batch_idx)

    callbacks = [ModelCheckpoint(tmp_path, f"{m}-{{step}}", monitor=m, mode="max") for m in ("a", "val_loss")]
    fit(tmp_path, *callbacks, net=Logs(lambda epoch, step: -epoch), max_epochs=3)
    assert names(tmp_path) == ["a-step=12.ckpt", "val_loss-step=4.ckpt"]


class Counts(L.Callback):
    def state_dict(self):
        return {"count": 3}


def test_a_checkpoint_holds_what_the_page_lists(tmp_path):
    """Epoch, step, weights, optimizers, schedulers, callbacks, hyperparameters."""
    fit(tmp_path, Counts(), ModelCheckpoint(tmp_path), max_epochs=2)
    found = read(tmp_path / "epoch=1-step=8.ckpt")
    assert (found["epoch"], found["global_step"], found["hyper_parameters"]) == (1, 8, {"width": 8})
    assert set(found["state_dict"]) == set(Net().state_dict())
    assert (len(found["optimizer_states"]), len(found["lr_schedulers"])) == (1, 1)
    assert found["callbacks"]["Counts"] == {"count": 3}


def test_the_hyperparameters_are_those_of_init(tmp_path):
    """``torch.load(path)["hyper_parameters"]``, as the page prints it."""

    class Mine(Net):
        def __init__(self, learning_rate, *args, **kwargs):
            super().__init__()
            self.save_hyperparameters()

    trainer = make_trainer(tmp_path, ModelCheckpoint(tmp_path), max_epochs=1)
    trainer.fit(Mine(0.3), *loaders())
    assert torch.load(tmp_path / "epoch=0-step=4.ckpt")["hyper_parameters"]["learning_rate"] == 0.3


def test_saving_by_hand_is_one_file(tmp_path):
    """``trainer.save_checkpoint("example.ckpt")``, and a model from it."""
    trainer = fit(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.save_checkpoint(tmp_path / "example.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["example.ckpt", "weights.ckpt"]
    assert "optimizer_states" not in read(tmp_path / "weights.ckpt")
    again = Net.load_from_checkpoint(checkpoint_path=tmp_path / "example.ckpt")
    assert torch.equal(again.layers[0].weight, trainer.lightning_module.layers[0].weight)


def test_model_checkpoint_at_its_simplest_saves_at_every_epoch_into_its_folder(tmp_path, monkeypatch):
    """``ModelCheckpoint(dirpath="my/path/")``, and the names of the pages."""
    monkeypatch.chdir(tmp_path)
    seen = []

    class Looks(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.saving.settle()
            seen.append(names(tmp_path / "my/path"))

    fit(tmp_path, Looks(), ModelCheckpoint(dirpath="my/path/"), max_epochs=3)
    assert seen == [[], ["epoch=0-step=4.ckpt"], ["epoch=1-step=8.ckpt"]]
    assert names(tmp_path) == ["my/path/epoch=2-step=12.ckpt"]


def test_evaluation_and_frozen_inference_follow_a_load(tmp_path):
    """``eval()``, ``freeze()``, a prediction."""
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path), max_epochs=1)
    model = Net.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    model.eval()
    model.freeze()
    out = model.layers(torch.ones(2, 4))
    assert (out.shape, out.requires_grad, model.training) == ((2, 1), False, False)


def test_training_state_is_restored(tmp_path):
    """Model, epoch, step, schedulers: ``fit(ckpt_path=path)``."""
    fit(tmp_path, ModelCheckpoint(tmp_path), max_epochs=2)
    path = tmp_path / "epoch=1-step=8.ckpt"
    seen = {}

    class Looks(L.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.update(epoch=trainer.current_epoch, step=trainer.global_step)
            seen["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
            seen["weight"] = pl_module.layers[0].weight.detach().clone()

    fit(tmp_path / "b", Looks(), ckpt_path=path, max_epochs=3)
    assert (seen["epoch"], seen["step"]) == (2, 8)
    assert seen["lr"] == pytest.approx(0.01 * 0.9**2)
    assert torch.equal(seen["weight"], read(path)["state_dict"]["layers.0.weight"])
    assert steps(next(Path(tmp_path / "b").rglob("*.ckpt"))) == 12
