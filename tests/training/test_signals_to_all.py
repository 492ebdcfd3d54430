"""A signal that a scheduler sends to every process of a job: the workers of loaders outlive it, for they are needed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from small_fits import steps

CASES = [
    pytest.param("indexed", "fork", signal.SIGTERM, id="indexed"),
    pytest.param("streamed", "fork", signal.SIGTERM, id="streamed"),
    pytest.param("indexed", "fork", signal.SIGINT, id="interrupted"),
    pytest.param("indexed", "spawn", signal.SIGTERM, id="spawned", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dataset", "context", "sig"), CASES)
def test_a_signal_to_all_processes_is_answered_after_the_step(server, tmp_path, dataset, context, sig):
    """As one that the training process alone gets: the step is made and saved, and the exit code says why it ended."""
    with server.start("signalled_child:main", str(tmp_path), dataset, context, int(sig)) as child:
        assert child.wait() == {signal.SIGTERM: 143, signal.SIGINT: 1}[sig]  # how the server ends after Ctrl-C
    assert steps(tmp_path / "last.ckpt") == 3


HELD = """
from torch.utils.data import DataLoader
from holdfast.state.feeds import started
from holdfast.state.signals import Signals

with Signals():
    held = started(DataLoader(range(9), num_workers=2))  # of one, Python itself hears first how it ended
    print(next(held).item())
"""


def test_a_worker_that_is_left_over_ends_with_its_parent():
    """At its exit Python terminates what is left of its children and waits for them; torch finds no fault with that."""
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
