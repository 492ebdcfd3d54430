"""A job of a real Slurm is put back in the queue by its warning signal, and goes on by itself."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import pytest

from holdfast.catalog.folder import Folder
from holdfast.catalog.resolve import check
from holdfast.catalog.verify import Verdict
from holdfast.store import LocalStore
from slurm.cluster import Cluster, missing
from slurm.train import BATCHES, EPOCHS

pytestmark = [
    pytest.mark.skipif("HOLDFAST_EXTRA" not in os.environ, reason="starts daemons: make test-extra"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(600),
]

JOB = """\
#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@90
#SBATCH --output={log}
exec {python} {program} {folder}
"""


@pytest.fixture(scope="module")
def cluster():
    """A Slurm of this machine alone; its socket wants a short path."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as root, Cluster(Path(root)) as running:
        yield running


def submit(cluster, folder, *options):
    """Submit the program; the job's number, and where it writes."""
    log, script = folder / "job.log", folder / "job.sh"
    program = Path(__file__).with_name("train.py")
    script.write_text(JOB.format(log=log, python=sys.executable, program=program, folder=folder / "run"))
    log.touch()
    return cluster.say("sbatch", "--parsable", *options, str(script)).strip(), log


def test_a_signalled_job_is_requeued_and_goes_on_at_its_very_step(cluster, tmp_path):
    """USR1 in mid-epoch: that step is saved, Slurm starts the job again, and it trains what is left, no step twice."""
    job, log = submit(cluster, tmp_path)
    cluster.until(lambda: "training" in log.read_text(), "the job's first step")
    cluster.say("scancel", "--signal=USR1", "--batch", job)
    cluster.until(lambda: cluster.state(job).get("Restarts") == "1", "the requeue")
    cluster.until(lambda: cluster.state(job)["JobState"] == "PENDING", "the queue")
    time.sleep(3)  # a node refuses a job that begins in the second in which it was killed there: a rule of Slurm's

    def started_again():
        # Slurm holds a requeued job back for two minutes, and sets that time a while after it says so.
        cluster.say("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        return "restart 1" in log.read_text()

    cluster.until(started_again, "the second start")
    cluster.until(lambda: f"done at step {EPOCHS * BATCHES}" in log.read_text(), "the job's end")
    said = log.read_text()
    saved = int(re.search(r"SIGUSR1: saved at step (\d+), stopping", said)[1])
    resumed = int(re.search(r"resumed from .*, step (\d+), epoch \d+", said.split("restart 1")[1])[1])
    assert 0 < saved == resumed < EPOCHS * BATCHES
    assert "exact         yes" in said
    folder = Folder(LocalStore(tmp_path / "run"))
    assert [check(folder, record).verdict for record in folder.scan().records] == [Verdict.WHOLE]
    facts = [json.loads(line) for line in (tmp_path / "run/.holdfast/ledger.jsonl").read_text().splitlines()]
    assert len({fact["run"]["id"] for fact in facts if fact["fact"] == "run"}) == 1, "it is one run"


def test_a_job_that_slurm_will_not_requeue_ends_with_its_state_saved(cluster, tmp_path):
    """Slurm refuses, the log says so, and the step is there."""
    job, log = submit(cluster, tmp_path, "--no-requeue")
    cluster.until(lambda: "training" in log.read_text(), "the job's first step")
    cluster.say("scancel", "--signal=USR1", "--batch", job)
    cluster.until(lambda: cluster.state(job)["JobState"] == "FAILED", "the job's end")
    assert cluster.state(job)["ExitCode"] == "138:0"
    assert f"Slurm: job {job} was not requeued" in log.read_text()
    assert len(Folder(LocalStore(tmp_path / "run")).scan().records) == 1
