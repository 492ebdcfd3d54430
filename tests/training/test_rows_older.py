"""Older spellings: accepted, with one warning that names the new one."""

from __future__ import annotations

import warnings

import pytest

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from small_fits import fit, names, read


def old(words):
    return pytest.warns(DeprecationWarning, match=words)


@pytest.mark.parametrize("name", ["every_n_val_epochs", "period"])
def test_old_names_of_every_n_epochs(name, tmp_path):
    """The interval in epochs."""
    with old(f"{name}.*every_n_epochs"):
        callback = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, **{name: 2})
    fit(tmp_path, callback, max_epochs=4)
    assert names(tmp_path) == ["epoch=1.ckpt", "epoch=3.ckpt"]


def test_the_base_module_of_callbacks():
    """``callbacks.base.Callback`` is ``callbacks.Callback``."""
    from holdfast.callbacks import base

    with old("holdfast.callbacks"):
        assert base.Callback is L.Callback


class Older(L.Callback):
    """Its state goes through the hooks, as in Lightning 1.5."""

    def __init__(self):
        self.given = None

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        return {"step": trainer.global_step}

    def on_load_checkpoint(self, trainer, pl_module, callback_state):
        self.given = callback_state


def test_hooks_that_return_and_take_a_state(tmp_path):
    """What is returned is kept under the callback's key, and given back by the parameter's name."""
    with old("state_dict instead") as first:
        fit(tmp_path, Older(), ModelCheckpoint(tmp_path), max_epochs=1)
    again = Older()
    with old("load_state_dict instead") as second:
        fit(tmp_path, again, ModelCheckpoint(tmp_path), max_epochs=3, ckpt_path="last")
    assert (len(first), len(second)) == (1, 1)
    assert again.given == {"step": 4}
    assert read(tmp_path / "epoch=2-step=12.ckpt")["callbacks"]["Older"] == {"step": 12}


def test_a_state_that_is_not_there_is_not_given(tmp_path):
    """The hook is not called with nothing."""
    fit(tmp_path, ModelCheckpoint(tmp_path), max_epochs=1)
    late = Older()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fit(tmp_path, late, ModelCheckpoint(tmp_path), max_epochs=2, ckpt_path="last")
    assert late.given is None


def test_hooks_of_today_are_not_taken_for_old(tmp_path):
    """They edit the dictionary, and may return it."""
    seen = []

    class Today(L.Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            checkpoint["mine"] = 1
            return checkpoint

        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            seen.append(checkpoint["mine"])

    fit(tmp_path, Today(), ModelCheckpoint(tmp_path), max_epochs=1)
    fit(tmp_path, Today(), ModelCheckpoint(tmp_path), max_epochs=2, ckpt_path="last")
    assert seen == [1]
