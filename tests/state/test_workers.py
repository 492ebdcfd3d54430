"""The seeds of workers: which batch gets which, and how they reach the worker."""

from __future__ import annotations

import pickle
import random
from itertools import islice, pairwise
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from holdfast.state.random import capture, restore
from holdfast.state.workers import seeds, tasks

FIRST = {"base": 7, "epoch": 0, "first": 0, "rank": 0}


def some(count=40, **which):
    """The first seeds of a pass."""
    return list(islice(seeds(**{**FIRST, **which}), count))


@pytest.mark.parametrize("first", [1, 7, 8, 9, 23])
def test_a_batch_has_its_seed_wherever_a_pass_is_gone_on_with(first):
    """Within a digest, at its end, beyond it."""
    assert some(40 - first, first=first) == some()[first:]


def test_no_two_batches_share_a_seed():
    """Neighbours in base seed, epoch, rank and batch: 64 bits each, and 32 of them for NumPy."""
    found = [
        one for base in range(7, 12) for epoch in range(5) for rank in range(5)
        for one in some(base=base, epoch=epoch, rank=rank)
    ]  # fmt: skip
    assert len(set(found)) == len(found) == 5000
    assert max(found) > 2**63
    assert all(0 <= one < 2**64 for one in found)
    assert len({one & 0xFFFFFFFF for one in found}) > 4990


def test_a_bit_of_a_seed_tells_nothing_of_the_next():
    """Of neighbouring batches half the bits differ, as of coins: 100,000 pairs of bits, within five deviations."""
    numbers = some(1564)
    differing = sum((a ^ b).bit_count() for a, b in pairwise(numbers))
    assert abs(differing - 50_016) < 5 * (100_032 / 4) ** 0.5


@pytest.mark.parametrize("pickler", [ForkingPickler, pickle])
def test_indices_arrive_as_they_are_and_the_generators_stand_where_the_seed_says(pickler):
    """Through the pickler of a loader's queue, and through anybody's: equal to seeding each library by hand."""
    before = capture()
    try:
        (task,) = tasks([[3, 1, 2]], base=7, epoch=0, first=5, rank=0)
        sent = bytes(pickler.dumps((4, task)))
        random.seed(0)
        assert pickle.loads(sent) == (4, [3, 1, 2])
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        (seed,) = some(1, first=5)
        by_hand = torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
        assert drawn == (random.Random(seed).random(), np.random.RandomState(seed % 2**32).rand(), by_hand)
    finally:
        restore(before)
