"""Callbacks with folders of their own: what they want of one step is written once, and each folder stands by itself."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

import pytest
import torch

import holdfast as L
from faults import refusing
from holdfast.callbacks import ModelCheckpoint
from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Verdict, read_manifest
from holdfast.engine.engine import SaveFailedWarning
from holdfast.engine.shelf import Shelf
from holdfast.engine.writer import Ticket
from holdfast.store import LocalStore
from small_fits import Net, facts, fit, names, steps

WIDE = 4096
"""So wide that a checkpoint is hundreds of kilobytes, and what else a process writes is small beside it."""


def written():
    """Bytes that this process has given to write calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


def inodes(*folders):
    """The distinct files among checkpoints."""
    return {path.stat().st_ino for folder in folders for path in Path(folder).rglob("*.ckpt")}


def whole(folder):
    """The names in a folder, each verified in every byte; the folder is looked at anew."""
    place = Folder(LocalStore(folder))
    found = place.scan()
    assert not found.strangers
    assert not found.leftovers
    verdicts = {resolve.check(place, record).verdict for record in found.records}
    assert verdicts == {Verdict.WHOLE}
    return sorted(name for record in found.records for name in record.names)


def manifest(path):
    with LocalStore(path.parent).open(path.name) as reader:
        return read_manifest(reader)


@pytest.fixture
def other_file_system(tmp_path):
    """A folder on a file system that has no link to files of the test's own folder."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system is all there is")
    yield folder
    shutil.rmtree(folder)


def test_three_callbacks_in_three_folders_write_once_a_step(tmp_path):
    """I7: bytes that the process wrote are those of one file a save, and each file has a name in each folder."""
    before = written()
    folders = [tmp_path / name for name in "abc"]
    fit(tmp_path, *(ModelCheckpoint(f, "{epoch}", save_top_k=-1) for f in folders), make=lambda: Net(width=WIDE))
    wrote = written() - before
    size = (folders[0] / "epoch=0.ckpt").stat().st_size
    assert 2 * size <= wrote < 3 * size
    for folder in folders:
        assert whole(folder) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    assert len(inodes(*folders)) == 2


def test_one_state_is_captured_for_all_of_them(tmp_path):
    """A hook that edits the checkpoint runs once a step, and what callbacks say of themselves is true everywhere."""

    class Counted(Net):
        captured = 0

        def on_save_checkpoint(self, checkpoint):
            Counted.captured += 1

    low, high = ModelCheckpoint(tmp_path / "a"), ModelCheckpoint(tmp_path / "b")
    fit(tmp_path, low, high, make=Counted, max_epochs=1)
    assert Counted.captured == 1
    told = torch.load(tmp_path / "b/epoch=0-step=4.ckpt", weights_only=True)["callbacks"].values()
    assert {Path(one["best_model_path"]).parent.name for one in told if "best_model_path" in one} == {"a", "b"}


def test_each_folder_evicts_by_its_own_rules(tmp_path):
    """What goes in one stays in the other; read-only all the while, so that no name can change another's bytes."""
    few, all_ = ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(tmp_path / "b", "{epoch}", save_top_k=-1)
    fit(tmp_path, few, all_, max_epochs=3)
    assert whole(tmp_path / "a") == ["epoch=2.ckpt"]
    assert whole(tmp_path / "b") == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"]
    assert not any(path.stat().st_mode & 0o222 for path in (tmp_path / "b").glob("*.ckpt"))
    assert [fact["names"] for fact in facts(tmp_path / "a", "evicted")] == [["epoch=0.ckpt"], ["epoch=1.ckpt"]]
    assert facts(tmp_path / "b", "evicted") == []


def test_different_parts_are_written_each(tmp_path):
    """Weights alone are another file; who wants the same of the two shares."""
    fit(
        tmp_path,
        ModelCheckpoint(tmp_path / "a", "{epoch}"),
        ModelCheckpoint(tmp_path / "b", "{epoch}", save_weights_only=True),
        ModelCheckpoint(tmp_path / "c", "{epoch}", save_weights_only=True),
        max_epochs=1,
    )
    files = {name: (tmp_path / name / "epoch=0.ckpt").stat() for name in "abc"}
    assert files["b"].st_ino == files["c"].st_ino != files["a"].st_ino
    assert files["b"].st_size < files["a"].st_size
    assert [whole(tmp_path / name) for name in "abc"] == [["epoch=0.ckpt"]] * 3


def test_aliases_and_names_are_each_folders_own(tmp_path):
    """Another template, and ``last`` in one of them alone."""
    fit(
        tmp_path,
        ModelCheckpoint(tmp_path / "a", "{epoch}", save_last=True),
        ModelCheckpoint(tmp_path / "b", "at-{step}", save_top_k=-1),
    )
    assert whole(tmp_path / "a") == ["epoch=1.ckpt", "last.ckpt"]
    assert whole(tmp_path / "b") == ["at-step=4.ckpt", "at-step=8.ckpt"]
    assert (tmp_path / "a/last.ckpt").samefile(tmp_path / "b/at-step=8.ckpt")


def test_one_that_waits_for_a_validation_has_the_others_wait(tmp_path):
    """All that is due at one step is one save, taken after the last event that any of them needs."""
    fit(
        tmp_path,
        ModelCheckpoint(tmp_path / "a", "{step}", every_n_train_steps=2, save_top_k=-1),
        ModelCheckpoint(tmp_path / "b", "{step}", monitor="val_loss", every_n_train_steps=2, save_top_k=-1),
        val_check_interval=2,
    )
    assert whole(tmp_path / "a") == whole(tmp_path / "b") == [f"step={n}.ckpt" for n in (2, 4, 6, 8)]
    assert len(inodes(tmp_path)) == 4


@pytest.mark.parametrize("home", ["a", "b"])
def test_it_goes_on_from_either_folder(home, tmp_path):
    """One run, the same weights, and what each policy remembers is its own, whichever name was given."""

    def both():
        often = ModelCheckpoint(tmp_path / "a", "{step}", every_n_train_steps=2, save_top_k=-1)
        return often, ModelCheckpoint(tmp_path / "b", "{step}", every_n_train_steps=4, save_top_k=-1)

    fit(tmp_path, *both(), max_epochs=1)
    found = manifest(tmp_path / home / "step=4.ckpt")
    assert {name: tally.fired.steps for name, tally in found.tallies.items() if name[-1] in "t2"} == {
        "ModelCheckpoint": 4,
        "ModelCheckpoint 2": 4,
    }
    assert found.policies == ("ModelCheckpoint", "ModelCheckpoint 2")
    fit(tmp_path, *both(), max_epochs=2, ckpt_path=tmp_path / home / "step=4.ckpt")
    assert whole(tmp_path / "a") == [f"step={n}.ckpt" for n in (2, 4, 6, 8)]
    assert whole(tmp_path / "b") == ["step=4.ckpt", "step=8.ckpt"]
    assert len(inodes(tmp_path)) == 4
    runs = [fact["run"] for folder in "ab" for fact in facts(tmp_path / folder, "run")]
    assert {(run["id"], run["attempt"]) for run in runs} == {(runs[0]["id"], 1), (runs[0]["id"], 2)}


def test_each_folders_records_name_its_own_policies(tmp_path):
    """By its ledger; without one, the file tells of both, and what is a folder's own is still its own."""

    def both(many):
        newest = {"filename": "{epoch}", "monitor": "step", "mode": "max", "save_top_k": many}
        return [ModelCheckpoint(tmp_path / name, **newest) for name in "ab"]

    fit(tmp_path, *both(2))
    own = {name: Folder(LocalStore(tmp_path / name)).scan().records[0].policies for name in "ab"}
    assert own == {"a": ("ModelCheckpoint step",), "b": ("ModelCheckpoint step 2",)}
    (tmp_path / "b/.holdfast/ledger.jsonl").unlink()
    fit(tmp_path, *both(1), max_epochs=3, ckpt_path=tmp_path / "a/epoch=1.ckpt")
    assert whole(tmp_path / "a") == whole(tmp_path / "b") == ["epoch=1.ckpt", "epoch=2.ckpt"]


def test_the_loss_of_a_folder_costs_the_other_nothing(tmp_path):
    """The bytes are there as long as one name is."""
    fit(tmp_path, ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(tmp_path / "b", "{epoch}"))
    shutil.rmtree(tmp_path / "a")
    assert whole(tmp_path / "b") == ["epoch=1.ckpt"]
    again = fit(tmp_path, ModelCheckpoint(tmp_path / "b", "{epoch}"), max_epochs=4, ckpt_path="last")
    assert again.global_step == 16
    assert whole(tmp_path / "b") == ["epoch=3.ckpt"]


def test_another_file_system_gets_a_copy_that_verifies(tmp_path, other_file_system):
    """Durable as the first is, under its own name, and its folder can be gone on from."""
    copies = other_file_system / "b"
    fit(tmp_path, ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(copies, "{epoch}"))
    assert whole(tmp_path / "a") == whole(copies) == ["epoch=1.ckpt"]
    assert (tmp_path / "a/epoch=1.ckpt").read_bytes() == (copies / "epoch=1.ckpt").read_bytes()
    assert not (copies / "epoch=1.ckpt").stat().st_mode & 0o222
    again = fit(tmp_path, ModelCheckpoint(copies, "{epoch}"), max_epochs=3, ckpt_path=copies / "epoch=1.ckpt")
    assert again.global_step == 12


def test_a_write_that_fails_fails_in_all_and_nothing_goes(tmp_path):
    """Each folder is told of by its own checkpoint's name, once; the next trigger makes it good in both."""

    class Full(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.saving.settle()
            if trainer.current_epoch == 1:
                self.there = [names(tmp_path / folder) for folder in "ab"]
                self.disk = refusing(posix_fallocate=errno.ENOSPC)
                self.disk.__enter__()
            if trainer.current_epoch == 2:
                assert [names(tmp_path / folder) for folder in "ab"] == self.there

        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                self.disk.__exit__(None, None, None)

    both = ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(tmp_path / "b", "at-{epoch}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaveFailedWarning)
        fit(tmp_path, Full(), *both, max_epochs=3)
    told = [str(one.message) for one in caught if one.category is SaveFailedWarning]
    assert [one.split("'")[1] for one in told] == [
        str(tmp_path / "a/epoch=1.ckpt"),
        str(tmp_path / "b/at-epoch=1.ckpt"),
    ]
    assert (whole(tmp_path / "a"), whole(tmp_path / "b")) == (["epoch=2.ckpt"], ["at-epoch=2.ckpt"])


def test_what_fails_in_one_folder_alone_is_that_ones(tmp_path):
    """The first has its checkpoint and lets the old one go; the second keeps the old one, and has the next."""
    broken = tmp_path / "b" / ".holdfast"

    class Breaks(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.saving.settle()
            if trainer.current_epoch == 1:
                broken.rename(tmp_path / "aside")
                broken.write_text("no folder")
            if trainer.current_epoch == 2:
                assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["epoch=1.ckpt"], ["epoch=0.ckpt"])
                broken.unlink()
                (tmp_path / "aside").rename(broken)

    both = ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(tmp_path / "b", "{epoch}")
    with pytest.warns(SaveFailedWarning, match="b/epoch=1.ckpt' was not saved"):
        fit(tmp_path, Breaks(), *both, max_epochs=3)
    assert whole(tmp_path / "a") == whole(tmp_path / "b") == ["epoch=2.ckpt"]


def test_a_state_that_moved_is_made_good_in_all(tmp_path, monkeypatch):
    """A torn file is published nowhere, and the next step is saved in its place in each folder, once.

    So it is when training looks at the folders while only the first has heard of it.
    """
    moved, heard, waited = threading.Event(), threading.Event(), threading.Event()
    reserve, failed, wait = os.posix_fallocate, Shelf.failed, Ticket.wait

    class Moves(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                with torch.no_grad():  # not by a step of its optimizer
                    pl_module.layers[0].weight.add_(1)
                moved.set()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                assert heard.wait(60)

    def reserved_when_moved(*args):
        assert moved.wait(60)
        return reserve(*args)

    def told_when_waited_for(*args, **named):
        told = failed(*args, **named)
        heard.set()
        assert waited.wait(60)
        return told

    def waiting(ticket):
        if heard.is_set():
            waited.set()
        wait(ticket)

    monkeypatch.setattr(os, "posix_fallocate", reserved_when_moved)
    monkeypatch.setattr(Shelf, "failed", told_when_waited_for)
    monkeypatch.setattr(Ticket, "wait", waiting)
    flags = {"filename": "{step}", "every_n_train_steps": 2, "save_top_k": -1}
    both = ModelCheckpoint(tmp_path / "a", **flags), ModelCheckpoint(tmp_path / "b", **flags)
    with pytest.warns(SaveFailedWarning, match="changed while being read") as caught:
        fit(tmp_path, Moves(), *both, make=lambda: Net(width=WIDE), max_epochs=1)
    assert len([one for one in caught if one.category is SaveFailedWarning]) == 2
    assert whole(tmp_path / "a") == whole(tmp_path / "b") == ["step=3.ckpt", "step=4.ckpt"]
    assert len(inodes(tmp_path)) == 2


def test_runs_of_a_different_number_share_a_file_all_the_same(tmp_path):
    """A folder in which others ran before knows the new run as its newest, by the number that the file tells."""
    for seed in (1, 2):
        fit(tmp_path, ModelCheckpoint(tmp_path / "b", "{epoch}"), max_epochs=1, seed=seed)
    fit(tmp_path, ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(tmp_path / "b", "{epoch}"), seed=3)
    assert (tmp_path / "a/epoch=1.ckpt").samefile(tmp_path / "b/epoch=1.ckpt")
    (tmp_path / "b/.holdfast/ledger.jsonl").unlink()
    assert Folder(LocalStore(tmp_path / "b")).scan().records[-1].names == ("epoch=1.ckpt",)


def test_a_callback_that_is_added_in_another_folder_takes_no_name(tmp_path):
    """The one of before is called as before, though it comes second now: its folder remembers its best."""
    fit(tmp_path, ModelCheckpoint(tmp_path / "b", "{epoch}"), max_epochs=1)
    both = ModelCheckpoint(tmp_path / "a", "{epoch}"), ModelCheckpoint(tmp_path / "b", "{epoch}")
    fit(tmp_path, *both, max_epochs=3, ckpt_path=tmp_path / "b/epoch=0.ckpt")
    told = [json.loads(line) for line in (tmp_path / "b/.holdfast/ledger.jsonl").read_text().splitlines()]
    assert [sorted(fact["policies"])[0] for fact in told if fact["fact"] == "rules"] == ["ModelCheckpoint"] * 2
    assert whole(tmp_path / "b") == ["epoch=2.ckpt"]
    assert steps(tmp_path / "a/epoch=2.ckpt") == 12
