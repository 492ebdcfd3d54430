"""What the crash tests share."""

from __future__ import annotations

import json

import pytest

from forkserver import serving


@pytest.fixture(scope="session")
def forks():
    """A server that forks children with torch imported."""
    # An optimizer imports torch._dynamo when it is made, which takes a second: once is enough.
    with serving("torture.child", "torch._dynamo") as server:
        yield server


@pytest.fixture(scope="session")
def oracle(forks):
    """The fingerprint of the training child's weights by step, from a run that never stopped."""

    def compute(steps):
        with forks.start("torture.child:oracle", steps) as child:
            weights = json.loads(child.stdout.readline())
            assert child.wait() == 0
        return weights

    return compute
