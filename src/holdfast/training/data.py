"""Where batches come from: loaders from arguments, datamodule or module, their lengths and limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from holdfast.errors import ConfigError
from holdfast.training.hooks import overrides


@dataclass(frozen=True)
class Batches:
    """One loader with its limit.

    Args:
        loader: Anything that can be iterated.
        size: Batches in an epoch; None where nobody knows before it ends.
    """

    loader: Iterable[Any]
    size: int | None

    def set_epoch(self, epoch: int) -> None:
        """Tell a sampler that shuffles by epoch which one it is."""
        for sampler in (getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)):
            tell = getattr(sampler, "set_epoch", None)
            if callable(tell):
                tell(epoch)

    def iterate(self, skip: int = 0) -> Iterator[Any]:
        """The batches of one epoch, without the first ``skip``."""
        return islice(iter(self.loader), skip, self.size)


def limited(loader: Any, limit: float | int, *, what: str) -> Batches:
    """A loader and its limit: a number of batches (int), or a share of them (float up to 1.0).

    Raises:
        ConfigError: It cannot be iterated, or a share is asked of a loader without a length.
    """
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise ConfigError(f"The {what} dataloader is a {type(loader).__name__}, which cannot be iterated.")
    size = _length(loader)
    if isinstance(limit, bool) or limit < 0 or (isinstance(limit, float) and limit > 1):
        raise ConfigError(f"The limit of {what} batches is a whole number or a share of 0.0 to 1.0, not {limit!r}.")
    if isinstance(limit, int):
        return Batches(loader, limit if size is None else min(size, limit))
    if limit == 1.0:
        return Batches(loader, size)
    if size is None:
        if limit == 0:
            return Batches(loader, 0)
        raise ConfigError(
            f"{limit:g} of the {what} batches was asked for, and the loader has no length.",
            remedy="Give a number of batches.",
        )
    if 0 < limit and int(size * limit) == 0:
        raise ConfigError(f"{limit:g} of {size} {what} batches is none at all.", remedy="Raise the limit.")
    return Batches(loader, int(size * limit))


def _length(loader: Any) -> int | None:
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # what DataLoader raises for an iterable dataset without a length
        return None


def loaders_of(kind: str, given: Any, datamodule: Any, module: Any, base: type) -> Any:
    """The loader or loaders of a kind (``train``, ``val``, ``test``), or None where nobody has any.

    What was handed over comes first, then the datamodule's, then the module's.
    """
    name = f"{kind}_dataloader"
    if given is not None:
        return given
    if datamodule is not None:
        from holdfast.training.datamodule import LightningDataModule

        if overrides(datamodule, name, LightningDataModule):
            return getattr(datamodule, name)()
        return None
    return getattr(module, name)() if overrides(module, name, base) else None


def several(loaders: Any) -> list[Any]:
    """One loader or several, as a list."""
    if loaders is None:
        return []
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
