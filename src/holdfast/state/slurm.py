"""Know the Slurm job that this process is of, and ask Slurm to put it back in its queue. Saves and stops nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import ConfigError
from holdfast.log import logger

_PATIENCE = 60.0  # seconds that scontrol may take


@dataclass(frozen=True)
class Job:
    """A Slurm job.

    Args:
        id: Its number; each task of an array has one of its own.
        name: As people know it: for a task of an array ``ARRAY_TASK``.
        cluster: Its cluster; numbers of two clusters may be the same.
        restarts: How often Slurm has started it again.
    """

    id: str
    name: str
    cluster: str = ""
    restarts: int = 0

    @property
    def key(self) -> str:
        """What tells it from all other jobs."""
        return f"{self.cluster}/{self.id}"

    def requeue(self) -> bool:
        """Ask Slurm to start this job again; whether it will. Slurm then ends it at once. Never raises."""
        scontrol = shutil.which("scontrol")
        if scontrol is None:
            why = "there is no scontrol here"
        else:
            try:
                done = subprocess.run(  # noqa: S603 # fixed words and a number
                    [scontrol, "requeue", self.id], capture_output=True, text=True, timeout=_PATIENCE, check=False
                )
                if done.returncode == 0:
                    logger.info("Slurm: job %s is requeued", self.name)
                    return True
                why = (done.stderr or done.stdout).strip() or f"scontrol ended with {done.returncode}"
            except (OSError, subprocess.TimeoutExpired) as error:
                why = str(error)
        logger.error("Slurm: job %s was not requeued: %s. Its state is saved: submit it again.", self.name, why)
        return False


def job(environ: Mapping[str, str] = os.environ) -> Job | None:
    """The job that this process is of; None outside Slurm, and in an interactive session."""
    number = environ.get("SLURM_JOB_ID", "")
    if not number.isdigit() or environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    return Job(
        number,
        f"{array}_{task}" if array and task else number,
        environ.get("SLURM_CLUSTER_NAME", ""),
        int(restarts) if restarts.isdigit() else 0,
    )


def of_job(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a checkpoint says of the job that wrote it: nothing outside Slurm."""
    found = job(environ)
    return {} if found is None else {"job": found.key}


class SLURMEnvironment:
    """How a Trainer behaves in a Slurm job: ``Trainer(plugins=[SLURMEnvironment(auto_requeue=False)])``.

    Without one it behaves as with ``SLURMEnvironment()``.

    Args:
        auto_requeue: Whether the requeue signal asks Slurm to start the job again, and a job that was started again
            goes on from what it had saved, whatever ``ckpt_path`` says.
        requeue_signal: The signal that asks for it; None is SIGUSR1, which ``#SBATCH --signal=SIGUSR1@90`` sends.
    """

    def __init__(self, auto_requeue: bool = True, requeue_signal: signal.Signals | None = None) -> None:
        self.auto_requeue = auto_requeue
        self.requeue_signal = signal.SIGUSR1 if requeue_signal is None else signal.Signals(requeue_signal)

    @classmethod
    def among(cls, plugins: Any) -> tuple[SLURMEnvironment, list[Any]]:
        """The one among a trainer's ``plugins``, or the default; and the others.

        Raises:
            ConfigError: There are two.
        """
        given = [] if plugins is None else list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
        found = [one for one in given if isinstance(one, cls)]
        if len(found) > 1:
            raise ConfigError("plugins= has two SLURMEnvironment, and a job is in one")
        return (found or [cls()])[0], [one for one in given if not isinstance(one, cls)]

    def signals(self) -> tuple[signal.Signals, ...]:
        """The signals that a fit answers here."""
        ending = (signal.SIGTERM, signal.SIGINT)
        if job() is None or not self.auto_requeue or self.requeue_signal in ending:
            return ending
        return (*ending, self.requeue_signal)

    def to_requeue(self, pending: signal.Signals | None) -> Job | None:
        """The job to requeue after a signal; None where it asks for nothing of the kind."""
        return job() if self.auto_requeue and pending == self.requeue_signal else None

    def restarted(self) -> Job | None:
        """This job, where Slurm has started it again and it is to go on by itself."""
        found = job()
        return found if self.auto_requeue and found is not None and found.restarts > 0 else None
