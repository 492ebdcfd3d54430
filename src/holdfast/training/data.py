"""Where batches come from: loaders from arguments, datamodule or module, their lengths and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import ConfigError
from holdfast.state.feeds import Feed
from holdfast.state.loaders import feed, tell_epoch
from holdfast.state.samplers import go_on_sharing, sampler_of, shared_order, with_sampler
from holdfast.training.combined import Combined, combined
from holdfast.training.combined_loader import CombinedLoader
from holdfast.training.hooks import overrides


@dataclass(frozen=True)
class Batches:
    """One loader with its limit, and what knows the place in it.

    Args:
        loader: Anything that can be iterated.
        size: Batches in an epoch; None where nobody knows before it ends.
    """

    loader: Iterable[Any]
    size: int | None
    feed: Feed = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = self.loader if isinstance(self.loader, Combined) else feed(self.loader)
        object.__setattr__(self, "feed", own)

    def set_epoch(self, epoch: int) -> None:
        """Tell samplers that shuffle by epoch which one it is."""
        for one in self._feeds():
            tell_epoch(one.loader, epoch)

    def go_on_sharing(self, before: Batches) -> None:
        """Have the order that ranks shared in those of before: a checkpoint may have brought it."""
        for new, old in zip(self._feeds(), before._feeds(), strict=False):
            new.loader = go_on_sharing(new.loader, {"shared": shared_order(old.loader)})

    def _feeds(self) -> list[Any]:
        return list(self.loader.feeds.values()) if isinstance(self.loader, Combined) else [self.feed]

    def iterate(self, *, ahead: bool = False) -> Iterator[Any]:
        """The batches of one epoch; those that are not done yet, of one that a loaded state stands in.

        Args:
            ahead: Whether a batch is asked for before the one that came last is used.
        """
        return iter(()) if self.size == 0 else self.feed.begin(self.size, ahead=ahead)


class Transfer:
    """Brings batches to the device, through the hooks of the datamodule where it overrides them, else the module's.

    Args:
        module: The module.
        datamodule: The datamodule, if any.
        strategy: Casts, and knows the device.
        base: The class that defines the module's hooks without changing anything.
    """

    def __init__(self, module: Any, datamodule: Any, strategy: Any, base: type) -> None:
        self._strategy = strategy
        owners = [(module, base)] if datamodule is None else [(datamodule, _datamodule_base()), (module, base)]
        self._before = _hook(owners, "on_before_batch_transfer")
        self._move = _hook(owners, "transfer_batch_to_device")
        self._after = _hook(owners, "on_after_batch_transfer")

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """One batch, as the step gets it."""
        device = self._strategy.device
        batch = self._strategy.cast(batch)
        if self._before is not None:
            batch = self._before(batch, dataloader_idx)
        if self._move is not None:
            batch = self._move(batch, device, dataloader_idx)
        else:
            batch = self._strategy.move(batch, device)
        return batch if self._after is None else self._after(batch, dataloader_idx)


def _hook(owners: Iterable[tuple[Any, type]], name: str) -> Any:
    """The first override of a hook, or None."""
    return next((getattr(owner, name) for owner, base in owners if overrides(owner, name, base)), None)


def _datamodule_base() -> type:
    from holdfast.training.datamodule import LightningDataModule

    return LightningDataModule


def limited(loader: Any, limit: float | int, *, what: str, of_ranks: bool = False) -> Batches:
    """A loader and its limit: a number of batches (int), or a share of them (float up to 1.0).

    With ``of_ranks`` it is a rank's share of an evaluation, which may be empty while others have one.

    Raises:
        ConfigError: It cannot be iterated, or a share is asked of a loader without a length.
    """
    loader = combined(loader, what)
    if isinstance(loader, (str, bytes)) or not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")):
        raise ConfigError(f"The {what} dataloader is of type {type(loader).__name__}, which cannot be iterated.")
    size = length(loader)
    if size == 0 and limit != 0 and not of_ranks:
        raise ConfigError(f"The {what} dataloader is empty.", remedy=f"Set limit_{what}_batches=0 to do without it.")
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
    if limit > 0 and int(size * limit) == 0 and not of_ranks:
        raise ConfigError(f"{limit:g} of {size} {what} batches is none at all.", remedy="Raise the limit.")
    return Batches(loader, int(size * limit))


def length(loader: Any) -> int | None:
    """Batches in an epoch; None for a loader that does not say."""
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
        if overrides(datamodule, name, _datamodule_base()):
            return getattr(datamodule, name)()
        return None
    return getattr(module, name)() if overrides(module, name, base) else None


def several(loaders: Any) -> list[Any]:
    """One loader or several, as a list."""
    if loaders is None:
        return []
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    if isinstance(loaders, CombinedLoader) and loaders.mode == "sequential":
        return loaders.flattened
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]


def calling(module: Any, name: str, count: int) -> Callable[..., Any]:
    """The step ``name``, to be called with ``count`` arguments; one that takes the batch alone gets it alone.

    Raises:
        ConfigError: It takes neither.
    """
    step: Callable[..., Any] = getattr(module, name)
    parameters = inspect.signature(step)
    if _takes(parameters, count) and "dataloader_iter" not in parameters.parameters:
        return step
    if count <= 2 and _takes(parameters, 1) and "dataloader_iter" not in parameters.parameters:
        return lambda batch, batch_idx: step(batch)
    wanted = ("batch", "batch_idx", "dataloader_idx")[:count]
    raise ConfigError(
        f"{name}{parameters} cannot be called with {', '.join(wanted)}.",
        remedy=f"Write def {name}(self, {', '.join(wanted)}).",
    )


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def in_sequence(loader: Any) -> Any:
    """A torch loader without its shuffling, for ``overfit_batches``: the same batches come in every epoch."""
    from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

    if isinstance(loader, CombinedLoader):
        return loader.with_each(in_sequence)
    shuffles = isinstance(loader, DataLoader) and type(sampler_of(loader)).__name__ == "RandomSampler"
    # torchdata's loaders shuffle by a RandomSampler of their own. A batch sampler of the user's is left to itself.
    if not shuffles or not isinstance(loader.batch_sampler, BatchSampler | None):
        return loader
    return with_sampler(loader, SequentialSampler(loader.dataset))
