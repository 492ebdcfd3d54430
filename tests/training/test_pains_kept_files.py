"""Pains of users, as they meet them: the wrong file kept, or under a name that says something wrong."""

from __future__ import annotations

import pytest

from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from small_fits import Net, fit, names, steps
from two_optimizers import TwoOptimizers


def test_pain_7_a_name_says_the_metric_of_its_own_step(tmp_path):
    """Steps trigger between validations; what is named and ranked is the step that was validated."""
    callback = ModelCheckpoint(
        tmp_path, "{step}-{val_loss:.0f}", monitor="val_loss", mode="max", every_n_train_steps=3, save_top_k=2
    )
    fit(tmp_path, callback, net=Net(lambda epoch, step: float(step)), max_epochs=3)
    assert names(tmp_path) == ["step=12-val_loss=12.ckpt", "step=8-val_loss=8.ckpt"]
    assert [steps(tmp_path / name) for name in names(tmp_path)] == [12, 8]


@pytest.mark.parametrize(
    ("often", "every", "saved"),
    [(1, 5, [6, 10, 16]), (2, 5, [6, 12, 15, 21]), (3, 2, [4, 8, 12, 16, 20, 24, 28, 32])],
    ids=["two a batch", "three a batch", "more than one multiple a batch"],
)
def test_pain_34_a_trigger_is_crossed_though_several_optimizers_step(often, every, saved, tmp_path):
    """Saved at the first batch end at or past each multiple of steps, of all optimizers; once a batch at most."""
    callback = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=every, save_top_k=-1)
    fit(tmp_path, callback, net=TwoOptimizers(often))
    assert sorted(steps(tmp_path / name) for name in names(tmp_path)) == saved


def test_pain_34_accumulation_does_not_halve_the_saves(tmp_path):
    """Steps count, not batches: of four batches an epoch, each two make a step, and each step is saved once."""
    callback = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, callback, accumulate_grad_batches=2)
    assert names(tmp_path) == [f"step={step}.ckpt" for step in (1, 2, 3, 4)]


def test_pain_51_a_typo_in_a_file_name_is_an_error_and_no_zero(tmp_path):
    """After the first validation, with all that is known; no file is named by a metric that was never measured."""
    net = Net()
    with pytest.raises(ConfigError, match="'val_los', which was never logged") as raised:
        fit(tmp_path, ModelCheckpoint(tmp_path, "{epoch}-{val_los:.2f}"), net=net, max_epochs=9)
    assert "val_loss" in str(raised.value)
    assert {epoch for epoch, _ in net.seen} == {0}
    assert [name for name in names(tmp_path) if "val_los" in name] == []
