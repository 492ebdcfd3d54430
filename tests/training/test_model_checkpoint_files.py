"""``ModelCheckpoint``: which files a fit leaves, under which names, and where ``last`` is."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from small_fits import Net, falling, fit, names, read, rising, steps
from two_optimizers import TwoOptimizers


def test_the_default_keeps_the_newest_epoch(tmp_path):
    """One file, of the last epoch, by its default name."""
    callback = ModelCheckpoint(tmp_path)
    fit(tmp_path, callback, max_epochs=3)
    assert names(tmp_path) == ["epoch=2-step=12.ckpt"]
    assert callback.best_model_path == str(tmp_path.resolve() / "epoch=2-step=12.ckpt")
    assert callback.best_model_score is None


def test_the_best_are_kept_and_named_by_their_metric(tmp_path):
    """The two best of five, and the attributes that tell of them."""
    values = [0.5, 0.2, 0.4, 0.1, 0.3]
    callback = ModelCheckpoint(tmp_path, "{epoch}-{val_loss:.2f}", monitor="val_loss", save_top_k=2)
    fit(tmp_path, callback, net=Net(lambda epoch, step: values[epoch]), max_epochs=5)
    assert names(tmp_path) == ["epoch=1-val_loss=0.20.ckpt", "epoch=3-val_loss=0.10.ckpt"]
    root = tmp_path.resolve()
    assert callback.best_model_path == str(root / "epoch=3-val_loss=0.10.ckpt")
    assert callback.best_model_score == torch.tensor(0.1)
    assert callback.kth_best_model_path == str(root / "epoch=1-val_loss=0.20.ckpt")
    assert callback.kth_value == torch.tensor(0.2)
    assert {Path(p).name: v.item() for p, v in callback.best_k_models.items()} == {
        "epoch=1-val_loss=0.20.ckpt": torch.tensor(0.2).item(),
        "epoch=3-val_loss=0.10.ckpt": torch.tensor(0.1).item(),
    }
    assert callback.current_score == torch.tensor(0.1)


def test_all_are_kept_with_minus_one_and_the_best_is_the_best(tmp_path):
    """``save_top_k=-1`` ranks nothing away, and still knows the best."""
    callback = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1)
    fit(tmp_path, callback, net=Net(rising), max_epochs=3)
    assert len(names(tmp_path)) == 3
    assert Path(callback.best_model_path).name == "epoch=0-step=4.ckpt"
    assert callback.best_model_score == torch.tensor(1.0)


def test_all_that_are_kept_have_the_score_of_a_validation_at_their_step(tmp_path):
    """``save_top_k=-1`` by steps that a validation follows: each file has its own score, and the best is known."""
    callback = ModelCheckpoint(
        tmp_path, "{step}-{val_loss:.0f}", monitor="val_loss", every_n_train_steps=4, save_top_k=-1
    )
    fit(tmp_path, callback, max_epochs=3)
    scores = {Path(path).name: f"{score.item():.0f}" for path, score in callback.best_k_models.items()}

    assert sorted(scores) == names(tmp_path)
    assert [name.partition("-")[0] for name in names(tmp_path)] == ["step=12", "step=4", "step=8"]
    assert all(name.endswith(f"val_loss={score}.ckpt") for name, score in scores.items())
    assert callback.best_model_score is not None


def test_none_is_kept_with_zero(tmp_path):
    """``save_top_k=0`` saves nothing, not at the end of fit either."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=0))
    assert names(tmp_path) == []


def test_none_is_ranked_with_zero_and_the_last_is_kept(tmp_path):
    """``save_top_k=0`` with ``save_last`` has one file."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=0, save_last=True))
    assert names(tmp_path) == ["last.ckpt"]
    assert steps(tmp_path / "last.ckpt") == 8


def test_epochs_that_do_not_count_are_not_saved(tmp_path):
    """``every_n_epochs=2``."""
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_epochs=2, save_top_k=-1), max_epochs=5)
    assert names(tmp_path) == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]


def test_only_epochs_that_both_intervals_divide_are_saved_at_validation(tmp_path):
    """``every_n_epochs=2`` with ``check_val_every_n_epoch=3``: epochs 6 and 12 of 12."""
    callback = ModelCheckpoint(tmp_path, every_n_epochs=2, save_on_train_epoch_end=False, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=12, check_val_every_n_epoch=3, limit_train_batches=1)
    assert names(tmp_path) == ["epoch=11-step=12.ckpt", "epoch=5-step=6.ckpt"]


def test_steps_trigger(tmp_path):
    """``every_n_train_steps=3`` of eight."""
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1))
    assert names(tmp_path) == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]


def test_a_time_interval_of_zero_saves_each_batch(tmp_path):
    """Not finer than a batch, and not coarser."""
    fit(tmp_path, ModelCheckpoint(tmp_path, train_time_interval=timedelta(0), save_top_k=-1), max_epochs=1)
    assert len(names(tmp_path)) == 4


def test_a_time_interval_saves_when_it_has_passed_and_not_before(tmp_path):
    """A nanosecond-long one passes between any two batches, an hour in none; each has a clock of its own."""
    short = ModelCheckpoint(tmp_path, "short-{step}", train_time_interval=timedelta(microseconds=1), save_top_k=-1)
    long = ModelCheckpoint(tmp_path, "long-{step}", train_time_interval=timedelta(hours=1), save_top_k=-1)
    fit(tmp_path, short, long, max_epochs=1)
    assert names(tmp_path) == [f"short-step={n}.ckpt" for n in (1, 2, 3, 4)]


def test_weights_only_has_no_optimizer(tmp_path):
    """``save_weights_only`` leaves out what only resuming needs."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_weights_only=True))
    (name,) = names(tmp_path)
    found = read(tmp_path / name)
    assert "state_dict" in found
    assert not {"optimizer_states", "lr_schedulers", "callbacks"} & set(found)


def test_a_fixed_name_moves_on_to_the_better_one(tmp_path):
    """Without fields in it, the name is one file that is replaced."""
    fit(tmp_path, ModelCheckpoint(tmp_path, "best", monitor="val_loss"), net=Net(falling), max_epochs=3)
    assert names(tmp_path) == ["best.ckpt"]
    assert steps(tmp_path / "best.ckpt") == 12


def test_a_name_that_is_taken_gets_a_version(tmp_path):
    """Several saves in one epoch under a name that tells epochs only."""
    callback = ModelCheckpoint(tmp_path, "{epoch}", every_n_train_steps=2, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=1)
    assert names(tmp_path) == ["epoch=0-v1.ckpt", "epoch=0.ckpt"]


def test_nan_is_never_the_best(tmp_path):
    """Neither first, nor later, in either mode."""
    values = [math.nan, 0.5, math.nan, 0.4]
    for mode in ("min", "max"):
        folder = tmp_path / mode
        callback = ModelCheckpoint(folder, "{epoch}", monitor="val_loss", mode=mode, save_top_k=4)
        fit(folder, callback, net=Net(lambda epoch, step: values[epoch]), max_epochs=4)
        assert names(folder) == ["epoch=1.ckpt", "epoch=3.ckpt"]
        assert not math.isnan(callback.best_model_score)


def test_a_name_pairs_a_step_with_the_metric_of_that_step(tmp_path):
    """Steps trigger between validations: what is saved is the step that was validated, with its own value."""
    callback = ModelCheckpoint(
        tmp_path, "{step}-{val_loss:.0f}", monitor="val_loss", mode="max", every_n_train_steps=3, save_top_k=-1
    )
    ranked = ModelCheckpoint(
        tmp_path / "b", "{step}-{val_loss:.0f}", monitor="val_loss", every_n_train_steps=3, save_top_k=9
    )
    fit(tmp_path, callback, ranked, net=Net(lambda epoch, step: float(step)), max_epochs=3)
    assert names(tmp_path / "b") == ["step=12-val_loss=12.ckpt", "step=4-val_loss=4.ckpt", "step=8-val_loss=8.ckpt"]
    unranked = [name for name in names(tmp_path) if not name.startswith("b/")]
    unmeasured = [f"step={step}-val_loss=none.ckpt" for step in (3, 6, 9)]
    assert unranked == ["step=12-val_loss=12.ckpt", *unmeasured]


def test_two_optimizers_count_the_steps_of_both(tmp_path):
    """Manual optimisation: two steps a batch, and a trigger at or past each multiple."""
    fit(
        tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1), net=TwoOptimizers(), max_epochs=1
    )  # fmt: skip
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "epoch=0-step=6.ckpt"]


# save_last


def test_last_is_the_last_step_after_epochs_of_a_worsening_metric(tmp_path):
    """Five epochs that get worse: the best is the first, and last.ckpt the end."""
    callback = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss", save_last=True)
    fit(tmp_path, callback, net=Net(rising), max_epochs=5)
    assert names(tmp_path) == ["epoch=0.ckpt", "last.ckpt"]
    assert steps(tmp_path / "last.ckpt") == 20
    assert callback.last_model_path == str(tmp_path.resolve() / "last.ckpt")
    assert Path(callback.best_model_path).name == "epoch=0.ckpt"


LASTS = {
    "at every due trigger": ({"every_n_train_steps": 3}, {"max_epochs": 1}, [3, 4]),
    "at each epoch's end": ({"every_n_epochs": 2}, {"max_epochs": 3}, [4, 8, 12]),
    "at fit's end in mid-epoch": ({"every_n_train_steps": 4}, {"max_steps": 6}, [4, 6]),
    "with nothing else due": ({"every_n_epochs": 0}, {"max_epochs": 2}, [4, 8]),
}


@pytest.mark.parametrize(("flags", "limits", "moved"), LASTS.values(), ids=LASTS)
def test_last_moves(flags, limits, moved, tmp_path):
    """At the steps that the docs name, and at no other."""
    seen = []

    class Watcher(L.Callback):
        def look(self, trainer, *_):
            trainer.saving.settle()
            if (tmp_path / "last.ckpt").exists() and (found := steps(tmp_path / "last.ckpt")) not in seen:
                seen.append(found)

        on_train_batch_start = look
        on_train_epoch_start = look
        on_fit_end = look

    fit(tmp_path, Watcher(), ModelCheckpoint(tmp_path, save_last=True, **flags), **limits)
    assert seen == moved


@pytest.mark.parametrize("flag", [None, False])
def test_there_is_no_last_unless_it_is_asked_for(flag, tmp_path):
    """None and False are never."""
    callback = ModelCheckpoint(tmp_path, save_last=flag)
    fit(tmp_path, callback)
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]
    assert callback.last_model_path == ""


def test_the_name_of_last_is_a_constant_that_may_be_set(tmp_path):
    """On the object or on a class; a template too."""
    callback = ModelCheckpoint(tmp_path, save_top_k=0, save_last=True)
    callback.CHECKPOINT_NAME_LAST = "{epoch}-newest"
    fit(tmp_path, callback)
    assert names(tmp_path) == ["epoch=1-newest.ckpt"]
    assert callback.last_model_path == str(tmp_path.resolve() / "epoch=1-newest.ckpt")
