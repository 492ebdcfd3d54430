"""Share one order of samples among ranks, the same whatever their number. Asks no process group, moves no data."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sized
from copy import copy
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from holdfast.errors import ConfigError
from holdfast.state.random import capture, restore

Uneven = Literal["repeat", "drop", "leave"]
Loader = TypeVar("Loader", bound="DataLoader[Any]")


class GlobalSampler(Sampler[int]):
    """One order of all samples from a seed and the epoch, in which ranks take turns.

    The order knows nothing of the ranks: with the same batch over all ranks together, any number of them reads the same
    samples in the same batches, and a run goes on with another number of ranks where it was.

    Args:
        source: The dataset, or a sampler. A sampler is read once an epoch, under generators seeded with the seed and
            the epoch, so that all ranks get the same order of it.
        rank: Which rank reads, from 0.
        size: How many ranks there are.
        shuffle: Whether a dataset is shuffled; a sampler has its own order.
        seed: The same on all ranks.
        uneven: What becomes of the last samples if they cannot be shared out evenly: ``"repeat"`` the first ones, so
            that all ranks have as many, ``"drop"`` them, or ``"leave"`` some ranks with one sample more. Training needs
            one of the first two, for every rank waits for all others at each step. An evaluation that is to count no
            sample twice needs ``"leave"``, and must not have ranks wait for each other at each batch.

    Raises:
        ConfigError: The rank is none of them, the source has no length, or ``uneven`` is none of the three.
    """

    def __init__(
        self,
        source: Any,
        *,
        rank: int = 0,
        size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        uneven: Uneven = "repeat",
    ) -> None:
        if not 0 <= rank < size:
            raise ConfigError(f"Rank {rank} is none of {size}.")
        if not isinstance(source, Sized):
            raise ConfigError(
                f"A {type(source).__name__} without a length cannot be shared among ranks.",
                remedy="Give it __len__, or split it by rank in the dataset.",
            )
        if uneven not in ("repeat", "drop", "leave"):
            raise ConfigError(f"uneven= is 'repeat', 'drop' or 'leave', not {uneven!r}.")
        self.source: Any = source
        self.rank, self.size = rank, size
        self.shuffle, self.seed, self.uneven = shuffle, seed, uneven
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes."""
        self.epoch = epoch

    def __len__(self) -> int:
        total = len(self.source)
        if self.uneven == "drop":
            return total // self.size
        if self.uneven == "repeat":
            return -(-total // self.size)
        return len(range(self.rank, total, self.size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices().tolist())

    def indices(self, seed: int | None = None) -> torch.Tensor:
        """What this rank reads in this epoch, in its order.

        Args:
            seed: Of this epoch's order; by default it follows from the sampler's seed and the epoch.
        """
        order = self._order(self.seed + self.epoch if seed is None else seed)
        shared = len(self) * self.size
        if self.uneven == "repeat" and len(order):
            order = order.repeat(-(-shared // len(order)))[:shared]
        elif self.uneven == "drop":
            order = order[:shared]
        return order[self.rank :: self.size]

    @property
    def reads_source(self) -> bool:
        """Whether the source is a sampler, with an order of its own."""
        return isinstance(self.source, Sampler) or not hasattr(self.source, "__getitem__")

    def _order(self, seed: int) -> torch.Tensor:
        """All samples of an epoch, the same on every rank."""
        if self.reads_source:
            return torch.tensor(_read_seeded(self.source, seed), dtype=torch.int64)
        if not self.shuffle:
            return torch.arange(len(self.source))
        return torch.randperm(len(self.source), generator=torch.Generator().manual_seed(seed))


def sharing(
    sampler: Any, dataset: Any, *, rank: int, size: int, seed: int, shuffle: bool = True, uneven: Uneven = "repeat"
) -> GlobalSampler:
    """A sampler by which ranks take turns in the order of another one.

    Args:
        sampler: The other one. Of torch's two everyday samplers, in a row and shuffled, the dataset takes the place.
        dataset: What it draws from.
        rank: As for ``GlobalSampler``.
        size: Likewise.
        seed: Likewise.
        shuffle: Whether what it shuffles stays shuffled.
        uneven: As for ``GlobalSampler``.
    """
    shuffles = isinstance(sampler, RandomSampler)
    drawn_otherwise = shuffles and (sampler.replacement or len(sampler) != len(sampler.data_source))
    plain = type(sampler) in (RandomSampler, SequentialSampler) and not drawn_otherwise
    source = dataset if plain else sampler
    return GlobalSampler(source, rank=rank, size=size, shuffle=shuffle and shuffles, seed=seed, uneven=uneven)


def sampler_of(loader: DataLoader[Any]) -> Any:
    """What gives the indices of samples: of a loader with a batch sampler, the one that this asks."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def shared_order(loader: Any) -> dict[str, int] | None:
    """What the order that ranks share follows from, and how many they are; None for a loader with its own order."""
    sampler = sampler_of(loader) if isinstance(loader, DataLoader) else None
    if isinstance(sampler, DistributedSampler):  # torch's, whose order is the same
        return {"seed": sampler.seed, "epoch": sampler.epoch, "ranks": sampler.num_replicas}
    if isinstance(sampler, GlobalSampler):
        return {"seed": sampler.seed, "epoch": sampler.epoch, "ranks": sampler.size}
    return None


def is_shared(place: Mapping[str, Any]) -> bool:
    """Whether the state of a feed, or each of several side by side, is a place in an order that ranks shared."""
    each = place.get("each")
    return place.get("shared") is not None if each is None else all(is_shared(one["place"]) for one in each)


def can_share(loader: Any) -> bool:
    """Whether a loader has the order that ranks share, or can be given it."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    sampler, batches = sampler_of(loader), loader.batch_sampler
    known = isinstance(sampler, Sized) and not isinstance(sampler, DistributedSampler)
    return known and (batches is None or isinstance(batches, BatchSampler))


def in_a_row(sampler: Any) -> bool:
    """Whether a sampler gives the samples in their own order, which ranks and one process have alike."""
    if isinstance(sampler, GlobalSampler):
        return not sampler.shuffle and not sampler.reads_source
    return type(sampler) is SequentialSampler


def go_on_sharing(loader: Any, state: Mapping[str, Any]) -> Any:
    """The loader in the order that ranks shared before, whatever seed it was made with. One process reads all of it.

    Args:
        loader: The loader. One with a ``GlobalSampler`` stays itself, and its sampler gets the seed.
        state: Of a feed: what ``shared_order`` gave then, if anything, and whether that pass was over.
    """
    shared = state.get("shared")
    if shared is None or not can_share(loader):
        return loader
    sampler = sampler_of(loader)
    if isinstance(sampler, GlobalSampler):
        sampler.seed = shared["seed"]
        return loader
    alone = sharing(sampler, loader.dataset, rank=0, size=1, seed=shared["seed"])
    alone.set_epoch(shared["epoch"] + state.get("over", False))
    return with_sampler(loader, alone)


def with_sampler(loader: Loader, sampler: Iterable[Any]) -> Loader:
    """A loader like this one, which reads in the order of ``sampler``. The loader itself stays as it is.

    Args:
        loader: A torch loader of a dataset with indices. Its batches are made as before: of ``batch_size`` samples, or
            by a batch sampler of torch's own over the new order.
        sampler: Gives the indices.

    Raises:
        ConfigError: Batches are made by a batch sampler that Holdfast does not know.
    """
    batches = loader.batch_sampler
    if batches is not None and not isinstance(batches, BatchSampler):
        raise ConfigError(
            f"The loader's batches are made by a {type(batches).__name__}, which has an order of its own.",
            remedy="Use batch_size= and sampler=, or give each rank its share in the batch sampler.",
        )
    if batches is not None:
        batches = copy(batches)
        batches.sampler = sampler
    return replaced(loader, sampler=sampler, batch_sampler=batches)


def replaced(loader: Loader, **attributes: Any) -> Loader:
    """A copy of a loader with other attributes and no workers yet, of whatever class it is."""
    twin = object.__new__(type(loader))
    # A loader refuses new samplers once it is made, and a subclass may have any __init__: this goes below both.
    vars(twin).update(vars(loader), _iterator=None, **attributes)
    return twin


def _read_seeded(sampler: Iterable[int], seed: int) -> list[int]:
    """The indices of a sampler read under seeded generators; afterwards those are as they were."""
    before = capture()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    own = getattr(sampler, "generator", None)
    if isinstance(own, torch.Generator):
        own.manual_seed(seed)
    try:
        return list(sampler)
    finally:
        restore(before)
