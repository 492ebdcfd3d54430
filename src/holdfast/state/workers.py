"""Reseed the workers of a loader for each batch, from numbers that say which batch it is. Draws from no generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import torch


class Task:
    """The indices of one batch on their way to a worker, which is reseeded when they arrive.

    The indices themselves arrive as they are: neither the dataset nor its ``worker_init_fn`` meets an object of ours.

    Args:
        base: The base seed of the loader's workers.
        epoch: The pass over the loader, counted from 0.
        batch: The batch of that pass, counted from 0.
        rank: The rank that reads it: ranks seeded alike are to draw differently.
        index: What the loader's sampler gave for it.
    """

    __slots__ = ("base", "batch", "epoch", "index", "rank")

    def __init__(self, base: int, epoch: int, batch: int, rank: int, index: Any) -> None:
        self.base, self.epoch, self.batch, self.rank, self.index = base, epoch, batch, rank, index

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int, int, int, int, Any]]:
        return _arrive, (self.base, self.epoch, self.batch, self.rank, self.index)


def tasks(indices: Iterable[Any], *, base: int, epoch: int, first: int, rank: int) -> Iterator[Task]:
    """The indices of each batch as a task; the first of them is batch ``first`` of the pass."""
    for batch, index in enumerate(indices, first):
        yield Task(base, epoch, batch, rank, index)


def seed(base: int, epoch: int, batch: int, rank: int) -> int:
    """The seed of one batch, from 0 to 2**64 - 1."""
    text = f"{base}:{epoch}:{batch}:{rank}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _arrive(base: int, epoch: int, batch: int, rank: int, index: Any) -> Any:
    number = seed(base, epoch, batch, rank)
    random.seed(number)
    np.random.seed(number % 2**32)
    # Not torch.manual_seed: it would note the seed for devices too, with a stack trace, in every worker and batch.
    torch.default_generator.manual_seed(number)
    return index
