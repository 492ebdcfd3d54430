"""What one way of calling ``log`` asks for: steps or epochs, how to reduce, which names. Knows no values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch

from holdfast.errors import ConfigError
from holdfast.training.reduction import OPERATIONS

_TRAINING_BATCH = frozenset(
    (
        "training_step",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_before_backward",
        "backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "optimizer_step",
        "configure_gradient_clipping",
        "on_before_zero_grad",
        "optimizer_zero_grad",
    )
)
_EVALUATION_BATCH = frozenset(
    f"{kind}_{where}" if where == "step" else f"on_{kind}_{where}"
    for kind in ("validation", "test")
    for where in ("step", "batch_start", "batch_end")
)
_AROUND_BATCHES = frozenset(
    f"on_{kind}_{where}" for kind in ("train", "validation", "test") for where in ("start", "epoch_start", "epoch_end")
)
_SAME: dict[Any, str] = {
    "avg": "mean",
    torch.mean: "mean",
    torch.sum: "sum",
    sum: "sum",
    torch.min: "min",
    torch.amin: "min",
    min: "min",
    torch.max: "max",
    torch.amax: "max",
    max: "max",
}


FUNCTION = "a function"
"""The operation of a metric that the user's own function reduces."""


class Given(NamedTuple):
    """The arguments of ``log`` that must be the same at each call, as they were given."""

    prog_bar: bool
    logger: bool | None
    on_step: bool | None
    on_epoch: bool | None
    reduce_fx: str | Callable[[Any], Any]
    sync_dist: bool
    add_dataloader_idx: bool
    metric_attribute: str | None
    rank_zero_only: bool
    enable_graph: bool
    sync_dist_group: Any


@dataclass(frozen=True)
class Settings:
    """The same arguments with every default filled in.

    Args:
        on_step: Whether single values are published.
        on_epoch: Whether a value of the whole epoch is.
        prog_bar: Whether the progress bar shows it.
        logger: Whether loggers get it.
        operation: ``"mean"``, ``"sum"``, ``"min"``, ``"max"`` or ``FUNCTION``.
        sync_dist: Whether it is reduced over ranks.
        add_dataloader_idx: Whether the name says which of several data loaders it is from.
        metric_attribute: Where the module keeps the metric object.
        rank_zero_only: Whether rank 0 alone logs it.
        enable_graph: Whether single values keep their autograd graph.
        function: The user's reduction of all values. One lambda is never equal to the next, so it is not compared.
    """

    on_step: bool
    on_epoch: bool
    prog_bar: bool
    logger: bool
    operation: str
    sync_dist: bool
    add_dataloader_idx: bool
    metric_attribute: str | None
    rank_zero_only: bool
    enable_graph: bool
    function: Callable[[Any], Any] | None = field(default=None, compare=False)

    @property
    def synchronised(self) -> bool:
        """Whether all ranks take part."""
        return self.sync_dist and not self.rank_zero_only

    def differences(self, other: Settings) -> str:
        """What differs, for an error: each argument with both its values."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.compare)
        return ", ".join(f"{name}={mine!r} and {name}={theirs!r}" for name, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True)
class Names:
    """Under which names a metric is published.

    Args:
        step: Single values.
        epoch: The value of an epoch.
        monitor: The name under which callbacks find the value of an epoch, whether or not steps are logged too.
    """

    step: str
    epoch: str
    monitor: str

    @classmethod
    def of(cls, name: str, settings: Settings, loader: int | None) -> Names:
        """The names of ``name``; ``loader`` is None where there is only one data loader."""
        suffix = f"/dataloader_idx_{loader}" if loader is not None and settings.add_dataloader_idx else ""
        both = settings.on_step and settings.on_epoch
        step, epoch = (f"{name}_step", f"{name}_epoch") if both else (name, name)
        return cls(step + suffix, epoch + suffix, name + suffix)


def settle(name: str, hook: str, given: Given) -> Settings:
    """Fill in the defaults of the hook, and refuse what it does not allow.

    Raises:
        ConfigError: Nothing can be logged there, not so, or the arguments contradict each other.
    """
    _check_name(name, given)
    batch = hook in _TRAINING_BATCH or hook in _EVALUATION_BATCH
    if not batch and hook not in _AROUND_BATCHES:
        raise ConfigError(
            f"log({name!r}) was called {f'in {hook}' if hook else 'outside of all hooks'}, where it cannot be.",
            remedy="Log in a step, or in the hooks around batches and epochs. A logger itself takes values anywhere.",
        )
    on_step = hook in _TRAINING_BATCH if given.on_step is None else bool(given.on_step)
    on_epoch = hook not in _TRAINING_BATCH if given.on_epoch is None else bool(given.on_epoch)
    if not batch and (on_step or not on_epoch):
        raise ConfigError(
            f"log({name!r}, on_step={on_step}, on_epoch={on_epoch}) was called in {hook}, which belongs to no step.",
            remedy="Leave on_step and on_epoch out there: the value is one of the epoch.",
        )
    if not (on_step or on_epoch):
        raise ConfigError(
            f"log({name!r}, on_step=False, on_epoch=False) in {hook} asks for nothing.",
            remedy="Set on_step=True, on_epoch=True or both; where one is left out, the hook decides.",
        )
    operation = _operation(name, given.reduce_fx)
    return Settings(
        on_step=on_step,
        on_epoch=on_epoch,
        prog_bar=bool(given.prog_bar),
        logger=given.logger is None or bool(given.logger),
        operation=operation if isinstance(operation, str) else FUNCTION,
        function=None if isinstance(operation, str) else operation,
        sync_dist=bool(given.sync_dist),
        add_dataloader_idx=bool(given.add_dataloader_idx),
        metric_attribute=given.metric_attribute,
        rank_zero_only=bool(given.rank_zero_only),
        enable_graph=bool(given.enable_graph),
    )


def checked_size(name: str, batch_size: Any) -> int:
    """A batch size that the user gave.

    Raises:
        ConfigError: It is no whole number, or negative.
    """
    try:
        size = operator.index(batch_size)
    except TypeError:
        size = -1
    if size < 0:
        raise ConfigError(
            f"log({name!r}, batch_size={batch_size!r}): a batch size is a whole number, 0 or more.",
            remedy="Give the number of samples, such as len(batch).",
        )
    return size


def _check_name(name: Any, given: Given) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"log({name!r}): a metric's name is a string that is not empty.")
    if given.add_dataloader_idx and "/dataloader_idx_" in name:
        raise ConfigError(
            f"log({name!r}): the index of the data loader is added to the name already.",
            remedy="Leave it out of the name, or set add_dataloader_idx=False.",
        )


def _operation(name: str, reduce_fx: Any) -> str | Callable[[Any], Any]:
    plain = reduce_fx.lower() if isinstance(reduce_fx, str) else reduce_fx
    known = _SAME.get(plain, plain) if isinstance(plain, str) or callable(plain) else None
    if known in OPERATIONS or (callable(known) and not isinstance(known, str)):
        return known
    raise ConfigError(
        f"log({name!r}, reduce_fx={reduce_fx!r}): there is no such reduction.",
        remedy=f"Give one of {', '.join(map(repr, OPERATIONS))}, or a function of the tensor of all values.",
    )
