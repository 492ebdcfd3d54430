"""Reseed the workers of a loader for each batch, by a number that tells which batch it is. Draws from no generator."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import count, islice
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch

_AT_ONCE = 8  # seeds of 64 bits in a digest: one hash serves as many batches


class Task:
    """The indices of one batch on their way to a worker, which is reseeded when they arrive.

    The indices themselves arrive as they are: neither the dataset nor its ``worker_init_fn`` meets an object of ours.

    Args:
        seed: The seed of the batch.
        index: What the loader's sampler gave for it.
    """

    __slots__ = ("index", "seed")

    def __init__(self, seed: int, index: Any) -> None:
        self.seed, self.index = seed, index

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int, Any]]:
        return _arrive, (self.seed, self.index)


# Found at once where a loader's queue pickles it; else the pickler looks through two registers in Python first.
ForkingPickler.register(Task, Task.__reduce__)


def tasks(indices: Iterable[Any], *, base: int, epoch: int, first: int, rank: int) -> Iterator[Task]:
    """The indices of each batch as a task.

    Args:
        indices: Those of the batches, in order.
        base: The base seed of the loader's workers.
        epoch: The pass over the loader, counted from 0.
        first: Which batch of that pass the first of them is, counted from 0.
        rank: The rank that reads them: ranks seeded alike are to draw differently.
    """
    return map(Task, seeds(base, epoch, first, rank), indices)


def seeds(base: int, epoch: int, first: int, rank: int) -> Iterator[int]:
    """The seeds of batch ``first`` and of those after it, without end: each from 0 to 2**64 - 1."""
    block, skipped = divmod(first, _AT_ONCE)
    return islice(_digested(f"{base}:{epoch}:{rank}", block), skipped, None)


def _digested(who: str, block: int) -> Iterator[int]:
    for number in count(block):
        yield from struct.unpack(f"<{_AT_ONCE}Q", blake2b(f"{who}:{number}".encode()).digest())


def _arrive(seed: int, index: Any) -> Any:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed: it would note the seed for devices too, with a stack trace, in every worker and batch.
    torch.default_generator.manual_seed(seed)
    return index
