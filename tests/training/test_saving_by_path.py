"""``trainer.save_checkpoint(path, blocking=False)``: written while training goes on, and no failure is lost."""

from __future__ import annotations

import errno

import pytest
import torch

import holdfast as L
from faults import refusing, short_writes, stalled
from holdfast.callbacks import ModelCheckpoint
from holdfast.catalog.verify import Verdict, verify
from holdfast.errors import ConfigError, SaveFailed
from holdfast.store import LocalStore
from holdfast.training.checkpoint_io import CheckpointIO
from small_fits import Net, fit, names, read


class Asks(L.Callback):
    """Calls ``ask(trainer)`` at each step of ``at``; keeps what it returned."""

    def __init__(self, ask, *, at=(2,)):
        self.ask, self.at, self.got = ask, at, []

    def on_train_batch_end(self, trainer, pl_module, *rest):
        if trainer.global_step in self.at:
            self.got.append(self.ask(trainer))


def whole(path):
    with LocalStore(path.parent).open(path.name) as reader:
        return verify(reader, ours=True).verdict is Verdict.WHOLE


def test_it_returns_before_the_file_is_there_and_holds_the_state_of_then(tmp_path):
    """Training goes on while it is written; what it holds is bit for bit what a blocking one holds."""
    path, beside = tmp_path / "mine/a.ckpt", tmp_path / "mine/b.ckpt"
    seen = []

    def ask(trainer):
        trainer.save_checkpoint(beside)
        with stalled("posix_fallocate") as disk:  # before the first byte is written
            ticket = trainer.save_checkpoint(path, blocking=False)
            assert disk.reached.wait(60)
            seen.append((ticket.durable, path.exists()))
        return ticket

    asks = Asks(ask)
    fit(tmp_path, asks, make=lambda: Net(width=2048))
    assert seen == [(False, False)]
    assert asks.got[0].record.names == ("a.ckpt",)
    assert whole(path)
    mine, theirs = read(path), read(beside)
    assert mine["global_step"] == theirs["global_step"] == 2
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(mine["state_dict"][name], weight)
    assert names(tmp_path / "mine") == ["a.ckpt", "b.ckpt"]
    assert [one.name for one in (tmp_path / "mine").iterdir() if not one.name.endswith(".ckpt")] == []


def test_it_can_hold_weights_only_and_replaces_the_file(tmp_path):
    """As one that blocks does; one after the other."""
    path = tmp_path / "mine.ckpt"
    asks = Asks(lambda trainer: trainer.save_checkpoint(path, weights_only=True, blocking=False), at=(2, 3))
    fit(tmp_path / "run", asks)
    assert [ticket.record.progress.steps for ticket in asks.got] == [2, 3]
    assert read(path)["global_step"] == 3
    assert "optimizer_states" not in read(path)


def test_one_save_is_in_flight(tmp_path):
    """I7: a save by the rules waits for it."""
    asks = Asks(lambda trainer: trainer.save_checkpoint(tmp_path / "mine.ckpt", blocking=False))
    done = []

    class Looks(Net):
        def on_save_checkpoint(self, checkpoint):
            done.append([ticket.durable for ticket in asks.got])

    rules = ModelCheckpoint(tmp_path / "run", every_n_train_steps=2, save_top_k=-1)
    with short_writes(64):
        fit(tmp_path, asks, rules, make=lambda: Looks(width=1024), max_epochs=1)
    assert done == [[], [True], [True]]


def test_a_failure_is_raised_by_its_ticket_and_told_once(tmp_path):
    """Who asked knows: neither the next save nor fit's end says it again."""

    def ask(trainer):
        with refusing(posix_fallocate=errno.ENOSPC):
            ticket = trainer.save_checkpoint(tmp_path / "mine.ckpt", blocking=False)
            with pytest.raises(SaveFailed, match=r"mine.ckpt' was not saved: .*No space left"):
                _ = ticket.record

    fit(tmp_path / "run", Asks(ask, at=(2, 3)))
    assert names(tmp_path) == ["run/checkpoints/epoch=1-step=8.ckpt"]


def failing(tmp_path):
    """Ask for a save that fails, and do not look at the ticket."""

    def ask(trainer):
        with refusing(posix_fallocate=errno.ENOSPC):
            ticket = trainer.save_checkpoint(tmp_path / "mine.ckpt", blocking=False)
            ticket.wait()

    return ask


def test_a_failure_that_nobody_asked_for_is_raised_at_fits_end(tmp_path):
    """Never lost; what the rules save is saved all the same, and a file that stood there stands."""
    (tmp_path / "mine.ckpt").write_text("of before")
    with pytest.raises(SaveFailed, match=r"mine.ckpt' was not saved: .*What stood there stands"):
        fit(tmp_path / "run", Asks(failing(tmp_path)))
    assert (tmp_path / "mine.ckpt").read_text() == "of before"
    assert names(tmp_path / "run") == ["checkpoints/epoch=1-step=8.ckpt"]


def test_a_failure_that_nobody_asked_for_is_raised_by_the_next_save(tmp_path):
    """Once: the one after that is a save like any other."""
    ask, failures = failing(tmp_path), []

    def and_again(trainer):
        if trainer.global_step == 2:
            return ask(trainer)
        try:
            return trainer.save_checkpoint(tmp_path / "other.ckpt")
        except SaveFailed as error:
            return failures.append(error.checkpoint)

    fit(tmp_path / "run", Asks(and_again, at=(2, 3, 4)))
    assert failures == [str(tmp_path / "mine.ckpt")]
    assert read(tmp_path / "other.ckpt")["global_step"] == 4


def test_after_a_fit_it_is_there_when_it_returns(tmp_path):
    """There is no training to go on with."""
    trainer = fit(tmp_path / "run")
    assert trainer.save_checkpoint(tmp_path / "mine.ckpt", blocking=False) is None
    assert whole(tmp_path / "mine.ckpt")


def test_what_changes_it_while_it_is_read_is_told(tmp_path):
    """A torn file is never published; the error says what to do, and a copy of the state by ``blocking`` is whole."""

    def ask(trainer):
        with stalled("posix_fallocate") as disk:
            ticket = trainer.save_checkpoint(tmp_path / "mine.ckpt", blocking=False)
            assert disk.reached.wait(60)
            assert not ticket.staged
            with torch.no_grad():
                trainer.lightning_module.layers[0].weight.add_(1)
        with pytest.raises(SaveFailed, match=r"Call fence\(\) before changing weights yourself, or save with"):
            _ = ticket.record

    fit(tmp_path / "run", Asks(ask), make=lambda: Net(width=4096))
    assert names(tmp_path) == ["run/checkpoints/epoch=1-step=8.ckpt"]


def test_a_checkpoint_io_of_ones_own_writes_while_training_waits(tmp_path):
    """What it does on another thread is not known, so it is not asked to."""

    class Mine(CheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            torch.save(checkpoint, path)

        def remove_checkpoint(self, path):
            pass

    asks = Asks(lambda trainer: trainer.save_checkpoint(tmp_path / "a.ckpt", blocking=False))
    with pytest.warns(UserWarning, match="does not verify"), pytest.raises(ConfigError, match="blocking=False"):
        fit(tmp_path, asks, plugins=[Mine()], enable_checkpointing=False)
