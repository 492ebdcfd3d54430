"""What tests of the engine on many ranks share: a process that has imported torch, forked as ranks."""

from __future__ import annotations

import pytest

from forkserver import serving
from many_ranks import Ranks


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    """Starts groups of ranks."""
    with serving("engine.group_child", "engine.ranks_child") as forks:
        yield Ranks(forks, tmp_path_factory.mktemp("ranks"))
