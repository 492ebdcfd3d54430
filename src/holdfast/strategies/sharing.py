"""Give each rank its share of the samples of a loader, whatever stands around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from holdfast.log import logger
from holdfast.state.samplers import GlobalSampler, sampler_of, sharing, with_sampler


def shared_out(loaders: Any, *, rank: int, size: int, training: bool, seed: int, together: bool = False) -> Any:
    """The loader, or each of several, with a sampler that gives this rank every ``size``-th sample.

    Training shuffles where the loader did, and repeats a few samples so that all ranks have as many; otherwise no
    sample is counted twice, and some ranks may have one more than others, unless every forward pass takes all ranks:
    then a few count twice, which is said. A loader that has a sampler for ranks
    already stays as it is, and so does one that is not torch's or has no indices, which is said.

    Args:
        loaders: A loader, or a list or mapping of them.
        rank: This rank.
        size: How many there are.
        training: Whether they are trained on.
        seed: Of the order, the same on all ranks.
        together: Whether a forward pass takes all ranks, also where nothing is trained.
    """
    again = partial(shared_out, rank=rank, size=size, training=training, seed=seed, together=together)
    if isinstance(loaders, Mapping):
        return type(loaders)(  # type: ignore[call-arg]  # mappings of this kind are made of mappings
            {key: again(one) for key, one in loaders.items()}
        )
    if isinstance(loaders, (list, tuple)):
        return type(loaders)(again(one) for one in loaders)
    shared: Callable[[Callable[[Any], Any]], Any] | None = getattr(loaders, "with_each", None)
    if shared is not None:  # several loaders in one
        return shared(again)
    if not isinstance(loaders, DataLoader) or isinstance(loaders.dataset, IterableDataset):
        what = "dataset" if isinstance(loaders, DataLoader) else "loader"
        logger.warning(
            "each of the %s ranks reads all that the %s gives: Holdfast can share out torch's loaders with indices. "
            "Split it by rank yourself, and pass use_distributed_sampler=False.", size, what,
        )  # fmt: skip
        return loaders
    sampler = sampler_of(loaders)
    if isinstance(sampler, (DistributedSampler, GlobalSampler)):
        return loaders
    shared_sampler = sharing(
        sampler,
        loaders.dataset,
        rank=rank,
        size=size,
        shuffle=training,
        seed=seed,
        uneven="repeat" if training or together else "leave",
    )
    if together and not training and (over := len(shared_sampler) * size - len(shared_sampler.source)):
        logger.warning(
            "%s of %s samples count twice in this evaluation: with sharded parameters every forward pass takes all %s "
            "ranks, so that they need as many.", over, len(shared_sampler.source), size,
        )  # fmt: skip
    return with_sampler(loaders, shared_sampler)
