"""A run that was interrupted and went on is the run that was never interrupted, bit for bit."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

import holdfast as L
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
from sameness import same
from small_fits import Net, facts, fit, loaders, make_trainer, names, read
from two_optimizers import TwoOptimizers

EPOCHS = 3


class Logs(L.Callback):
    """What was logged at each epoch's end, and how often it was asked; a callback with a state."""

    def __init__(self):
        self.rows = {}
        self.calls = 0

    def state_dict(self):
        return {"calls": self.calls, "noise": torch.full((2,), float(self.calls))}

    def load_state_dict(self, state):
        self.calls = state["calls"]
        assert state["noise"].tolist() == [float(self.calls)] * 2

    def on_train_epoch_end(self, trainer, pl_module):
        self.calls += 1
        self.rows[trainer.current_epoch] = {name: float(v) for name, v in trainer.callback_metrics.items()}


def everything_of(trainer):
    """All that must be equal at the end: weights, optimizers, schedulers, counters."""
    net = trainer.lightning_module
    return {
        "weights": {name: value.clone() for name, value in net.state_dict().items()},
        "optimizers": [o.state_dict() for o in trainer.optimizers],
        "schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
        "progress": trainer.loop.progress,
    }


class DrawsAtTheStart(Net):
    """Draws before a run's first step, and before an epoch's: a run that goes on has drawn there already."""

    def on_train_start(self):
        torch.rand(3)

    def on_train_epoch_start(self):
        torch.rand(3)


class Plateau(Net):
    """Its learning rate hangs on the validation, at each step that has one."""

    interval = "step"

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.9, patience=0)
        scheduler = {"scheduler": plateau, "monitor": "val_loss", "interval": self.interval, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class PlateauOfEpochs(Plateau):
    interval = "epoch"


class Noisy(Net):
    """Draws from Python's and NumPy's generators as well."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * (1 + np.random.rand() + random.random())

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch[0] + torch.randn(()),), batch_idx)


def saver(folder):
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def at_ends(folder):
    return ModelCheckpoint(folder, "{step}", save_top_k=-1)


def each_batch(folder):
    return ModelCheckpoint(folder, "{step}", train_time_interval=timedelta(0), save_top_k=-1)


def after_validation(folder):
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, save_on_train_epoch_end=False)


CASES = {
    "epoch ends": (at_ends, Net, {}),
    "after validation": (after_validation, Net, {}),
    "after validation, twice an epoch": (after_validation, Net, {"val_check_interval": 0.5}),
    "each step": (saver, Net, {}),
    "each step, validated twice an epoch": (saver, Net, {"val_check_interval": 0.5}),
    "three generators": (saver, Noisy, {"val_check_interval": 0.5}),
    "plateau, by step": (saver, Plateau, {"val_check_interval": 0.5}),
    "plateau, by epoch": (after_validation, PlateauOfEpochs, {}),
    "gradients that wait": (each_batch, Net, {"accumulate_grad_batches": 3}),
    "hooks that draw": (saver, DrawsAtTheStart, {}),
    "after a sanity check": (at_ends, Net, {"num_sanity_val_steps": 2}),
}


@pytest.mark.parametrize(("make", "module", "options"), CASES.values(), ids=CASES)
def test_a_run_resumed_from_any_of_its_checkpoints_equals_the_uninterrupted_one(make, module, options, tmp_path):
    """With dropout and shuffling, other seeds set before: weights, optimizers, schedulers, callbacks, metrics."""
    logs = Logs()
    folder = tmp_path / "whole"
    whole = fit(folder, logs, make(folder), net=module(), shuffle=True, max_epochs=EPOCHS, **options)
    wanted = everything_of(whole)
    found = names(folder)
    assert len(found) >= EPOCHS
    for name in found:
        again = Logs()
        resumed = fit(
            tmp_path / name, again, net=module(), shuffle=True, max_epochs=EPOCHS, ckpt_path=folder / name, seed=99,
            enable_checkpointing=False, **options,
        )  # fmt: skip
        assert same(everything_of(resumed), wanted), name
        assert again.calls == logs.calls, name
        first = read(folder / name)["epoch"]
        rows = {epoch: row for epoch, row in again.rows.items() if epoch > first}
        assert rows == {epoch: row for epoch, row in logs.rows.items() if epoch > first}, name


def resume_here(folder, name):
    """In a process of its own: go on, and leave the end beside."""
    trainer = fit(
        Path(folder, "again"), net=Net(), shuffle=True, max_epochs=EPOCHS, ckpt_path=Path(folder, name), seed=5
    )
    torch.save(everything_of(trainer)["weights"], Path(folder, "end.pt"))


def test_it_is_the_same_in_a_new_process(server, tmp_path):
    """Nothing of the first process is needed but its file."""
    whole = fit(tmp_path, at_ends(tmp_path), shuffle=True, max_epochs=EPOCHS)
    with server.start("test_resume_exact:resume_here", str(tmp_path), "step=4.ckpt") as child:
        assert child.wait() == 0
    assert same(torch.load(tmp_path / "end.pt", weights_only=True), everything_of(whole)["weights"])


def test_going_on_in_the_middle_of_an_epoch_skips_what_is_done_and_warns_of_nothing(tmp_path, caplog):
    """The right epoch and step, the batches by index; it is exact."""
    fit(tmp_path, saver(tmp_path), max_epochs=2)
    caplog.clear()
    net = Net()
    trainer = fit(tmp_path / "b", net=net, max_epochs=2, ckpt_path=tmp_path / "step=6.ckpt")
    assert net.seen == [(1, 2), (1, 3)]
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []


def test_going_on_at_an_epochs_end_warns_of_nothing(tmp_path, caplog):
    """Neither from its training end, nor from the validation of its last batch."""
    fit(tmp_path / "a", at_ends(tmp_path / "a"), max_epochs=1)
    fit(tmp_path / "b", after_validation(tmp_path / "b"), max_epochs=1)
    for folder in ("a", "b"):
        net = Net()
        fit(tmp_path / f"{folder} again", net=net, max_epochs=2, ckpt_path=tmp_path / folder / "step=4.ckpt")
        assert net.seen == [(1, i) for i in range(4)]
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []


def test_a_fit_cut_short_by_a_limit_goes_on_where_it_was_cut(tmp_path):
    """``max_steps`` in mid-epoch, then more steps: as if there had been no limit."""
    whole = fit(tmp_path / "whole", shuffle=True, max_steps=11, max_epochs=-1)
    fit(tmp_path / "cut", ModelCheckpoint(tmp_path / "cut", save_last=True), shuffle=True, max_steps=6, max_epochs=-1)
    trainer = fit(tmp_path, shuffle=True, max_steps=11, max_epochs=-1, ckpt_path=tmp_path / "cut/last.ckpt", seed=3)
    assert same(everything_of(trainer)["weights"], everything_of(whole)["weights"])


def test_memories_of_callbacks_are_restored(tmp_path):
    """EarlyStopping counts on from where it was, and the best so far is not forgotten."""

    def worse(epoch, step):
        return 0.5 + epoch / 10

    def callbacks():
        return EarlyStopping("val_loss", patience=5), ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)

    fit(tmp_path, *callbacks(), net=Net(worse), max_epochs=2)
    stopping, best = callbacks()
    trainer = fit(tmp_path, stopping, best, net=Net(worse), max_epochs=9, ckpt_path="last")
    assert (trainer.current_epoch, stopping.stopped_epoch) == (6, 5)
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert Path(best.best_model_path).name == "epoch=0-step=4.ckpt"
    assert best.best_model_score == torch.tensor(0.5)


def test_several_optimizers_are_restored(tmp_path):
    """Manual optimisation, each optimizer with its own state."""

    class Two(TwoOptimizers):
        def configure_optimizers(self):
            return [torch.optim.Adam(self.layers[i].parameters(), lr=0.1) for i in (0, 3)]

    whole = fit(tmp_path, saver(tmp_path), net=Two(), shuffle=True)
    assert names(tmp_path)[0] == "step=10.ckpt"
    resumed = fit(tmp_path / "b", net=Two(), shuffle=True, ckpt_path=tmp_path / "step=6.ckpt", seed=4)
    assert same(everything_of(resumed), everything_of(whole))


def test_a_finished_run_goes_on_in_its_own_folder_with_more_epochs(tmp_path):
    """It is one run: what it kept before is ranked with what comes."""
    trainer = make_trainer(tmp_path, max_epochs=1)
    net = Net()
    trainer.fit(net, *loaders())
    trainer = make_trainer(tmp_path, max_epochs=4)
    trainer.fit(net, *loaders(), ckpt_path="last")
    assert trainer.global_step == 16
    assert names(tmp_path) == ["checkpoints/epoch=3-step=16.ckpt"]
    begun = [fact["run"] for fact in facts(tmp_path / "checkpoints", "run")]
    assert [(run["id"], run["attempt"]) for run in begun] == [(begun[0]["id"], 1), (begun[0]["id"], 2)]
