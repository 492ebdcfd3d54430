"""Several loaders as one, in a shape and with an end of the user's choice. A trainer takes it apart again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from holdfast.errors import ConfigError

MODES = ("min_size", "max_size_cycle", "max_size", "sequential")


class CombinedLoader:
    """Loaders that are read side by side, or one after the other.

    Iterating gives triples of the batch, its index, and the index of its loader, which is 0 for all but ``sequential``.

    Args:
        iterables: A loader, or a dict or list of such, nested as batches are to be.
        mode: ``"min_size"`` ends with the shortest, ``"max_size_cycle"`` with the longest while shorter ones begin
            again, ``"max_size"`` with the longest while shorter ones give None; ``"sequential"`` reads each to its end.

    Raises:
        ConfigError: There is no such mode.
    """

    def __init__(self, iterables: Any, mode: str = "min_size") -> None:
        if mode not in MODES:
            raise ConfigError(f"CombinedLoader: mode is one of {', '.join(map(repr, MODES))}, not {mode!r}.")
        self.iterables, self.mode = iterables, mode

    @property
    def flattened(self) -> list[Any]:
        """The loaders, in order."""
        return list(_leaves(self.iterables))

    def with_each(self, change: Callable[[Any], Any]) -> CombinedLoader:
        """The same of other loaders."""
        return CombinedLoader(self.shaped([change(loader) for loader in self.flattened]), self.mode)

    def shaped(self, values: Sequence[Any]) -> Any:
        """Values, one for each loader, in the shape in which the loaders were given."""
        return _shaped(self.iterables, iter(values))

    def __len__(self) -> int:
        sizes = [len(loader) for loader in self.flattened]
        if self.mode == "sequential":
            return sum(sizes)
        return min(sizes) if self.mode == "min_size" else max(sizes)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        if self.mode == "sequential":
            for index, loader in enumerate(self.flattened):
                for number, batch in enumerate(loader):
                    yield batch, number, index
            return
        from holdfast.training.combined import combined

        for number, batch in enumerate(combined(self, "combined")):
            yield batch, number, 0


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _shaped(value: Any, values: Iterator[Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _shaped(item, values) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_shaped(item, values) for item in value)
    return next(values)
