"""A Slurm job that is signalled and started again goes on by itself; Slurm is an environment and a script here."""

from __future__ import annotations

import errno
import signal

import pytest

from faults import unreadable
from holdfast.callbacks import ModelCheckpoint
from holdfast.engine.group import Solo
from holdfast.errors import Unreadable
from holdfast.training import home
from small_fits import fit, names, steps


@pytest.fixture
def job(server, tmp_path):
    """Starts the program as a job; its exit code and what it said."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)

    def start(restarts, *, number="7", stop=None, folder="run", ckpt_path=None, sig=signal.SIGUSR1, **options):
        environment = {"SLURM_JOB_ID": number, "SLURM_JOB_NAME": "train", "PATH": str(scontrol.parent)}
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        place = None if folder is None else str(tmp_path / folder)
        arguments = (str(tmp_path), place, environment, stop, ckpt_path, int(sig), options)
        with server.start("requeued_child:main", *arguments) as child:
            said = child.stdout.read().split("\n")[:-1]
            return child.wait(), said

    return start


def asked(folder):
    """What scontrol was asked for."""
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []


def test_the_requeue_signal_saves_requeues_and_the_job_goes_on_without_a_word(job, tmp_path):
    """Exit code 128 + SIGUSR1; the program's own ``ckpt_path=None`` is the newest of all when it is started again."""
    assert job(0, stop=5) == (128 + signal.SIGUSR1, ["began 0"])
    assert asked(tmp_path) == ["requeue 7"]
    assert steps(tmp_path / "run/last.ckpt") == 6
    code, said = job(1)
    assert (code, said[0], said[1].split()[:2]) == (0, "began 6", ["ended", "12"])


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_other_signals_save_and_do_not_requeue(job, tmp_path, sig):
    """Slurm requeues by itself what it preempts; what is cancelled stays away."""
    code, _ = job(0, stop=5, sig=sig)
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 1}[sig]  # the server's way to end after KeyboardInterrupt
    assert asked(tmp_path) == []
    assert steps(tmp_path / "run/last.ckpt") == 6


def test_where_nobody_wants_it_nothing_is_requeued_or_gone_on_with(job, tmp_path):
    """``auto_requeue=False``: SIGUSR1 is not answered, and a restart begins where it is told to."""
    code, _ = job(0, stop=5, auto_requeue=False)
    assert code == -signal.SIGUSR1
    assert asked(tmp_path) == []
    assert job(0, stop=5, sig=signal.SIGTERM, auto_requeue=False)[0] == 143
    assert job(1, auto_requeue=False)[1][0] == "began 0"


def test_another_signal_can_be_the_one(job, tmp_path):
    """Even SIGTERM, for a cluster that preempts without requeueing."""
    code, _ = job(0, stop=5, sig=signal.SIGTERM, requeue_signal=int(signal.SIGTERM))
    assert (code, asked(tmp_path)) == (143, ["requeue 7"])


def test_what_the_job_has_saved_goes_before_the_checkpoint_it_was_started_with(job, tmp_path):
    """A run that began from another one's checkpoint is not begun from there again; one that saved nothing is."""
    other = ModelCheckpoint(tmp_path / "other", save_last=True)
    fit(tmp_path, other, max_epochs=1)
    path = str(tmp_path / "other/last.ckpt")
    assert job(1, ckpt_path=path, stop=6)[1] == ["began 4"]
    assert job(2, ckpt_path=path)[1][0] == "began 7"


def test_tasks_of_an_array_go_on_with_their_own(job, tmp_path):
    """Though all write below one folder, and another one has written last."""
    assert job(0, number="7", stop=5, folder=None)[0] == 138
    assert job(0, number="8", stop=8, folder=None)[0] == 138
    code, said = job(1, number="7", folder=None)
    assert (code, said[0]) == (0, "began 6")
    assert said[1] == f"ended 12 {tmp_path}/lightning_logs/version_0/checkpoints"
    assert job(1, number="8", folder=None)[1][0] == "began 9"


def test_a_job_of_several_fits_without_folders_is_told_to_place_them(job, tmp_path):
    """Which of its runs a fit is cannot be told: it begins anew, and takes nobody else's state."""
    assert job(0, folder=None)[0] == 0
    assert job(0, stop=5, folder=None)[0] == 138
    assert job(1, folder=None)[1][0] == "began 0"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_job_whose_checkpoints_cannot_be_read_does_not_begin_anew(tmp_path, code):
    """They may be what it has saved itself."""
    fit(tmp_path, ModelCheckpoint(tmp_path / "run"), max_epochs=1)
    with unreadable(*tmp_path.glob("run/*.ckpt"), code=code), pytest.raises(Unreadable, match="Nothing was changed"):
        home.of_job("7", [], [tmp_path], group=Solo())
    assert home.of_job("7", [], [tmp_path], group=Solo()) is None


def test_a_folder_that_cannot_be_looked_into_is_told_of(tmp_path, caplog):
    """It may hold the run that is looked for; one that is not there holds none."""
    home.near("last", [], [tmp_path / "none"])
    assert caplog.text == ""
    long = tmp_path / ("x" * 300)
    home.near("last", [], [long])
    assert f"runs in '{long}' are not looked for: File name too long" in caplog.text


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(job, tmp_path):
    """The walk back stays within the job's own run."""
    assert job(0, stop=5)[0] == 138
    newest = tmp_path / "run/last.ckpt"
    newest.chmod(0o644)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert job(1)[1][0] == "began 4"
    assert "epoch=2-step=12.ckpt" in names(tmp_path / "run")
