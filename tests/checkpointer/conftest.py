"""What the tests of the front door share: a quiet torch, and real processes that need no import of it."""

import pytest
import torch

from forkserver import serving


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Two test processes with more threads each get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def forks():
    """A server that forks children with torch imported."""
    with serving("torch", "numpy", "holdfast.checkpointer", "checkpointer.loop") as server:
        yield server
