"""Several loaders to train on, read side by side: a batch is a dict or list with one batch of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from holdfast.errors import ConfigError


class Combined:
    """Loaders read side by side until the longest is done; shorter ones begin again.

    Args:
        loaders: By name; each has a length.
        shape: Makes the batch from one batch of each, by name.
    """

    def __init__(self, loaders: Mapping[Any, Any], shape: Callable[[dict[Any, Any]], Any]) -> None:
        self.loaders, self._shape = dict(loaders), shape

    def __len__(self) -> int:
        return max(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[Any]:
        sources = {name: iter(loader) for name, loader in self.loaders.items()}
        for _ in range(len(self)):
            batch = {}
            for name, loader in self.loaders.items():
                try:
                    batch[name] = next(sources[name])
                except StopIteration:
                    sources[name] = iter(loader)
                    batch[name] = next(sources[name])
            yield self._shape(batch)


def combined(given: Any, what: str) -> Any:
    """A dict of loaders, or a list of torch loaders, as one; anything else as it is.

    Raises:
        ConfigError: One of them has no length, or no batches.
    """
    shape: Callable[[dict[Any, Any]], Any] = dict
    if isinstance(given, Mapping):
        loaders = dict(given)
    elif isinstance(given, (list, tuple)) and given and all(isinstance(one, DataLoader) for one in given):
        loaders, shape = dict(enumerate(given)), _listed
    else:
        return given
    for name, loader in loaders.items():
        try:
            size = len(loader)
        except TypeError:
            size = 0
        if not size:
            raise ConfigError(
                f"The {what} dataloader {name!r} has no length, or is empty.",
                remedy="Loaders that are read side by side need one: the longest is the epoch.",
            )
    return Combined(loaders, shape)


def _listed(batch: dict[Any, Any]) -> list[Any]:
    return list(batch.values())
