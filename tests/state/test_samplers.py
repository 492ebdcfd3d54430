"""One order of samples for any number of ranks."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler

from holdfast.errors import ConfigError
from holdfast.state.samplers import GlobalSampler, sampler_of, with_sampler


def read(size, *, samples=24, epoch=0, **options):
    """What each of ``size`` ranks reads."""
    ranks = [GlobalSampler(range(samples), rank=rank, size=size, **options) for rank in range(size)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in ranks]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_ranks_take_turns_in_one_order(size):
    """Put together again, the shares are the order of a single rank; with the same seed and epoch."""
    (alone,) = read(1, seed=5, epoch=3)
    assert sorted(alone) == list(range(24))
    assert [index for turn in zip(*read(size, seed=5, epoch=3), strict=True) for index in turn] == alone


def test_the_order_hangs_on_seed_and_epoch_alone():
    """Not on the global generators, which are not drawn from."""
    torch.manual_seed(1)
    first = read(2, seed=5)
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == drawn
    assert read(2, seed=5) == first
    assert first not in (read(2, seed=6), read(2, seed=5, epoch=1))
    assert read(1, shuffle=False) == [list(range(24))]


UNEVEN = {
    # seven samples among four ranks: how many each reads, and how often samples are read in all
    "repeat": ([2, 2, 2, 2], {1, 2}),
    "drop": ([1, 1, 1, 1], {0, 1}),
    "leave": ([2, 2, 2, 1], {1}),
}


@pytest.mark.parametrize("uneven", UNEVEN)
def test_what_cannot_be_shared_evenly_is_repeated_dropped_or_left(uneven):
    """For training every rank has as many; an evaluation counts each sample exactly once."""
    counts, often = UNEVEN[uneven]
    shares = read(4, samples=7, uneven=uneven)
    assert [len(share) for share in shares] == counts
    assert [len(GlobalSampler(range(7), rank=r, size=4, uneven=uneven)) for r in range(4)] == counts
    everything = [index for share in shares for index in share]
    assert {everything.count(index) for index in range(7)} == often


def test_fewer_samples_than_ranks():
    """All get one, by repeating; none gets any that must not be repeated."""
    assert [len(share) for share in read(5, samples=2)] == [1] * 5
    assert [len(share) for share in read(5, samples=2, uneven="leave")] == [1, 1, 0, 0, 0]
    assert read(3, samples=0) == [[], [], []]


class Shuffling:
    """A sampler of a user's that draws from every global generator."""

    def __iter__(self):
        drawn = random.randrange(5), int(np.random.randint(5)), int(torch.randint(5, ()))
        return iter([(sum(drawn) + i) % 12 for i in range(12)])

    def __len__(self):
        return 12


@pytest.mark.parametrize(
    "make",
    [
        Shuffling,
        lambda: WeightedRandomSampler([0.1, 0.2, 0.7], 12),
        lambda: RandomSampler(range(9), replacement=True, num_samples=12, generator=torch.Generator()),
    ],
)
def test_a_users_sampler_gives_all_ranks_one_order(make):
    """Whatever their own random state is, which stays as it was; another one in the next epoch."""

    def shares(epoch):
        found = []
        for rank in range(3):
            random.seed(rank), np.random.seed(rank), torch.manual_seed(rank)
            sampler = GlobalSampler(make(), rank=rank, size=3, seed=8)
            sampler.set_epoch(epoch)
            found.append(list(sampler))
            after = random.random(), np.random.rand(), torch.rand(()).item()
            random.seed(rank), np.random.seed(rank), torch.manual_seed(rank)
            assert (random.random(), np.random.rand(), torch.rand(()).item()) == after
        return [index for turn in zip(*found, strict=True) for index in turn]

    alone = GlobalSampler(make(), seed=8)
    assert shares(0) == list(alone)
    assert {tuple(shares(epoch)) for epoch in range(4)} != {tuple(shares(0))}


def test_a_loader_with_another_sampler_is_like_it_in_all_else():
    """Its class, batch size and options; its batch sampler, over the new order. It stays as it is itself."""

    class Mine(DataLoader):
        def __init__(self, rows):
            super().__init__(range(rows), batch_size=3, shuffle=True, drop_last=True, timeout=0)

    loader = Mine(10)
    other = with_sampler(loader, SequentialSampler(loader.dataset))
    assert isinstance(other, Mine)
    assert [batch.tolist() for batch in other] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert len(other) == 3
    assert isinstance(loader.sampler, RandomSampler)
    assert isinstance(loader.batch_sampler.sampler, RandomSampler)
    batched = DataLoader(range(6), batch_sampler=BatchSampler(RandomSampler(range(6)), 2, drop_last=False))
    assert isinstance(sampler_of(batched), RandomSampler)
    assert [b.tolist() for b in with_sampler(batched, range(5, -1, -1))] == [[5, 4], [3, 2], [1, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlobalSampler(range(4), rank=2, size=2), "Rank 2 is none of 2"),
        (lambda: GlobalSampler(iter(())), "without a length"),
        (lambda: GlobalSampler(range(4), uneven="pad"), "uneven= is 'repeat', 'drop' or 'leave', not 'pad'"),
        (
            lambda: with_sampler(DataLoader(range(4), batch_sampler=[[0, 1]]), range(4)),
            "batches are made by a list",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(make, message):
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        make()
