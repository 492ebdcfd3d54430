"""Where batches come from: loaders from arguments, datamodule or module, their lengths and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from holdfast.errors import ConfigError
from holdfast.training.combined import combined
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


def limited(loader: Any, limit: float | int, *, what: str) -> Batches:
    """A loader and its limit: a number of batches (int), or a share of them (float up to 1.0).

    Raises:
        ConfigError: It cannot be iterated, or a share is asked of a loader without a length.
    """
    loader = combined(loader, what)
    if isinstance(loader, (str, bytes)) or not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")):
        raise ConfigError(f"The {what} dataloader is a {type(loader).__name__}, which cannot be iterated.")
    size = length(loader)
    if size == 0 and limit != 0:
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
    if limit > 0 and int(size * limit) == 0:
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
    from torch.utils.data import DataLoader, RandomSampler

    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, RandomSampler):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        shuffle=False,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
    )
