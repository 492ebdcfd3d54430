"""``ModelCheckpoint``: attributes, subclasses, several callbacks and folders, none at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.policy.plan import Policy
from holdfast.policy.when import every
from holdfast.policy.where import Where
from holdfast.policy.which import best, last
from small_fits import Net, falling, fit, loaders, make_trainer, names, read, writes


def test_paths_always_open_and_are_the_same_after_fit(tmp_path):
    """Read at every hook: each is empty, or a file that opens; and the end of fit changes none."""
    callback = ModelCheckpoint(
        tmp_path, monitor="val_loss", save_top_k=2, save_last=True, every_n_train_steps=1, save_on_train_epoch_end=None
    )
    told = ("best_model_path", "last_model_path", "kth_best_model_path")
    before = {}

    class Reader(L.Callback):
        def look(self, trainer, *_):
            for path in [*(getattr(callback, name) for name in told), *callback.best_k_models]:
                assert path == "" or read(path)["global_step"] > 0
            before.update({name: getattr(callback, name) for name in told})

        on_train_start = look
        on_train_batch_start = look
        on_train_batch_end = look
        on_validation_end = look
        on_train_epoch_end = look
        on_fit_end = look

    fit(tmp_path, Reader(), callback, net=Net(falling), max_epochs=3)
    assert before == {name: getattr(callback, name) for name in told}
    assert all(before.values())


def test_attributes_are_empty_before_anything_is_saved():
    """No folder, no files, no error."""
    callback = ModelCheckpoint(monitor="val_loss", save_last=True)
    assert (callback.best_model_path, callback.last_model_path, callback.kth_best_model_path) == ("", "", "")
    assert (callback.best_model_score, callback.current_score, callback.kth_value) == (None, None, None)
    assert callback.best_k_models == {}


def test_to_yaml_lists_the_best(tmp_path):
    """Paths to scores, by default beside the files."""
    callback = ModelCheckpoint(tmp_path, monitor="val_loss")
    fit(tmp_path, callback, net=Net(falling))
    callback.to_yaml()
    text = (tmp_path / "best_k_models.yaml").read_text()
    assert Path(callback.best_model_path).name in text
    assert text.rstrip().endswith(repr(torch.tensor(0.9).item()))


# Subclasses


class OwnName(ModelCheckpoint):
    def format_checkpoint_name(self, metrics, filename=None, ver=None, prefix=None):
        return super().format_checkpoint_name(metrics, f"mine-{int(metrics['step'])}", ver, prefix)


def test_an_overridden_name_is_the_files_name(tmp_path):
    """``format_checkpoint_name`` names the files, and attributes find them by it."""
    callback = OwnName(tmp_path, save_top_k=-1)
    fit(tmp_path, callback)
    assert names(tmp_path) == ["mine-4.ckpt", "mine-8.ckpt"]
    assert Path(callback.best_model_path).name == "mine-8.ckpt"


class Formats(ModelCheckpoint):
    """Formats a metric of its template by itself."""

    def format_checkpoint_name(self, metrics, filename=None, ver=None, prefix=None):
        return super().format_checkpoint_name(metrics, f"mine-{metrics['step']}-{metrics['val_loss']:.1f}", ver, prefix)


def test_an_overridden_name_gets_a_number_for_what_was_not_measured(tmp_path):
    """Between two validations there is none, and a subclass formats numbers."""
    callback = Formats(tmp_path, "{step}-{val_loss}", every_n_train_steps=3, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=1, net=Net(lambda epoch, step: 0.5))
    assert names(tmp_path) == ["mine-3-nan.ckpt"]


def test_an_overridden_file_exists_makes_names_taken(tmp_path):
    """What the subclass calls taken is not used."""

    class Careful(ModelCheckpoint):
        def file_exists(self, filepath, trainer):
            assert isinstance(trainer, L.Trainer)
            return Path(filepath).name == "epoch=1-step=8.ckpt" or super().file_exists(filepath, trainer)

    fit(tmp_path, Careful(tmp_path))
    assert names(tmp_path) == ["epoch=1-step=8-v1.ckpt"]


def test_constants_of_a_subclass_are_used(tmp_path):
    """Its extension, its joints, its alias."""

    class Other(ModelCheckpoint):
        CHECKPOINT_JOIN_CHAR = "_"
        CHECKPOINT_EQUALS_CHAR = ":"
        CHECKPOINT_NAME_LAST = "newest"
        FILE_EXTENSION = ".state"
        STARTING_VERSION = 5

    callback = Other(tmp_path, "{epoch}", every_n_train_steps=2, save_top_k=-1, save_last=True)
    fit(tmp_path, callback, max_epochs=1)
    assert sorted(p.name for p in tmp_path.glob("*.state")) == ["epoch:0.state", "epoch:0_v5.state", "newest.state"]
    assert Path(callback.best_model_path).name == "epoch:0_v5.state"


def test_an_overridden_hook_that_does_not_call_ours_saves_nothing_then(tmp_path):
    """The hooks are thin, and real."""

    class Deaf(ModelCheckpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                super().on_train_epoch_end(trainer, pl_module)

    fit(tmp_path, Deaf(tmp_path, save_top_k=-1), max_epochs=3)
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]


def test_a_policy_takes_the_place_of_the_flags(tmp_path):
    """All four answers are its own; attributes follow it."""
    mine = Policy("mine", every(steps=2), best(1, "val_loss", "max") | last(1), where=Where("{step}", alias="now"))
    callback = ModelCheckpoint(tmp_path, policy=mine)
    fit(tmp_path, callback, net=Net(falling))
    assert names(tmp_path) == ["now.ckpt", "step=4.ckpt", "step=8.ckpt"]
    assert Path(callback.best_model_path).name == "step=4.ckpt"
    assert callback.best_model_score == torch.tensor(1.0)
    assert Path(callback.last_model_path).name == "now.ckpt"


# Several callbacks and folders


def test_callbacks_in_one_folder_share_one_write_a_step(tmp_path):
    """Two names, one file; each callback knows its own."""
    one = ModelCheckpoint(tmp_path, "a-{step}", save_top_k=-1)
    two = ModelCheckpoint(tmp_path, "b-{step}", monitor="val_loss")
    fit(tmp_path, one, two, net=Net(falling), max_epochs=2)
    assert names(tmp_path) == ["a-step=4.ckpt", "a-step=8.ckpt", "b-step=8.ckpt"]
    assert (tmp_path / "a-step=8.ckpt").samefile(tmp_path / "b-step=8.ckpt")
    assert writes(tmp_path) == 2
    assert Path(one.best_model_path).name == "a-step=8.ckpt"
    assert Path(two.best_model_path).name == "b-step=8.ckpt"


def test_callbacks_in_several_folders_save_in_their_own(tmp_path):
    """And each callback knows its own."""
    one, two = ModelCheckpoint(tmp_path / "a"), ModelCheckpoint(tmp_path / "b", every_n_train_steps=3)
    fit(tmp_path, one, two, max_epochs=1)
    assert names(tmp_path) == ["a/epoch=0-step=4.ckpt", "b/epoch=0-step=3.ckpt"]
    assert Path(one.best_model_path).parent.name == "a"
    assert Path(two.best_model_path).parent.name == "b"


def test_a_folder_given_late_is_used(tmp_path):
    """In ``setup``, before anything is saved."""
    callback = ModelCheckpoint()

    class Places(L.Callback):
        def setup(self, trainer, pl_module, stage):
            callback.dirpath = str(tmp_path / "late")

    fit(tmp_path, Places(), callback, max_epochs=1)
    assert names(tmp_path) == ["late/epoch=0-step=4.ckpt"]


def test_checkpoints_are_saved_with_no_callback_given(tmp_path):
    """Beside the logs, or under the root without any."""
    fit(tmp_path, max_epochs=1)
    assert names(tmp_path) == ["checkpoints/epoch=0-step=4.ckpt"]
    trainer = fit(tmp_path / "logged", max_epochs=1, logger=True)
    assert names(tmp_path / "logged") == ["lightning_logs/version_0/checkpoints/epoch=0-step=4.ckpt"]
    assert trainer.checkpoint_callback.dirpath == str(
        (tmp_path / "logged/lightning_logs/version_0/checkpoints").resolve()
    )


def test_nothing_is_saved_with_checkpointing_off(tmp_path):
    """And ``save_last`` or a callback with it is refused."""
    trainer = fit(tmp_path, enable_checkpointing=False)
    assert names(tmp_path) == []
    assert trainer.checkpoint_callback is None
    with pytest.raises(ConfigError, match="enable_checkpointing"):
        make_trainer(tmp_path, ModelCheckpoint(), enable_checkpointing=False)


def test_a_fast_dev_run_writes_nothing(tmp_path):
    """Whatever the callbacks want."""
    callback = ModelCheckpoint(tmp_path / "a", save_last=True, every_n_train_steps=1)
    fit(tmp_path, callback, fast_dev_run=True, logger=True)
    assert list(tmp_path.iterdir()) == []
    assert callback.best_model_path == ""


def test_a_validation_outside_of_fit_saves_nothing(tmp_path):
    """Before any fit, and after one."""
    callback = ModelCheckpoint(tmp_path, save_on_train_epoch_end=False, save_top_k=-1)
    trainer = make_trainer(tmp_path, callback, max_epochs=1)
    _, validation = loaders()
    net = Net()
    trainer.validate(net, validation)
    assert names(tmp_path) == []
    trainer.fit(net, *loaders())
    trainer.validate(net, validation)
    assert names(tmp_path) == ["epoch=0-step=4.ckpt"]
