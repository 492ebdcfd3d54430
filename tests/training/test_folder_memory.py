"""The folder is the memory: rules change, folders move, runs and callbacks share one, and nothing is forgotten."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.catalog.verify import read_manifest
from holdfast.policy.plan import Policy
from holdfast.policy.when import every
from holdfast.policy.where import Where
from holdfast.policy.which import best, last
from holdfast.store import LocalStore
from small_fits import Net, facts, falling, fit, names, read, rising, steps, writes


def scripted(*values):
    """A network whose validation loss is these, epoch by epoch."""
    return Net(lambda epoch, step: values[epoch])


def ranked(folder, **flags):
    return ModelCheckpoint(folder, **{"filename": "{epoch}", "monitor": "val_loss", "save_top_k": 2, **flags})


# Retention


def test_pain_4_a_second_run_deletes_nothing_of_the_first(tmp_path):
    """The same script again, in the same folder: the first one's best stay, whatever the second one keeps."""
    fit(tmp_path, ranked(tmp_path), net=scripted(0.1, 0.2, 0.3), max_epochs=3)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    fit(tmp_path, ranked(tmp_path), net=scripted(0.5, 0.4, 0.3, 0.2), max_epochs=4, seed=2)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert names(tmp_path) == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "epoch=3.ckpt"]


def test_pain_4_the_checkpoint_gone_on_from_is_not_deleted_before_it_is_replaced(tmp_path):
    """In its own folder until two newer ones are durable, from another folder never."""
    fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a"), max_epochs=1)
    source = tmp_path / "a/epoch=0-step=4.ckpt"
    there = []

    class Looks(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.saving.settle()
            there.append(source.exists())

    fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b"), ckpt_path=source, max_epochs=4)
    assert source.exists()
    fit(tmp_path / "a", Looks(), ModelCheckpoint(tmp_path / "a"), ckpt_path=source, max_epochs=4)
    assert there == [True, True, True]
    assert names(tmp_path / "a") == ["epoch=3-step=16.ckpt"]


CHANGES = {
    "another trigger": {"every_n_epochs": 2},
    "another clock": {"every_n_train_steps": 4},
    "another name": {"filename": "{step}-{val_loss:.1f}"},
    "more of them": {"save_top_k": 3},
    "last as well": {"save_last": True},
    "at validation": {"save_on_train_epoch_end": False},
}


@pytest.mark.parametrize("flags", CHANGES.values(), ids=CHANGES)
def test_pain_11_changed_flags_do_not_forget_the_best(flags, tmp_path):
    """After going on with others, the best is still the one of before, and a worse one does not take its place."""
    fit(tmp_path, ranked(tmp_path), net=scripted(0.1, 0.6), max_epochs=2)
    callback = ranked(tmp_path, **flags)
    fit(tmp_path, callback, net=scripted(0.1, 0.6, 0.7, 0.5), max_epochs=4, ckpt_path="last")
    assert callback.best_model_path == str(tmp_path.resolve() / "epoch=0.ckpt")
    assert callback.best_model_score == torch.tensor(0.1)
    assert len(callback.best_k_models) == callback.save_top_k
    assert callback.kth_value == torch.tensor(0.6 if callback.save_top_k == 3 else 0.5)


def test_pain_11_fewer_of_them_are_the_best_of_all(tmp_path):
    """Going on with ``save_top_k=1`` leaves the best of both halves, and not two files too many."""
    fit(tmp_path, ranked(tmp_path, save_top_k=3), net=scripted(0.1, 0.6, 0.7), max_epochs=3)
    fit(tmp_path, ranked(tmp_path, save_top_k=1), net=scripted(0, 0, 0, 0.3, 0.2), max_epochs=5, ckpt_path="last")
    assert "epoch=0.ckpt" in names(tmp_path)
    assert not {"epoch=1.ckpt", "epoch=3.ckpt"} & set(names(tmp_path))


def test_pain_11_and_55_a_moved_folder_remembers_the_best(tmp_path):
    """Renamed, and gone on with under its new name: the best is found there, and no path of before is used."""
    fit(tmp_path / "a", ranked(tmp_path / "a"), net=scripted(0.1, 0.6), max_epochs=2)
    shutil.move(tmp_path / "a", tmp_path / "b")
    callback = ranked(tmp_path / "b")
    fit(tmp_path / "b", callback, net=scripted(0.1, 0.6, 0.9), max_epochs=3, ckpt_path="last")
    assert callback.best_model_path == str((tmp_path / "b").resolve() / "epoch=0.ckpt")
    assert read(callback.best_model_path)["epoch"] == 0
    assert not (tmp_path / "a").exists()


def test_pain_11_a_callback_that_is_added_takes_nothing_from_one_like_it(tmp_path):
    """Going on with one more that ranks by the same metric, given first: what the other kept stays its own."""

    def three():
        return ranked(tmp_path, filename="three-{epoch}", save_top_k=3)

    fit(tmp_path, three(), net=scripted(0.1, 0.2, 0.3), max_epochs=3)
    kept = names(tmp_path)
    one, again = ranked(tmp_path, filename="one-{epoch}", save_top_k=1), three()
    fit(tmp_path, one, again, net=scripted(0, 0, 0, 0.9, 0.8), max_epochs=5, ckpt_path="last")
    assert set(names(tmp_path)) == {*kept, "one-epoch=4.ckpt"}
    assert Path(again.best_model_path).name == "three-epoch=0.ckpt"
    assert Path(one.best_model_path).name == "one-epoch=4.ckpt"


def test_pain_55_no_folder_is_remembered(tmp_path):
    """Neither ledger nor manifest has what would be wrong on another machine, but for the keys of others' view."""
    fit(tmp_path / "secret-place", ranked(tmp_path / "secret-place", save_last=True), net=scripted(0.1, 0.6))
    folder = tmp_path / "secret-place"
    assert "secret-place" not in (folder / ".holdfast/ledger.jsonl").read_text()
    with LocalStore(folder).open("last.ckpt") as reader:
        manifest = replace(read_manifest(reader), tensors=())
    assert b"secret-place" not in manifest.to_bytes()


def test_pain_11_going_on_in_several_folders_remembers_each(tmp_path):
    """Two callbacks with a folder each are one run: each folder goes on with its own best."""

    def both():
        return [ranked(tmp_path / "a"), ranked(tmp_path / "b", mode="max", every_n_epochs=1)]

    fit(tmp_path, *both(), net=scripted(0.5, 0.9, 0.1), max_epochs=3)
    low, high = both()
    fit(tmp_path, low, high, net=scripted(0, 0, 0, 0.6, 0.7), max_epochs=5, ckpt_path=tmp_path / "a/epoch=2.ckpt")
    assert (Path(low.best_model_path).name, Path(high.best_model_path).name) == ("epoch=2.ckpt", "epoch=1.ckpt")
    assert names(tmp_path / "b") == ["epoch=1.ckpt", "epoch=4.ckpt"]
    runs = {fact["run"]["id"] for folder in "ab" for fact in facts(tmp_path / folder, "run")}
    assert len(runs) == 1


def test_going_back_in_several_folders_writes_the_steps_anew(tmp_path):
    """What one of the folders has of the future that was left is not taken for the steps that are trained again."""
    flags = {"filename": "{epoch}", "save_top_k": -1}
    fit(tmp_path, ModelCheckpoint(tmp_path / "a", **flags), ModelCheckpoint(tmp_path / "b", **flags), max_epochs=3)
    source = tmp_path / "a/epoch=0.ckpt"
    again = [ModelCheckpoint(tmp_path / "a", **flags), ModelCheckpoint(tmp_path / "b", **flags)]
    fit(tmp_path, *again, max_epochs=2, ckpt_path=source, seed=9)
    assert names(tmp_path / "b") == ["epoch=0.ckpt", "epoch=1-v1.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"]
    assert names(tmp_path / "a") == names(tmp_path / "b")
    assert Path(again[1].best_model_path).name == "epoch=1-v1.ckpt"


def test_a_changed_trigger_does_not_save_at_the_first_step(tmp_path):
    """Going on at step 4 with every 3 steps, under a name that no checkpoint knows: step 6 is the first."""
    fit(tmp_path, ModelCheckpoint(tmp_path), max_epochs=1)
    changed = ModelCheckpoint(tmp_path, "{step}", monitor="step", mode="max", save_top_k=9, every_n_train_steps=3)
    fit(tmp_path, changed, max_epochs=2, ckpt_path="last")
    assert [name for name in names(tmp_path) if name.startswith("step")] == ["step=6.ckpt"]


def test_pain_31_the_oldest_goes_whatever_files_say(tmp_path):
    """Times are set so that the newest looks oldest; a folder of an earlier run holds higher steps as well."""
    fit(tmp_path, ModelCheckpoint(tmp_path, "old-{step}", save_top_k=-1), max_epochs=4)

    class Ages(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.saving.settle()
            for path in tmp_path.glob("new-*.ckpt"):
                os.utime(path, (2e9 - steps(path), 2e9 - steps(path)))

    fit(tmp_path, Ages(), ModelCheckpoint(tmp_path, policy=newest_two("new-{step}")), max_epochs=3, seed=2)
    assert [name for name in names(tmp_path) if name.startswith("new")] == ["new-step=12.ckpt", "new-step=8.ckpt"]
    assert len([name for name in names(tmp_path) if name.startswith("old")]) == 4


def newest_two(template):
    return Policy("newest", every(epochs=1), last(2), where=Where(template))


def test_pain_32_and_63_rules_are_a_union_and_each_file_has_its_reason(tmp_path):
    """``best(1) | last(2)``: the best is not lost for being old, and it is said why each file is there."""
    both = Policy("both", every(epochs=1), best(1, "val_loss") | last(2), where=Where("{epoch}"))
    fit(tmp_path, ModelCheckpoint(tmp_path, policy=both), net=scripted(0.1, 0.5, 0.4, 0.3), max_epochs=4)
    assert names(tmp_path) == ["epoch=0.ckpt", "epoch=2.ckpt", "epoch=3.ckpt"]
    kept = {row["names"][0]: row["kept_because"] for row in listed(tmp_path)}
    assert "best by val_loss" in kept["epoch=0.ckpt"]
    assert "best by val_loss" not in kept["epoch=3.ckpt"]


def listed(folder):
    """What ``holdfast ls --json`` says of the checkpoints in a folder, in a process that has no torch."""
    program = "import sys; sys.modules['torch'] = None; from holdfast.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, "ls", str(folder), "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["checkpoints"]


def test_pain_65_the_last_k_need_no_metric(tmp_path):
    """``last(3)`` says it."""
    three = Policy("three", every(steps=2), last(3), where=Where("{step}"))
    fit(tmp_path, ModelCheckpoint(tmp_path, policy=three), max_epochs=2)
    assert names(tmp_path) == ["step=4.ckpt", "step=6.ckpt", "step=8.ckpt"]


def test_pain_54_what_a_checkpoint_holds_is_read_without_torch(tmp_path):
    """Step, epoch and every metric, of each file."""
    fit(tmp_path, ranked(tmp_path), net=scripted(0.25, 0.5), max_epochs=2)
    rows = {row["names"][0]: (row["step"], row["scores"]["val_loss"]) for row in listed(tmp_path)}
    assert rows == {"epoch=0.ckpt": (4, 0.25), "epoch=1.ckpt": (8, 0.5)}


def test_pain_53_the_same_command_starts_and_goes_on(tmp_path):
    """``ckpt_path="auto"``: one run, one folder, however often it is stopped."""

    class Stops(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == self.at:
                raise KeyboardInterrupt

    for at in (3, 7, None):
        stops = Stops()
        stops.at = at
        net = Net()
        with contextlib.suppress(KeyboardInterrupt):
            fit(tmp_path, stops, net=net, logger=True, max_epochs=2, ckpt_path="auto")
    assert [p.name for p in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
    assert len(net.seen) == 1
    assert len({fact["run"]["id"] for fact in facts(tmp_path / "lightning_logs/version_0/checkpoints", "run")}) == 1


# Names


def test_pain_15a_last_is_the_newest_runs(tmp_path):
    """A second run in the folder: ``last.ckpt`` is its last state, and no ``last-v1.ckpt`` is."""
    for seed, epochs in ((1, 3), (2, 2)):
        fit(tmp_path, ranked(tmp_path, save_top_k=1, save_last=True), net=Net(rising), max_epochs=epochs, seed=seed)
    assert steps(tmp_path / "last.ckpt") == 8
    assert not list(tmp_path.glob("last-*"))
    assert 12 in {steps(tmp_path / name) for name in names(tmp_path)}


def test_pain_36_a_version_is_no_rank_and_the_rank_is_said(tmp_path):
    """Of files with versions in their names, ``ls`` says which is first and which way it is ranked."""
    fit(tmp_path, ranked(tmp_path, filename="model", mode="max"), net=scripted(0.2, 0.9, 0.5), max_epochs=3)
    rows = {row["names"][0]: row for row in listed(tmp_path)}
    assert len(rows) == 2
    for name, row in rows.items():
        first = row["scores"]["val_loss"] == 0.9
        assert f"{'1st' if first else '2nd'} of 2 best by val_loss (max)" in row["kept_because"], name


def test_pain_35_saving_by_steps_does_not_save_at_epochs_too(tmp_path):
    """And what ``last`` and the ranked ones want of one step is written once."""
    callback = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=3)
    assert names(tmp_path) == ["step=12.ckpt", "step=6.ckpt"]
    fit(tmp_path / "b", ranked(tmp_path / "b", save_last=True), net=Net(falling), max_epochs=3)
    assert writes(tmp_path / "b") == 3


def test_pain_52_a_metric_with_a_slash_is_a_name_below_the_folder(tmp_path):
    """With its name inserted it makes a folder, which is found again; without, it does not."""

    class Slash(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", 1.0 - self.current_epoch / 10)

    callback = ModelCheckpoint(tmp_path, "{epoch}-{val/loss:.2f}", monitor="val/loss")
    fit(tmp_path, callback, net=Slash(), max_epochs=2)
    assert names(tmp_path) == ["epoch=1-val/loss=0.90.ckpt"]
    assert callback.best_model_path.endswith("epoch=1-val/loss=0.90.ckpt")
    fit(tmp_path, callback, net=Slash(), max_epochs=3, ckpt_path="best")
    assert "epoch=2-val/loss=0.80.ckpt" in names(tmp_path)


# Callbacks side by side


def test_pain_64_callbacks_with_one_trigger_save_side_by_side(tmp_path):
    """Two that differ in nothing but the name, or in nothing at all."""
    one, two, same = (ModelCheckpoint(tmp_path, name) for name in ("a-{step}", "b-{step}", "b-{step}"))
    assert one.state_key == two.state_key
    fit(tmp_path, one, two, same, max_epochs=2)
    assert names(tmp_path) == ["a-step=8.ckpt", "b-step=8.ckpt"]
    assert writes(tmp_path) == 2


class Counter(L.Callback):
    """Remembers a number, under the key of its class."""

    def __init__(self, start):
        self.count = start

    def on_train_epoch_start(self, trainer, pl_module):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def test_pain_64_equal_keys_lose_no_state(tmp_path):
    """Two callbacks of one class: each has its own state back."""
    fit(tmp_path, Counter(0), Counter(100), ModelCheckpoint(tmp_path), max_epochs=2)
    one, two = Counter(-1), Counter(-1)
    fit(tmp_path, one, two, ModelCheckpoint(tmp_path), max_epochs=3, ckpt_path="last")
    assert (one.count, two.count) == (3, 103)


def test_pain_64_callbacks_in_one_folder_evict_only_their_own(tmp_path):
    """One keeps the newest, one the best, one all: none takes another's."""
    keep_all = ModelCheckpoint(tmp_path, "all-{epoch}", save_top_k=-1, every_n_epochs=2)
    newest = ModelCheckpoint(tmp_path, "new-{epoch}")
    top = ModelCheckpoint(tmp_path, "top-{epoch}", monitor="val_loss")
    fit(tmp_path, keep_all, newest, top, net=Net(rising), max_epochs=5)
    assert names(tmp_path) == ["all-epoch=1.ckpt", "all-epoch=3.ckpt", "new-epoch=4.ckpt", "top-epoch=0.ckpt"]
    assert {Path(c.best_model_path).name for c in (newest, top)} == {"new-epoch=4.ckpt", "top-epoch=0.ckpt"}
