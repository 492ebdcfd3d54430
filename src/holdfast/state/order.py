"""The indices of one pass over a loader, from any batch on. Skips indices by slicing; never touches the data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from holdfast.state.samplers import GlobalSampler

_AT_ONCE = 1 << 16  # samples made Python numbers at a time: a whole permutation of them would take 36 bytes a sample
_DRAWS = 32  # what a RandomSampler with replacement draws at a time


@dataclass(frozen=True)
class Samples:
    """The samples of a pass, in their order.

    Args:
        order: Their indices, or places in ``names``.
        names: What the places stand for; None where they are the indices.
    """

    order: torch.Tensor | Sequence[int]
    names: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.order)

    def part(self, begin: int, end: int) -> list[Any]:
        """The indices from ``begin`` up to ``end``."""
        part = self.order[begin:end]
        places = part.tolist() if isinstance(part, torch.Tensor) else list(part)
        return places if self.names is None else [self.names[place] for place in places]


class Drawn:
    """A pass whose order is known from its beginning: of torch's own samplers, and of ours.

    Args:
        samples: All samples of the pass.
        size: Samples in a batch; None where each sample is a batch of its own, without a list around it.
        drop_last: Whether a last batch that is not full is left out.
    """

    def __init__(self, samples: Samples, size: int | None, drop_last: bool) -> None:
        self._samples, self._size = samples, size
        whole, rest = divmod(len(samples), size or 1)
        self._count = whole + (rest > 0 and not drop_last)

    def batches(self, first: int, stop: int | None) -> Iterator[Any]:
        """The indices of batch ``first`` and those after it, up to ``stop``."""
        count = self._count if stop is None else min(stop, self._count)
        size = self._size or 1
        at_once = max(1, _AT_ONCE // size)
        for begin in range(first, count, at_once):
            part = self._samples.part(begin * size, min(begin + at_once, count) * size)
            if self._size is None:
                yield from part
            else:
                for place in range(0, len(part), size):
                    yield part[place : place + size]

    def mark(self, batch: int) -> str | None:
        """What tells the indices of a batch from others."""
        size = self._size or 1
        part = self._samples.part(batch * size, (batch + 1) * size)
        return mark(part if self._size else part[0]) if part else None


class Followed:
    """A pass whose order only its sampler knows: a user's, which is gone through.

    Args:
        source: Gives the indices of each batch.
        ahead: How many batches may be on their way to training: so many marks are remembered.
    """

    def __init__(self, source: Iterable[Any], ahead: int) -> None:
        self._source = iter(source)
        self._recent: deque[tuple[int, Any]] = deque(maxlen=ahead + 2)

    def batches(self, first: int, stop: int | None) -> Iterator[Any]:
        """The indices of batch ``first`` and those after it; those before it are gone through now."""
        numbered = enumerate(self._source if stop is None else islice(self._source, stop))
        for entry in islice(numbered, first):
            self._recent.append(entry)
        return self._noted(numbered)

    def mark(self, batch: int) -> str | None:
        """What tells the indices of a batch from others; None if it is long past, or has no plain indices."""
        return next((mark(index) for number, index in self._recent if number == batch), None)

    def _noted(self, numbered: Iterator[tuple[int, Any]]) -> Iterator[Any]:
        for entry in numbered:
            self._recent.append(entry)
            yield entry[1]


def mark(index: Any) -> str | None:
    """A short text that tells indices from others; None where they are not plain."""
    plain = all(isinstance(i, int | str) for i in index) if isinstance(index, list | tuple) else isinstance(index, int)
    return blake2b(repr(index).encode(), digest_size=8).hexdigest() if plain else None


def batching(loader: Any) -> tuple[Any, int | None, bool] | None:
    """The sampler, batch size and ``drop_last`` of a loader whose batches are made by torch's rule; else None."""
    if loader.batch_sampler is None:
        return loader.sampler, None, False
    batches = loader.batch_sampler
    if type(batches).__iter__ is not BatchSampler.__iter__:
        return None
    return batches.sampler, batches.batch_size, batches.drop_last


def is_known(sampler: Any) -> bool:
    """Whether the order of a sampler is known from its beginning."""
    return _rule(sampler) in _RULES


def takes_seed(sampler: Any) -> bool:
    """Whether its order follows from one number that it draws from torch's global generator."""
    return _rule(sampler) is RandomSampler.__iter__ and sampler.generator is None


def takes_torch(sampler: Any) -> bool:
    """Whether it draws its whole order from torch's global generator."""
    return _rule(sampler) in (WeightedRandomSampler.__iter__, SubsetRandomSampler.__iter__) and (
        sampler.generator is None
    )


def draw(sampler: Any, *, wanted: int | None, seed: int | None) -> Samples:
    """Draw the order of a known sampler, from the same numbers as it would.

    Args:
        sampler: The sampler.
        wanted: So many samples at least; None for all, after which its generator stands where a pass to the end of it
            would have left it.
        seed: The number of one that ``takes_seed``, or of this epoch's order of a ``GlobalSampler``.
    """
    return _RULES[_rule(sampler)](sampler, wanted, seed)


def _rule(sampler: Any) -> Any:
    return getattr(type(sampler), "__iter__", None)


def _sequential(sampler: SequentialSampler, wanted: int | None, seed: int | None) -> Samples:
    return Samples(range(len(sampler.data_source)))


def _random(sampler: RandomSampler, wanted: int | None, seed: int | None) -> Samples:
    n, total, own = len(sampler.data_source), sampler.num_samples, sampler.generator is None
    generator = torch.Generator().manual_seed(seed) if seed is not None and own else sampler.generator
    if sampler.replacement:
        count = total if wanted is None else min(total, -(-wanted // _DRAWS) * _DRAWS)
        return Samples(torch.randint(n, (count,), dtype=torch.int64, generator=generator))
    count = total if wanted is None else min(total, wanted)
    passes = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    if wanted is None and total % n == 0 and not own:
        torch.randperm(n, generator=generator)  # the sampler draws one more when it is asked beyond its last sample
    order = passes[0] if len(passes) == 1 else torch.cat(passes)
    return Samples(order[:total])


def _weighted(sampler: WeightedRandomSampler, wanted: int | None, seed: int | None) -> Samples:
    weights, count = sampler.weights, sampler.num_samples
    return Samples(torch.multinomial(weights, count, sampler.replacement, generator=sampler.generator))


def _subset(sampler: SubsetRandomSampler, wanted: int | None, seed: int | None) -> Samples:
    return Samples(torch.randperm(len(sampler.indices), generator=sampler.generator), sampler.indices)


def _shared(sampler: DistributedSampler[Any], wanted: int | None, seed: int | None) -> Samples:
    return Samples(list(sampler))


def _global(sampler: GlobalSampler, wanted: int | None, seed: int | None) -> Samples:
    return Samples(sampler.indices(seed))


_RULES: dict[Any, Callable[[Any, int | None, int | None], Samples]] = {
    SequentialSampler.__iter__: _sequential,
    RandomSampler.__iter__: _random,
    WeightedRandomSampler.__iter__: _weighted,
    SubsetRandomSampler.__iter__: _subset,
    DistributedSampler.__iter__: _shared,
    GlobalSampler.__iter__: _global,
}
