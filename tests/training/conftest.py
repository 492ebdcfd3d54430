"""What tests of training share: children that have imported torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkserver import serving

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def server():
    """Forks children that have imported torch and the trainer, and find the modules of this folder."""
    with serving("torch", "holdfast.training.trainer", beside=HERE) as running:
        yield running
