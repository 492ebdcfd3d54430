"""Older spellings of ``Trainer``: accepted, with one warning that names the new one."""

from __future__ import annotations

import pytest

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from small_fits import Net, fit, loaders, make_trainer, names


def old(words):
    return pytest.warns(DeprecationWarning, match=words)


def test_checkpoint_callback_switches_saving_off(tmp_path):
    """``checkpoint_callback=False`` is ``enable_checkpointing=False``."""
    with old("enable_checkpointing"):
        trainer = make_trainer(tmp_path, checkpoint_callback=False, max_epochs=1)
    trainer.fit(Net(), *loaders())
    assert names(tmp_path) == []


def test_checkpoint_callback_may_be_the_callback(tmp_path):
    """As it was before it was a switch."""
    callback = ModelCheckpoint(tmp_path / "a")
    with old("callbacks="):
        trainer = make_trainer(tmp_path, checkpoint_callback=callback)
    assert trainer.checkpoint_callback is callback


def test_both_names_of_one_switch_contradict(tmp_path):
    """One of them is enough."""
    with old("enable_checkpointing"), pytest.raises(ConfigError, match="one thing"):
        make_trainer(tmp_path, checkpoint_callback=False, enable_checkpointing=True)


def test_resume_from_checkpoint_is_what_fit_goes_on_from(tmp_path):
    """Where ``fit`` is given nothing else."""
    fit(tmp_path, ModelCheckpoint(tmp_path), max_epochs=1)
    with old(r"fit\(ckpt_path"):
        trainer = make_trainer(tmp_path, max_epochs=2, resume_from_checkpoint=tmp_path / "epoch=0-step=4.ckpt")
    net = Net()
    trainer.fit(net, *loaders())
    assert (trainer.global_step, len(net.seen)) == (8, 4)


def test_weights_save_path_goes_before_the_root(tmp_path):
    """Checkpoints are there, logs are not; with a logger below its name and version."""
    for logger, folder in ((False, "w/checkpoints"), (True, "w/lightning_logs/version_0/checkpoints")):
        with old("dirpath"):
            trainer = make_trainer(tmp_path, max_epochs=1, logger=logger, weights_save_path=tmp_path / "w")
        trainer.fit(Net(), *loaders())
        assert f"{folder}/epoch=0-step=4.ckpt" in names(tmp_path)
    assert not (tmp_path / "w/lightning_logs/version_0/metrics.csv").exists()


def test_accelerator_ddp_is_the_strategy(tmp_path):
    """And contradicts another strategy."""
    with old("strategy='ddp'"):
        trainer = make_trainer(tmp_path, accelerator="ddp", devices=1)
    with old("strategy='ddp'"):
        assert type(trainer.strategy) is type(make_trainer(tmp_path, accelerator="ddp", devices=1).strategy)
    with old("strategy='ddp'"), pytest.raises(ConfigError, match="contradict"):
        make_trainer(tmp_path, accelerator="ddp", strategy="single_device")


def test_hooks_of_before_are_called_once_each_in_their_place(tmp_path):
    """``on_init_end`` when the trainer is made; ``on_pretrain_routine_start`` between fit's start and training's."""
    calls = []

    class Older(L.Callback):
        def on_init_start(self, trainer):
            calls.append("on_init_start")

        def on_init_end(self, trainer):
            calls.append("on_init_end")
            super().on_init_end(trainer)

        def on_fit_start(self, trainer, pl_module):
            calls.append("on_fit_start")

        def on_pretrain_routine_start(self, trainer, pl_module):
            calls.append("on_pretrain_routine_start")

        def on_pretrain_routine_end(self, trainer, pl_module):
            calls.append("on_pretrain_routine_end")

        def on_train_start(self, trainer, pl_module):
            calls.append("on_train_start")

    with old("override setup instead") as first:
        trainer = make_trainer(tmp_path, Older(), max_epochs=1)
    assert calls == ["on_init_start", "on_init_end"]
    with old("override on_fit_start instead") as second:
        trainer.fit(Net(), *loaders())
    assert calls[2:] == [
        "on_fit_start", "on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start",
    ]  # fmt: skip
    assert (len(first), len(second)) == (2, 2)
    assert {warning.filename for warning in [*first, *second]} == {__file__}  # elsewhere Python would not show it
    trainer.fit(Net(), *loaders())


def test_an_argument_that_never_was_is_an_error(tmp_path):
    """Old names are a closed list."""
    with pytest.raises(TypeError, match="checkpoint_calback"):
        make_trainer(tmp_path, checkpoint_calback=False)


def test_an_argument_that_is_no_more_is_an_error_that_says_what_to_use(tmp_path):
    """All of them at once."""
    with pytest.raises(TypeError) as caught:
        L.Trainer(default_root_dir=tmp_path, gpus=1, weights_summary=None)
    assert str(caught.value) == (
        "Trainer takes no gpus= (now: accelerator='gpu', devices=), no weights_summary= (now: enable_model_summary=)."
    )
