"""Several loaders to train on, read side by side: a batch is a dict or list with one batch of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from holdfast.errors import ConfigError
from holdfast.state.feeds import passing, say
from holdfast.state.loaders import feed
from holdfast.training.combined_loader import CombinedLoader


class Combined:
    """Loaders read side by side until the longest is done; shorter ones begin again, unless the mode says otherwise.

    It knows its place in them, as a ``Feed`` does: of each the pass that it is in, and the batch at which that began.

    Args:
        loaders: By name; each has a length.
        shape: Makes the batch from one batch of each, by name.
        mode: See ``CombinedLoader``.
    """

    kind = "combined"

    def __init__(
        self, loaders: Mapping[Any, Any], shape: Callable[[dict[Any, Any]], Any], mode: str = "max_size_cycle"
    ) -> None:
        self.loaders, self._shape, self._mode = dict(loaders), shape, mode
        self.feeds = {name: feed(loader) for name, loader in self.loaders.items()}
        self._began = dict.fromkeys(self.loaders, 0)
        self._saved: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        sizes = [len(loader) for loader in self.loaders.values()]
        return min(sizes) if self._mode == "min_size" else max(sizes)

    def __iter__(self) -> Iterator[Any]:
        return self.begin()

    def begin(self, stop: int | None = None, *, ahead: bool = False) -> Iterator[Any]:
        """See ``Feed``."""
        saved, self._saved = self._saved, None
        first, own = 0, saved is not None and saved["kind"] == self.kind
        if own:
            assert saved is not None, "it has a kind"
            first = saved["done"]
        else:
            self._began = dict.fromkeys(self.loaders, 0)
        sources = {name: one.begin() for name, one in self.feeds.items()}
        batches = islice(self._side_by_side(sources, first), None if stop is None else max(0, stop - first))
        return batches if own or saved is None else passing(batches, saved["done"])

    def state_dict(self, done: int, *, over: bool) -> dict[str, Any]:
        """See ``Feed``."""
        if self._saved is not None:
            return dict(self._saved)
        each = [
            {"began": began, "place": self.feeds[name].state_dict(min(done - began, len(loader)), over=over)}
            for (name, began), loader in zip(self._began.items(), self.loaders.values(), strict=True)
        ]
        return {"kind": self.kind, "over": over, "done": done, "each": each}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Feed``."""
        self._saved = None if state.get("over", True) else state
        if self._fits(state):
            for name, one in zip(self.feeds, state["each"], strict=True):
                place = one["place"]
                self.feeds[name].load_state_dict({**place, "over": state["over"] or place["over"]})
                self._began[name] = one["began"]
        else:
            say(self.inexact(state))

    def inexact(self, state: Mapping[str, Any]) -> list[str]:
        """See ``Feed``."""
        if self._fits(state):
            return [
                sentence
                for one, saved in zip(self.feeds.values(), state["each"], strict=True)
                for sentence in one.inexact({**saved["place"], "over": state["over"] or saved["place"]["over"]})
            ]
        if state.get("over", True):
            return []
        return [
            f"the checkpoint does not hold the places of {len(self.loaders)} loaders read side by side: the first "
            f"{state['done']:,} batches are read and thrown away"
        ]

    def close(self) -> None:
        """See ``Feed``."""
        for one in self.feeds.values():
            one.close()

    def _fits(self, state: Mapping[str, Any]) -> bool:
        return state.get("kind") == self.kind and len(state["each"]) == len(self.loaders)

    def _side_by_side(self, sources: dict[Any, Iterator[Any]], first: int) -> Iterator[Any]:
        for number in range(first, len(self)):
            batch = {}
            for name in self.loaders:
                try:
                    batch[name] = next(sources[name])
                except StopIteration:
                    if self._mode == "max_size":
                        sources[name], batch[name] = iter(()), None
                        continue
                    self._began[name] = number
                    sources[name] = self.feeds[name].begin()
                    batch[name] = next(sources[name])
            yield self._shape(batch)


def combined(given: Any, what: str) -> Any:
    """A ``CombinedLoader``, a dict of loaders, or a list of torch loaders, as one; anything else as it is.

    Raises:
        ConfigError: One of them has no length, or no batches; or they are to be read one after the other.
    """
    shape: Callable[[dict[Any, Any]], Any] = dict
    mode = "max_size_cycle"
    if isinstance(given, CombinedLoader):
        if given.mode == "sequential":
            raise ConfigError(
                f"The {what} dataloader is a CombinedLoader with mode='sequential', and a batch is one of each loader.",
                remedy="Chain the datasets: torch.utils.data.ConcatDataset.",
            )
        loaders, mode = dict(enumerate(given.flattened)), given.mode
        shape = lambda batch: given.shaped(list(batch.values()))  # noqa: E731
    elif isinstance(given, Mapping):
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
    return Combined(loaders, shape, mode)


def _listed(batch: dict[Any, Any]) -> list[Any]:
    return list(batch.values())
