"""A Slurm of one node, this one, in a folder: its daemons, and the commands that talk to them. Needs root."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol")
PATIENCE = 120.0  # seconds; only ever waited out by a test that fails

CONFIG = """\
ClusterName=one
SlurmctldHost={node}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
SlurmctldPort={port}
SlurmdPort={other}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=10
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=p Nodes={node} Default=YES MaxTime=10 State=UP
"""


def missing() -> str:
    """Why there can be none here; empty if there can."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root"


class Cluster:
    """The daemons, running until the block ends.

    Args:
        root: A folder with a short path, for a socket lies in it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        root, node = self._root, platform.node().partition(".")[0]
        for name in ("state", "spool"):
            (root / name).mkdir()
        key = root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        config = CONFIG.format(root=root, node=node, port=_port(), other=_port(), cpus=os.cpu_count())
        (root / "slurm.conf").write_text(config)
        own = [f"--{name}={root}/munge.{name.partition('-')[0]}" for name in ("log-file", "pid-file", "seed-file")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={root}/munge.socket", *own)
        self.until(lambda: (root / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D", "-f", str(root / "slurm.conf"))
        self.until(lambda: "UP" in self.say("scontrol", "ping", check=False), "slurmctld")
        self._start("slurmd", "-D", "-f", str(root / "slurm.conf"))
        self.until(lambda: "State=IDLE" in self.say("scontrol", "show", "node", check=False), "slurmd")
        return self

    def __exit__(self, *_: object) -> None:
        self.say("scancel", "--user=root", check=False)
        # What waits to tell slurmctld of a job's end would wait for ever.
        busy = re.compile("JobState=(RUNNING|COMPLETING)")
        self.until(lambda: not busy.search(self.say("scontrol", "show", "job", check=False)), "the jobs' ends")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def say(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands; what it says."""
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment(), check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        words = self.say("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something is true."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE:g} s\n{self._logs()}"
            time.sleep(0.1)

    def _start(self, *command: str) -> None:
        with (self._root / "daemons.log").open("ab") as log:
            daemon = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment()
            )
        self._daemons.append(daemon)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self._root / "slurm.conf")}

    def _logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self._root.glob("*.log")))


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
