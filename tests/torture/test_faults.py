"""A disk that is full or breaks at any one call of a save, and what a run makes of saves that fail."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import warnings

import pytest
import torch

from faults import CHANGING, failing_at, refusing, short_writes, stalled, watching
from holdfast import Checkpointer, NotFound, SaveFailed, every
from holdfast.engine.engine import SaveFailedWarning
from scale import sample
from torture.aftermath import look, usage
from torture.child import RULES, kept, score
from torture.saver import Saver, oracle

WRITES = ("pwrite", "write")


@pytest.fixture
def saver(tmp_path):
    """A run that saves into ``tmp_path``."""
    with Saver(tmp_path) as saver:
        yield saver


def failures_of(saver, *, functions=CHANGING, at_most=None, count):
    """The numbers of the calls of one save that are to fail, one in each trial."""
    with watching(functions) if at_most is None else short_writes(at_most) as calls:
        saver.save()
    return sample(range(1, len(calls.done) + 1), count)


def whole(saver, found):
    """Everything listed has been verified, is what was saved, and all that the rules keep is there."""
    assert found.weights == {step: oracle(step) for step in found.weights}
    assert kept(saver.saved) <= set(found.weights)


def in_four_parts(text, *, checkpoint, code, good, remedy="the next save tries again."):
    """What happened, in the system's words; to which checkpoint; what is still good, by name; what to do."""
    assert os.strerror(code) in text
    assert f"checkpoint '{checkpoint}'" in text
    assert good in text
    assert text.endswith(f" Once the cause is gone, {remedy}")
    if code == errno.ENOSPC:
        assert "Free space on that disk" in text


def told_of(saver):
    """What the engine says of the save that is over: its warnings, in order."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        saver.engine.settle()
    assert all(issubclass(warning.category, SaveFailedWarning) for warning in told)
    return [str(warning.message) for warning in told]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_whichever_call_of_a_save_fails_the_last_good_checkpoint_stands(code, saver, tmp_path):
    """Each call of one save fails once: it is told of once, gives its space back, and the next save works."""
    lost = late = 0
    for number in failures_of(saver, count=14):
        saver.advance()
        before = look(tmp_path)
        good = f"'epoch=0-step={before.newest}.ckpt'"
        with failing_at(number, code) as calls:
            error = saver.attempt()
        assert calls.failed is not None
        told = told_of(saver)
        assert len(told) == 1, f"a failure of {calls.failed} is neither swallowed nor told twice"
        after = look(tmp_path)
        assert after.leftovers == ()
        if error is None:  # it is there; what failed is what comes after
            assert f"checkpoint '{tmp_path / saver.name}' was saved, and then: " in told[0]
            in_four_parts(told[0], checkpoint=tmp_path / saver.name, code=code, good="It is whole and durable")
            late += 1
        elif saver.step in after.weights:  # it is there, though the system would not say that it will stay
            assert "is there and whole, but a loss of power may lose it" in told[0]
            in_four_parts(told[0], checkpoint=tmp_path / saver.name, code=code, good=good)
            saver.saved.append(saver.step)
            late += 1
        else:
            in_four_parts(told[0], checkpoint=tmp_path / saver.name, code=code, good=good)
            assert after == before, "nothing has changed, and all space is back"
            lost += 1
        whole(saver, after)
        saver.save()
        settled = look(tmp_path)
        whole(saver, settled)
        assert set(settled.weights) == kept(saver.saved), "what the failed save left to evict has gone"
        assert settled.last == settled.newest == saver.step
    assert lost
    assert late


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_write_cut_short_by_a_full_disk_publishes_nothing(code, saver, tmp_path):
    """Writes go through in pieces, until one fails: the temporary file goes, what stood before stands."""
    for number in failures_of(saver, at_most=4096, count=6):
        saver.advance()
        before = look(tmp_path)
        with failing_at(number, code, functions=WRITES, at_most=4096) as calls:
            error = saver.attempt()
        assert calls.failed is not None
        assert len(told_of(saver)) == 1
        after = look(tmp_path)
        whole(saver, after)
        assert error is None or after == before
        saver.save()


def test_a_save_survives_short_writes(saver, tmp_path):
    """No write puts down more than 1,000 bytes at once, and the checkpoint is whole."""
    with short_writes(1000) as calls:
        saver.save()
    assert len(calls.done) > 64
    whole(saver, look(tmp_path))


def test_a_save_survives_signals(saver, tmp_path):
    """Signals that hit the writing thread without end interrupt its system calls, which are simply made again."""
    (writer,) = (t for t in threading.enumerate() if t.name.startswith("holdfast-writer"))
    handled = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    try:
        with stalled("posix_fallocate") as disk:
            ticket = saver.begin()
            assert disk.reached.wait(60)
            signal.pthread_kill(writer.ident, signal.SIGUSR1)
        while not ticket.durable:
            signal.pthread_kill(writer.ident, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert handled
    assert ticket.record is not None
    saver.saved.append(saver.step)
    whole(saver, look(tmp_path))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_really_full_disk_costs_the_save_and_nothing_else(small_disk):
    """With so many pages left a save fails or not; either way all is whole, and goes on once there is space."""
    folder = small_disk / "checkpoints"
    with Saver(folder) as saver:
        page = os.statvfs(small_disk).f_frsize
        pages = usage(folder) // len(look(folder).weights) // page
        failed = 0
        for free in [0, 1, pages // 2, pages - 1, pages, pages + 1, pages + 2]:
            before = look(folder)
            space = os.statvfs(small_disk).f_bfree
            filler = small_disk / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (space - free) * page)
            error = saver.attempt()
            told = told_of(saver)
            after = look(folder)
            whole(saver, after)
            assert after.leftovers == ()
            if error is not None:
                (text,) = told
                good = f"'epoch=0-step={before.newest}.ckpt'"
                in_four_parts(text, checkpoint=folder / saver.name, code=errno.ENOSPC, good=good)
                assert after == before
                failed += 1
            filler.unlink()
            saver.save()
            assert set(look(folder).weights) == kept(saver.saved)
        assert failed >= 4


class Loop:
    """A training loop of one weight, saved at every so many steps."""

    def __init__(self, folder, *, steps=1, **options):
        self.checkpointer = Checkpointer(folder, when=every(steps=steps), which=RULES, **options)
        self.model = torch.nn.Linear(1, 1)

    def __enter__(self):
        self.checkpointer.__enter__()
        self.checkpointer.resume(model=self.model)
        return self

    def __exit__(self, *error):
        self.checkpointer.__exit__(*error)

    def step(self):
        self.checkpointer.step(metrics={"loss": score(self.checkpointer.progress.steps + 1)})

    def step_and_wait(self):
        """A step, and its save, until that is over and settled."""
        self.step()
        with contextlib.suppress(NotFound):  # nothing is there before the first
            self.checkpointer.load("last", parts=[])


def train(loop, *, steps):
    """A whole run."""
    with loop:
        for _ in range(steps):
            loop.step()


def full_disk():
    """In this block no checkpoint finds space."""
    return refusing(posix_fallocate=errno.ENOSPC)


def test_a_first_failure_warns_once_and_the_next_trigger_tries_again(tmp_path):
    """I3: training goes on after a failed save, and the next one is made."""
    with Loop(tmp_path) as loop:
        loop.step_and_wait()
        with full_disk(), pytest.warns(SaveFailedWarning) as told:
            loop.step_and_wait()
        assert len(told) == 1
        checkpoint, good = tmp_path / "epoch=0-step=2.ckpt", "'epoch=0-step=1.ckpt'"
        in_four_parts(str(told[0].message), checkpoint=checkpoint, code=errno.ENOSPC, good=good)
        loop.step_and_wait()
        assert set(look(tmp_path).weights) == {1, 3}


def test_the_third_failure_in_a_row_raises_and_is_told_once(tmp_path):
    """I3: two warnings, then the third failure ends the run; leaving the block tells it no second time."""
    loop = Loop(tmp_path)
    third = r"epoch=0-step=3\.ckpt' was not saved: .*No space left"
    ends = r"3 saves in a row have failed, so training stops\. Once the cause is gone, start the run again\.$"
    with full_disk(), pytest.warns(SaveFailedWarning) as told, pytest.raises(SaveFailed, match=f"{third}.*{ends}"):
        train(loop, steps=10)
    assert loop.checkpointer.progress.steps == 4, "the step after the third failure hears of it"
    first, second = (str(warning.message) for warning in told)
    assert "epoch=0-step=1.ckpt" in first
    assert "epoch=0-step=2.ckpt" in second


def test_a_success_between_failures_starts_the_count_anew(tmp_path):
    """I3: only failures in a row add up."""
    with Loop(tmp_path) as loop:
        for _ in range(4):
            with full_disk(), pytest.warns(SaveFailedWarning) as told:
                loop.step_and_wait()
            assert len(told) == 1
            loop.step_and_wait()


def test_the_last_save_of_a_run_raises_where_it_fails(tmp_path):
    """I3: at the end nothing later can try again, so the end itself does, and then says so."""
    train(Loop(tmp_path), steps=1)
    second = r"epoch=0-step=2\.ckpt' was not saved"
    with full_disk(), pytest.warns(SaveFailedWarning) as told, pytest.raises(SaveFailed, match=second):
        train(Loop(tmp_path), steps=1)
    assert len(told) == 1, "the end tried step 2 once more before it gave up"
    assert set(look(tmp_path).weights) == {1}


def test_on_save_error_raise_raises_at_once(tmp_path):
    """I3: the first failure ends the run where the user wants it so."""
    with full_disk(), pytest.raises(SaveFailed) as raised:
        train(Loop(tmp_path, on_save_error="raise"), steps=2)
    checkpoint, good = tmp_path / "epoch=0-step=1.ckpt", "There is no other checkpoint"
    text = str(raised.value)
    in_four_parts(text, checkpoint=checkpoint, code=errno.ENOSPC, good=good, remedy="start the run again.")


def test_a_save_by_hand_always_raises(tmp_path):
    """I3: who calls save() hears of its failure from that very call, and of nothing afterwards."""
    with Loop(tmp_path, steps=1000) as loop:
        loop.step()
        loop.checkpointer.save("first")
        loop.step()
        for _ in range(5):  # more than three: each is the answer to its own call
            with full_disk(), pytest.raises(SaveFailed) as raised:
                loop.checkpointer.save("second")
            checkpoint, good = tmp_path / "epoch=0-step=2-second.ckpt", "'epoch=0-step=1-first.ckpt'"
            text = str(raised.value)
            in_four_parts(text, checkpoint=checkpoint, code=errno.ENOSPC, good=good, remedy="save again.")
        loop.checkpointer.save("second")
    assert set(look(tmp_path).weights) == {1, 2}


def test_a_folder_that_cannot_be_read_is_a_failed_save_too(tmp_path):
    """I3: what fails while a save is planned is told as what fails while it is written, and tried again."""
    with Loop(tmp_path) as loop:
        loop.step_and_wait()
        with refusing(scandir=errno.EIO):
            loop.step()
        with pytest.warns(SaveFailedWarning, match=r"step=2\.ckpt' was not saved: .*Input/output error"):
            loop.step()
        loop.step_and_wait()
        assert set(look(tmp_path).weights) == {1, 3, 4}
