"""Pains of users, as they meet them: work that is lost, and files that are damaged."""

from __future__ import annotations

import errno
import math
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

import holdfast as L
from faults import Call, refusing, watching
from holdfast.callbacks import ModelCheckpoint
from holdfast.engine.engine import SaveFailedWarning
from holdfast.errors import Corrupt, SaveFailed
from small_fits import BATCHES, Net, fit, loaders, names, read, rising, steps
from two_optimizers import TwoOptimizers


def flip(path, key, of=lambda checkpoint: checkpoint["state_dict"]):
    """One bit of a tensor, of the model unless told otherwise, is another, as a disk or a network makes it."""
    data = bytearray(path.read_bytes())
    data[data.index(of(read(path))[key].numpy().tobytes())] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_pain_1_last_is_the_last_state_and_no_copy_of_the_best(tmp_path):
    """A metric that only gets worse: the best is of the first epoch, ``last.ckpt`` of the end."""
    callback = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    trainer = fit(tmp_path, callback, net=Net(rising), max_epochs=5)
    assert Path(callback.best_model_path).name == "epoch=0-step=4.ckpt"
    assert steps(tmp_path / "last.ckpt") == trainer.global_step == 20


def test_pain_3_no_file_is_deleted_before_its_replacement_is_there(tmp_path):
    """The best one alone, replaced at every step: the folder never stands empty, and no file is left over."""
    best = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=1)
    with watching(("rename", "link", "unlink")) as calls:
        fit(tmp_path, best, max_epochs=2)
    there, least = set(), []
    for call in calls.done:
        if str(call.target).endswith(".ckpt"):
            (there.discard if call.function == "unlink" else there.add)(Path(call.target).name)
            least.append(len(there))
    assert len(least) > 10
    assert min(least) == 1
    assert names(tmp_path) == sorted(there) == ["epoch=1-step=8.ckpt"]


def test_pain_5_a_save_is_staged_in_its_own_folder_and_synced_before_it_has_its_name(tmp_path, monkeypatch):
    """Nothing goes through ``TMPDIR``, which may be another file system; then file, name, folder, in this order."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    folder = (tmp_path / "run").resolve()
    with watching(("rename", "link", "fsync")) as calls:
        fit(tmp_path, ModelCheckpoint(folder), max_epochs=1)
    path = folder / "epoch=0-step=4.ckpt"
    moved = [call for call in calls.done if call.function != "fsync"]
    assert [call for call in moved if not str(call.target).startswith(f"{folder}/")] == []
    (placed,) = [call for call in moved if call.target == str(path)]
    assert calls.in_order(Call("fsync", path.stat().st_ino), placed, Call("fsync", folder.stat().st_ino))


def test_pain_6a_a_crash_in_validation_loses_nothing(tmp_path):
    """The epoch that was trained is on disk, and is not trained again."""

    def stumble(hook, module):
        if hook == "validation_step":
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, ModelCheckpoint(tmp_path), net=Net(stumble=stumble))
    assert names(tmp_path) == ["rescue-epoch=0-step=4.ckpt"]
    net = Net()
    fit(tmp_path, ModelCheckpoint(tmp_path), net=net, ckpt_path="last")
    assert net.seen == [(1, batch) for batch in range(BATCHES)]


def test_pain_6b_a_signal_saves_without_being_asked_to(server, tmp_path):
    """With default flags: SIGTERM, as a machine sends it that goes."""
    with server.start("saving_child:main", str(tmp_path), "mid-epoch", int(signal.SIGTERM), False) as child:
        assert child.wait() == 128 + signal.SIGTERM
    assert steps(tmp_path / "rescue-epoch=1-step=6.ckpt") == 6


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"every_n_train_steps": 1000}, "epoch=3-step=16.ckpt"),
        ({"every_n_train_steps": 6, "save_last": True}, "last.ckpt"),
    ],
    ids=["trigger never came", "between two triggers"],
)
def test_pain_6c_a_run_that_ends_well_has_saved_its_end(flags, name, tmp_path):
    """Whatever the trigger, the last step is on disk."""
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path, **flags), max_epochs=4)
    assert steps(tmp_path / name) == trainer.global_step == 16


def test_pain_8_nan_never_ranks(tmp_path):
    """A run that diverges keeps the good ones, and its best has a score."""
    values = [math.nan, 0.5, math.nan, 0.7, math.nan]
    callback = ModelCheckpoint(tmp_path, "{epoch}-{val_loss:.1f}", monitor="val_loss", save_top_k=3, save_last=True)
    fit(tmp_path, callback, net=Net(lambda epoch, step: values[epoch]), max_epochs=5)
    assert names(tmp_path) == ["epoch=1-val_loss=0.5.ckpt", "epoch=3-val_loss=0.7.ckpt", "last.ckpt"]
    assert callback.best_model_score == 0.5


def test_pain_8_weights_that_are_not_finite_are_not_the_best(tmp_path):
    """The score is fine and the weights are not: what is best is what can be used."""

    class Diverges(Net):
        def on_train_epoch_end(self):
            if self.current_epoch == 1:
                self.layers[0].weight.data.fill_(math.inf)

    callback = ModelCheckpoint(tmp_path, "{epoch}", monitor="score", save_top_k=2)

    class Scores(Diverges):
        def validation_step(self, batch, batch_idx):
            self.log("score", 1.0 - self.current_epoch / 10)

    fit(tmp_path, callback, net=Scores(), max_epochs=2)
    assert Path(callback.best_model_path).name == "epoch=0.ckpt"


def test_pain_16_a_save_that_was_not_allowed_is_never_silent(tmp_path):
    """One that fails in the background is told with its cause and tried again; at the end of the run it raises."""
    with (
        refusing(posix_fallocate=errno.EACCES),
        pytest.warns(SaveFailedWarning, match="Permission denied"),
        pytest.raises(SaveFailed, match="Permission denied"),
    ):
        fit(tmp_path, ModelCheckpoint(tmp_path))
    assert names(tmp_path) == []


@pytest.mark.parametrize("flags", [{}, {"every_n_train_steps": 1}], ids=["after validation", "at every step"])
def test_pain_16_the_warning_points_to_the_call_of_fit(flags, tmp_path):
    """Wherever in a fit it is noticed: a line of Holdfast's own would tell nobody anything."""
    with refusing(posix_fallocate=errno.EACCES), pytest.warns(SaveFailedWarning) as told, pytest.raises(SaveFailed):
        fit(tmp_path, ModelCheckpoint(tmp_path, **flags))
    assert {warning.filename for warning in told} == {fit.__code__.co_filename}


def test_pain_17_going_on_walks_back_over_half_a_checkpoint(tmp_path, caplog):
    """The newest file is cut short: ``"auto"`` takes the one before and says what that costs; no human is needed."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=-1), max_epochs=3)
    newest = tmp_path / "epoch=2-step=12.ckpt"
    half = newest.read_bytes()[: newest.stat().st_size // 2]
    newest.unlink()
    newest.write_bytes(half)
    net = Net()
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=-1), net=net, max_epochs=4, ckpt_path="auto")
    assert net.seen[0] == (2, 0)
    assert "4 steps" in caplog.text


def test_pain_18_one_flipped_bit_is_found_wherever_it_is_loaded(tmp_path):
    """Going on, testing, and taking the weights all refuse the file, and name what is good."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=-1))
    path = tmp_path / "epoch=1-step=8.ckpt"
    flip(path, "layers.0.weight")
    for verb in (
        lambda: fit(tmp_path / "b", ckpt_path=path),
        lambda: L.Trainer(logger=False, accelerator="cpu").validate(Net(), loaders()[1], ckpt_path=path),
        lambda: Net.load_from_checkpoint(path),
    ):
        with pytest.raises(Corrupt, match=r"epoch=0-step=4\.ckpt"):
            verb()


def test_pain_18_what_takes_the_weights_alone_verifies_those_alone(tmp_path):
    """A bit of the optimizer's state: nobody goes on from that file, and its weights can be had."""
    fit(tmp_path, ModelCheckpoint(tmp_path))
    path = tmp_path / "epoch=1-step=8.ckpt"
    weight = read(path)["state_dict"]["layers.0.weight"]
    flip(path, "exp_avg", of=lambda checkpoint: checkpoint["optimizer_states"][0]["state"][0])
    with pytest.raises(Corrupt):
        fit(tmp_path / "b", ckpt_path=path)
    assert Net.load_from_checkpoint(path).layers[0].weight.equal(weight)


def test_pain_20_a_file_that_somebody_has_deleted_stops_nothing(tmp_path):
    """The rules would remove it next; it is gone already, and the run goes on."""

    class Cleans(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.saving.settle()
            if trainer.current_epoch == 1:
                (tmp_path / "epoch=0-step=4.ckpt").unlink()

    fit(tmp_path, Cleans(), ModelCheckpoint(tmp_path), max_epochs=3)
    assert names(tmp_path) == ["epoch=2-step=12.ckpt"]


def test_pain_20_a_delete_that_fails_is_a_warning(tmp_path, monkeypatch):
    """The new checkpoint is there; the old one stays, and that is said."""
    old, remove = tmp_path.resolve() / "epoch=0-step=4.ckpt", os.unlink

    def unlink(path, **named):
        if os.fspath(path) == str(old):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove(path, **named)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.warns(SaveFailedWarning, match="was saved, and then.*Permission denied"):
        fit(tmp_path, ModelCheckpoint(tmp_path))
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]


def test_pain_21_time_triggers_under_manual_optimisation_too(tmp_path):
    """An interval of no time is every batch, as with automatic optimisation."""
    callback = ModelCheckpoint(tmp_path, train_time_interval=timedelta(0), save_top_k=-1)
    fit(tmp_path, callback, net=TwoOptimizers(), max_epochs=1)
    assert names(tmp_path) == [f"epoch=0-step={2 * batch}.ckpt" for batch in range(1, BATCHES + 1)]
