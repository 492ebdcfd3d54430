"""What tests of many ranks share: processes that have imported torch, forked as ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkserver import serving
from many_ranks import Ranks

HERE = Path(__file__).parent
# An optimizer imports torch._dynamo when it is made, which takes a second: once is enough.
LOADED = (
    "torch", "torch._dynamo", "torch.distributed.fsdp", "holdfast.strategies.fsdp", "holdfast.training.trainer",
    "holdfast.training.saving", "holdfast.training.finding", "holdfast.training.resume", "holdfast.training.loading",
)  # fmt: skip


@pytest.fixture(scope="session")
def forks():
    """Forks children that find the modules of this folder."""
    with serving(*LOADED, beside=HERE) as running:
        yield running


@pytest.fixture(scope="session")
def ranks(forks, tmp_path_factory):
    """Starts groups of ranks."""
    return Ranks(forks, tmp_path_factory.mktemp("ranks"))
