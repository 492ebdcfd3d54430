"""The ranks of one host share what they read: the disk gives a checkpoint once, and no rank copies its weights."""

from __future__ import annotations

import torch

from holdfast.store import LocalStore
from saving import NAME, save

LAYERS, NUMBERS = 8, 2**21
BYTES = LAYERS * NUMBERS * 4


def test_many_ranks_of_a_host_read_a_file_once(ranks, tmp_path):
    """It was written past the page cache, so the first to come reads the disk; the others find it there."""
    save(LocalStore(tmp_path), {"model": {f"w{n}": torch.ones(NUMBERS) for n in range(LAYERS)}})
    each = [rank.value for rank in ranks.run("reading:opened", str(tmp_path / NAME), size=3)]
    assert sum(rank["disk"] for rank in each) < 1.2 * BYTES
    assert max(rank["own"] for rank in each) < BYTES / 4
