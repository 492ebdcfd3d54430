"""``ModelCheckpoint`` as its API page says (Lightning 1.5), and as "Customize checkpointing behavior" (2.x) adds."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from small_fits import Net, falling, fit, loaders, make_trainer, names, read, rising, steps

ORDER = (
    "dirpath", "filename", "monitor", "verbose", "save_last", "save_top_k", "save_weights_only", "mode",
    "auto_insert_metric_name", "every_n_train_steps", "train_time_interval", "every_n_epochs",
    "save_on_train_epoch_end", "every_n_val_epochs",
)  # fmt: skip


def test_positions_are_those_of_the_page_and_later_flags_have_names_only():
    """A script that gives them by position means the same here."""
    parameters = inspect.signature(ModelCheckpoint).parameters
    assert tuple(n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD) == ORDER
    later = {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert later == {"period", "save_on_exception", "enable_version_counter", "policy"}


def test_defaults_are_those_of_the_page():
    """Each of them."""
    defaults = {n: p.default for n, p in inspect.signature(ModelCheckpoint).parameters.items() if n in ORDER}
    others = {"verbose": False, "save_top_k": 1, "save_weights_only": False, "mode": "min"}
    assert defaults == {**dict.fromkeys(ORDER), **others, "auto_insert_metric_name": True}


def test_what_was_given_can_be_read(tmp_path):
    """Flags are attributes; a folder is absolute at once."""
    interval = timedelta(minutes=1)
    made = ModelCheckpoint(tmp_path, "{step}", "acc", True, True, 2, True, "max", False, None, interval)
    assert (made.dirpath, made.filename, made.monitor, made.verbose) == (str(tmp_path.resolve()), "{step}", "acc", True)
    assert (made.save_last, made.save_top_k, made.save_weights_only, made.mode) == (True, 2, True, "max")
    assert (made.auto_insert_metric_name, made.train_time_interval) == (False, interval)
    assert ModelCheckpoint().every_n_epochs == 1
    assert ModelCheckpoint(save_top_k=None).save_top_k == 1
    assert ModelCheckpoint(every_n_train_steps=5).every_n_epochs is None


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    """As a shell would."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ModelCheckpoint("~/a").dirpath == str(tmp_path.resolve() / "a")


def test_constants_are_those_of_the_page():
    """They can be read from the class."""
    assert ModelCheckpoint.FILE_EXTENSION == ".ckpt"
    assert ModelCheckpoint.CHECKPOINT_NAME_LAST == "last"
    assert (ModelCheckpoint.CHECKPOINT_JOIN_CHAR, ModelCheckpoint.CHECKPOINT_EQUALS_CHAR) == ("-", "=")
    assert ModelCheckpoint.STARTING_VERSION == 1


@pytest.mark.parametrize("flags", [{"save_top_k": -2}, {"save_top_k": 3}, {"mode": "lowest"}])
def test_what_the_page_refuses_is_refused(flags):
    """A ConfigError, which is a ValueError."""
    with pytest.raises(ConfigError):
        ModelCheckpoint(**flags)
    assert issubclass(ConfigError, ValueError)


def test_the_example_of_two_triggers_saves_only_where_both_intervals_divide(tmp_path):
    """``every_n_epochs=2`` at validation, with a validation in every third epoch."""
    callback = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=2, save_on_train_epoch_end=False, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=7, check_val_every_n_epoch=3, limit_train_batches=1)
    assert names(tmp_path) == ["epoch=5.ckpt"]


def test_a_state_key_says_what_is_watched_and_when_as_the_peers_does():
    """The key under which readers look in ``checkpoint["callbacks"]``."""
    told = {
        "monitor": "a", "mode": "min", "every_n_train_steps": 3, "every_n_epochs": 0, "train_time_interval": None,
    }  # fmt: skip
    assert ModelCheckpoint(monitor="a", every_n_train_steps=3).state_key == f"ModelCheckpoint{told}"


# save_last


def test_save_last_link_writes_no_second_copy(tmp_path):
    """``"link"``: last.ckpt is another name of the newest file, and not a copy of it."""
    callback = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss", save_last="link")
    fit(tmp_path, callback, net=Net(falling), max_epochs=3)
    assert names(tmp_path) == ["epoch=2.ckpt", "last.ckpt"]
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "epoch=2.ckpt")
    fit(tmp_path, ModelCheckpoint(tmp_path, save_last="link"), max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert steps(tmp_path / "last.ckpt") == 16


def test_the_last_name_as_a_template_is_found_by_last(tmp_path):
    """``CHECKPOINT_NAME_LAST = "{epoch}-last"``, set on the object as the page does."""
    callback = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    callback.CHECKPOINT_NAME_LAST = "{epoch}-last"
    fit(tmp_path, callback, net=Net(rising), max_epochs=3)
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "epoch=2-last.ckpt"]
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path), net=Net(rising), max_epochs=4, ckpt_path="last")
    assert trainer.global_step == 16


# save_on_exception


def stumbling(hook, module):
    if hook == "training_step" and module.global_step == 6:
        raise RuntimeError("here")


def test_what_an_error_leaves_is_named_like_the_others_and_stays(tmp_path):
    """``save_on_exception``: no rescue beside it, and the next clean end leaves it."""
    callback = ModelCheckpoint(tmp_path, "mine-{step}", monitor="val_loss", save_on_exception=True)
    with pytest.raises(RuntimeError, match="here"):
        fit(tmp_path, callback, net=Net(falling, stumbling), max_epochs=3)
    assert names(tmp_path) == ["mine-step=4.ckpt", "mine-step=6.ckpt"]
    assert Path(callback.best_model_path).name == "mine-step=4.ckpt"
    again = ModelCheckpoint(tmp_path, "mine-{step}", monitor="val_loss", save_on_exception=True)
    fit(tmp_path, again, net=Net(falling), max_epochs=3, ckpt_path="last")
    assert names(tmp_path) == ["mine-step=12.ckpt", "mine-step=6.ckpt"]


def test_an_error_does_not_take_the_name_of_the_best(tmp_path):
    """A fixed name: what the error leaves gets a version, and the best keeps its file and its score."""
    callback = ModelCheckpoint(tmp_path, "best", monitor="val_loss", save_on_exception=True)
    with pytest.raises(RuntimeError, match="here"):
        fit(tmp_path, callback, net=Net(falling, stumbling), max_epochs=3)
    assert {name: steps(tmp_path / name) for name in names(tmp_path)} == {"best.ckpt": 4, "best-v1.ckpt": 6}
    assert Path(callback.best_model_path).name == "best.ckpt"


# enable_version_counter


def test_without_a_version_counter_the_newest_has_the_name(tmp_path):
    """What had it before goes where the rules let it go, and has a version where they keep it."""
    one = ModelCheckpoint(tmp_path / "one", "model", enable_version_counter=False)
    fit(tmp_path / "one", one, max_epochs=3)
    assert {name: steps(tmp_path / "one" / name) for name in names(tmp_path / "one")} == {"model.ckpt": 12}
    all_of_them = ModelCheckpoint(tmp_path / "all", "model", save_top_k=-1, enable_version_counter=False)
    fit(tmp_path / "all", all_of_them, max_epochs=3)
    found = {name: steps(tmp_path / "all" / name) for name in names(tmp_path / "all")}
    assert found == {"model.ckpt": 12, "model-v2.ckpt": 8, "model-v1.ckpt": 4}
    assert Path(all_of_them.best_model_path).name == "model.ckpt"


def test_without_a_version_counter_another_runs_file_is_not_lost(tmp_path):
    """A second run in the folder has the name; the first one's file has a version."""
    for seed in (1, 2):
        callback = ModelCheckpoint(tmp_path, "model", enable_version_counter=False)
        fit(tmp_path, callback, seed=seed, max_epochs=seed)
    assert {name: steps(tmp_path / name) for name in names(tmp_path)} == {"model.ckpt": 8, "model-v1.ckpt": 4}


# Methods and hooks


def test_save_checkpoint_saves_now_by_the_rules(tmp_path):
    """Called from a hook, at a step at which no trigger is due."""
    callback = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1)

    class Asks(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                callback.save_checkpoint(trainer)

    fit(tmp_path, Asks(), callback, max_epochs=1)
    assert names(tmp_path) == ["step=3.ckpt", "step=4.ckpt"]


def test_save_checkpoint_without_a_fit_or_a_trainer_that_saves_is_an_error(tmp_path):
    """A ValueError, as the page says; before, and after a fit."""
    callback = ModelCheckpoint(tmp_path)
    with pytest.raises(ValueError, match="which SimpleNamespace is not"):
        callback.save_checkpoint(SimpleNamespace(save_checkpoint=None))
    trainer = make_trainer(tmp_path, callback, max_epochs=1)
    with pytest.raises(ValueError, match="none runs"):
        callback.save_checkpoint(trainer)
    trainer.fit(Net(), *loaders())
    with pytest.raises(ValueError, match="none runs"):
        callback.save_checkpoint(trainer)


def test_every_hook_of_the_page_can_be_called_by_a_subclass(tmp_path):
    """``super()`` has each of them, and saves where it should."""
    called = []

    class Mine(ModelCheckpoint):
        def on_train_start(self, trainer, pl_module):
            called.append("on_train_start")
            super().on_train_start(trainer, pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            called.append("on_train_batch_end")
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

        def on_train_epoch_end(self, trainer, pl_module):
            called.append("on_train_epoch_end")
            super().on_train_epoch_end(trainer, pl_module)

        def on_validation_end(self, trainer, pl_module):
            called.append("on_validation_end")
            super().on_validation_end(trainer, pl_module)

        def on_train_end(self, trainer, pl_module):
            called.append("on_train_end")
            super().on_train_end(trainer, pl_module)

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            called.append("on_save_checkpoint")
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            called.append("on_load_checkpoint")
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    fit(tmp_path, Mine(tmp_path), max_epochs=1)
    fit(tmp_path, Mine(tmp_path), max_epochs=3, ckpt_path="last")
    assert names(tmp_path) == ["epoch=2-step=12.ckpt"]
    assert set(called) == {
        "on_train_start", "on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_end",
        "on_save_checkpoint", "on_load_checkpoint",
    }  # fmt: skip


def test_several_callbacks_that_differ_in_any_flag_of_the_page_save_side_by_side(tmp_path):
    """Monitor, mode, steps, epochs, time, and the hook; each has its own files."""
    flags = {
        "a": {"monitor": "val_loss"},
        "b": {"monitor": "val_loss", "mode": "max"},
        "c": {"every_n_train_steps": 3, "save_top_k": -1},
        "d": {"every_n_epochs": 2},
        "e": {"train_time_interval": timedelta(0)},
        "f": {"save_on_train_epoch_end": False},
    }
    fit(tmp_path, *(ModelCheckpoint(tmp_path, f"{n}-{{step}}", **f) for n, f in flags.items()), net=Net(falling))
    assert names(tmp_path) == [
        "a-step=8.ckpt", "b-step=4.ckpt", "c-step=3.ckpt", "c-step=6.ckpt", "d-step=8.ckpt", "e-step=8.ckpt",
        "f-step=8.ckpt",
    ]  # fmt: skip


def test_the_last_k_by_a_logged_global_step(tmp_path):
    """As "Customize checkpointing behavior" has it: last-K is the best by a metric that only grows."""

    class Counts(Net):
        def training_step(self, batch, batch_idx):
            self.log("global_step", float(self.global_step))
            return super().training_step(batch, batch_idx)

    callback = ModelCheckpoint(
        tmp_path, "sample-mnist-{epoch:02d}-{global_step}", monitor="global_step", mode="max", save_top_k=2
    )
    fit(tmp_path, callback, net=Counts(), max_epochs=4)
    assert names(tmp_path) == ["sample-mnist-epoch=02-global_step=11.ckpt", "sample-mnist-epoch=03-global_step=15.ckpt"]


def test_weights_only_files_load_as_weights(tmp_path):
    """``save_weights_only``: all that ``load_from_checkpoint`` needs, and no more."""
    callback = ModelCheckpoint(tmp_path, save_weights_only=True)
    trainer = fit(tmp_path, callback, max_epochs=1)
    loaded = Net.load_from_checkpoint(callback.best_model_path)
    trained = trainer.lightning_module.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in loaded.state_dict().items())
    assert "optimizer_states" not in read(callback.best_model_path)


def test_a_metric_that_says_more_is_better_is_warned_of_with_the_default_mode(caplog):
    """The default is "min", for an accuracy too; who means it is told what it means."""
    ModelCheckpoint(monitor="val_acc")
    assert "keeps the lowest" in caplog.text
    caplog.clear()
    ModelCheckpoint(monitor="val_acc", mode="max")
    ModelCheckpoint(monitor="val_loss")
    assert caplog.text == ""
