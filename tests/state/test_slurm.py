"""What a job knows of itself from the environment, and how it asks to be requeued; with a scontrol that is a script."""

from __future__ import annotations

import signal

import pytest

from holdfast.errors import ConfigError
from holdfast.state.slurm import Job, SLURMEnvironment, job, of_job

BATCH = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_CLUSTER_NAME": "big"}


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that notes its arguments, and ends as it is told."""

    def install(code=0, says=""):
        script = tmp_path / "scontrol"
        script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "{says}" >&2\nexit {code}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path / "asked"

    return install


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Job("17", "17", "big")),
        ({"SLURM_RESTART_COUNT": "2"}, Job("17", "17", "big", 2)),
        ({"SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2"}, Job("17", "15_2", "big")),
        ({"SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_JOB_NAME": "bash"}, None),
        ({"SLURM_JOB_ID": ""}, None),
    ],
)
def test_a_job_knows_itself(more, expected):
    """Its number, its name in an array, how often it was restarted; a session of somebody at a terminal is none."""
    assert job({**BATCH, **more}) == expected


def test_checkpoints_tell_the_job_that_wrote_them():
    """With its cluster, for two of them may give the same number; outside Slurm they tell nothing."""
    assert of_job(BATCH) == {"job": "big/17"}
    assert of_job({}) == {}


def test_a_requeue_asks_for_the_very_task(scontrol, caplog):
    """By the number that each task of an array has for itself."""
    asked = scontrol()
    assert Job("17", "15_2").requeue() is True
    assert asked.read_text() == "requeue 17\n"


def test_a_requeue_that_is_refused_is_told(scontrol, caplog):
    """In Slurm's own words; it raises nothing, for the state is saved and the program is to end."""
    scontrol(1, "Requested operation is presently disabled")
    assert Job("17", "17").requeue() is False
    assert "job 17 was not requeued: Requested operation is presently disabled. Its state is saved" in caplog.text


def test_a_requeue_without_scontrol_is_told(tmp_path, monkeypatch, caplog):
    """Within a container, say."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Job("17", "17").requeue() is False
    assert "there is no scontrol here" in caplog.text


ENDING = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize(
    ("inside", "options", "expected"),
    [
        (True, {}, (*ENDING, signal.SIGUSR1)),
        (True, {"requeue_signal": signal.SIGHUP}, (*ENDING, signal.SIGHUP)),
        (True, {"requeue_signal": signal.SIGTERM}, ENDING),
        (True, {"auto_requeue": False}, ENDING),
        (False, {}, ENDING),
    ],
)
def test_the_signals_that_a_fit_answers(monkeypatch, inside, options, expected):
    """The requeue signal within a job alone: elsewhere it is nobody's business of ours."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name, value in BATCH.items() if inside else ():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment(**options).signals() == expected


@pytest.mark.parametrize(
    ("options", "pending", "expected"),
    [
        ({}, signal.SIGUSR1, True),
        ({}, signal.SIGTERM, False),
        ({}, None, False),
        ({"auto_requeue": False}, signal.SIGUSR1, False),
        ({"requeue_signal": signal.SIGTERM}, signal.SIGTERM, True),
    ],
)
def test_only_the_requeue_signal_requeues(monkeypatch, options, pending, expected):
    """Slurm itself requeues what it preempts by SIGTERM, and what a user cancels is to stay away."""
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    assert (SLURMEnvironment(**options).to_requeue(pending) is not None) is expected


def test_it_is_found_among_plugins():
    """Alone or in a list; there is one by default, and two are an error."""
    own = SLURMEnvironment(auto_requeue=False)
    assert SLURMEnvironment.among(own) == (own, [])
    assert SLURMEnvironment.among(["x", own]) == (own, ["x"])
    assert SLURMEnvironment.among(None)[0].auto_requeue is True
    with pytest.raises(ConfigError, match="two SLURMEnvironment"):
        SLURMEnvironment.among([own, own])
