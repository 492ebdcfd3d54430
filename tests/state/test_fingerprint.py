"""What a fingerprint tells apart, and what it does not."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from holdfast.state import fingerprint
from holdfast.state.samplers import GlobalSampler

DATA = TensorDataset(torch.arange(12.0))


def sampling(sampler=None, **options):
    """How a loader's order is told."""
    return fingerprint.of_loader(DataLoader(DATA, batch_size=4, sampler=sampler, **options))["sampler"]


def test_each_rule_of_sampling_is_told_apart():
    """By its kind, its settings, and its numbers."""
    told = [
        sampling(),
        sampling(shuffle=True),
        sampling(shuffle=True, drop_last=True),
        sampling(RandomSampler(DATA, replacement=True)),
        sampling(WeightedRandomSampler([1.0] * 12, 12)),
        sampling(WeightedRandomSampler([2.0] * 12, 12)),
        sampling(WeightedRandomSampler([2.0] * 12, 12, replacement=False)),
        sampling(SubsetRandomSampler(range(6))),
        sampling(SubsetRandomSampler(list(range(7)))),
        sampling(SubsetRandomSampler(["a", "b"])),
        sampling(DistributedSampler(DATA, 2, 0, seed=1)),
        sampling(DistributedSampler(DATA, 2, 0, seed=2)),
    ]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(("shuffle", "alone"), [(True, RandomSampler(DATA)), (False, SequentialSampler(DATA))])
def test_one_order_shared_among_ranks_is_that_order(shuffle, alone):
    """Going on with another number of ranks changes nothing that is told of it."""
    assert sampling(GlobalSampler(DATA, rank=1, size=2, shuffle=shuffle)) == sampling(alone)
    weighted = WeightedRandomSampler([1.0] * 12, 12)
    assert sampling(GlobalSampler(weighted, rank=0, size=2)) == sampling(weighted)


def test_ten_million_weights_are_told_in_moments():
    """They are as many as samples; one that differs differs."""
    weights = torch.ones(10_000_000, dtype=torch.float64)
    began = time.monotonic()
    before = fingerprint._rule(WeightedRandomSampler(weights, 10, replacement=True))
    assert time.monotonic() - began < 30
    weights[5] = 2
    assert fingerprint._rule(WeightedRandomSampler(weights, 10, replacement=True)) != before


def test_a_stepped_scheduler_has_the_fingerprint_of_a_new_one():
    """What moves is no setting, in one that holds others too."""

    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        inner = [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.StepLR(optimizer, 3)]
        return optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, inner, [2])

    _, fresh = make()
    optimizer, stepped = make()
    for _ in range(5):
        optimizer.step()
        stepped.step()
    assert fingerprint.of_scheduler(stepped) == fingerprint.of_scheduler(fresh)
    assert fingerprint.of_scheduler(fresh)["settings"]["_schedulers"][1] == {"step_size": 3, "gamma": 0.1}


def test_it_is_made_of_plain_values():
    """A file of them opens for everybody: strings of torch's own kind, tensors and tuples are none."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.5))
    found = {**fingerprint.of_process(), **fingerprint.of_optimizers([optimizer])}

    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        return set().union(*map(kinds, value)) if isinstance(value, list) else {type(value)}

    assert kinds(found) <= {str, int, float, bool, type(None)}
    assert found["lr"] == [[0.5]]
    assert found["optimizer"][0]["groups"][0]["betas"] == [0.9, 0.999]
