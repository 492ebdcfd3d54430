"""Give optimizers and schedulers the learning rates and settings of the code, where a checkpoint has others.

Knows no checkpoint and decides nothing: it is told what is new.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from holdfast.state.fingerprint import settings_of

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def rescale(optimizers: Sequence[Any], schedulers: Sequence[Any], before: Any, after: Any) -> None:
    """Multiply learning rates by what they changed by: where a schedule has brought them stays where it is.

    Args:
        optimizers: Their groups' rates.
        schedulers: Their base rates.
        before: The rates that the run was made with, by optimizer and group.
        after: Those that it is to be made with.
    """
    for optimizer, old, new in zip(optimizers, before, after, strict=True):
        for group, a, b in zip(optimizer.param_groups, old, new, strict=False):  # callbacks may have added some
            for name in _RATES:
                if name in group:
                    _set(group, name, _scaled(group[name], a, b))
    for scheduler in schedulers:
        index = next((i for i, o in enumerate(optimizers) if o is getattr(scheduler, "optimizer", None)), None)
        if index is not None:
            _rescale_bases(scheduler, before[index], after[index])


def _rescale_bases(scheduler: Any, before: Sequence[float], after: Sequence[float]) -> None:
    for name in ("base_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list) and len(rates) == len(before):
            setattr(scheduler, name, [_scaled(r, a, b) for r, a, b in zip(rates, before, after, strict=True)])
    for inner in getattr(scheduler, "_schedulers", ()):
        _rescale_bases(inner, before, after)


def _scaled(rate: Any, before: float, after: float) -> Any:
    if rate == before:
        return after if not isinstance(rate, torch.Tensor) else torch.full_like(rate, after)
    return rate * (after / before) if before else after


def set_settings(optimizers: Sequence[Any], before: Any, after: Any) -> None:
    """Give each group the settings that differ, other than the learning rate.

    Args:
        optimizers: Whose groups.
        before: The settings of before, as a fingerprint has them.
        after: The settings of the code.
    """
    for optimizer, old, new in zip(optimizers, before, after, strict=True):
        for group, a, b in zip(optimizer.param_groups, old["groups"], new["groups"], strict=False):
            for name, value in b.items():
                if a.get(name) != value:
                    _set(group, name, tuple(value) if isinstance(group.get(name), tuple) else value)


def _set(group: dict[str, Any], name: str, value: Any) -> None:
    own = group.get(name)
    if isinstance(own, torch.Tensor):
        own.fill_(float(value))  # a captured graph or a compiled step reads this very tensor
    else:
        group[name] = value


class Schedule:
    """A scheduler as the code has made it, to be brought to where a run is. Made before any state is put in.

    Args:
        scheduler: The scheduler.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._own = dict(scheduler.state_dict())
        groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", ())
        known = set(getattr(getattr(scheduler, "optimizer", None), "defaults", ())) - {"lr"}
        self._groups = [{n: v for n, v in g.items() if n != "params" and n not in known} for g in groups]

    @property
    def replays(self) -> bool:
        """Whether where it stands follows from how often it has stepped."""
        return isinstance(self._scheduler, LRScheduler) and not isinstance(self._scheduler, ReduceLROnPlateau)

    def state_to_load(self, saved: Mapping[str, Any], *, same_type: bool) -> dict[str, Any]:
        """The state that keeps its own settings: its own, or the saved one with its own settings."""
        if self.replays or not same_type:
            return dict(self._own)
        return {**saved, **{name: self._own[name] for name in settings_of(self._own)}}

    def replay(self, steps: int) -> None:
        """Step as often as the run has: what comes is what would come if it had always been this one."""
        for group, own in zip(getattr(self._scheduler.optimizer, "param_groups", ()), self._groups, strict=False):
            for name, value in own.items():
                _set(group, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer has stepped in between
            for _ in range(steps):
                self._scheduler.step()
