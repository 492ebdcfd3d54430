"""What tests of training share: children that have imported torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forkserver import serving

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def server():
    """Forks children that have imported torch and the trainer, and find the modules of this folder."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])))
    with serving("torch", "holdfast.training.trainer") as running:
        yield running
    patch.undo()
