"""What ``configure_optimizers`` may return, brought into one form; and the optimizer that manual loops step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from holdfast.errors import ConfigError

_KEYS = {"scheduler", "interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau"}


@dataclass
class SchedulerConfig:
    """A scheduler, and when it steps.

    Args:
        scheduler: Anything with ``step``.
        interval: ``"epoch"`` or ``"step"``.
        frequency: Every so many of them.
        monitor: The metric that a plateau scheduler looks at.
        strict: Whether a missing metric is an error (else it is passed over).
        name: For loggers.
        reduce_on_plateau: Whether one that is not torch's ``ReduceLROnPlateau`` steps on a metric too.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None
    strict: bool = True
    name: str | None = None
    reduce_on_plateau: bool = False

    @property
    def plateau(self) -> bool:
        """Whether it steps on a metric."""
        return self.reduce_on_plateau or isinstance(self.scheduler, ReduceLROnPlateau)


def configured(returned: Any) -> tuple[list[Optimizer], list[SchedulerConfig]]:
    """Optimizers and schedulers from whatever form ``configure_optimizers`` returned.

    Raises:
        ConfigError: It is none of the forms.
    """
    if returned is None:
        return [], []
    if isinstance(returned, Optimizer):
        return [returned], []
    if isinstance(returned, Mapping):
        return _from_dict(returned)
    if isinstance(returned, (list, tuple)):
        if len(returned) == 2 and all(isinstance(r, (list, tuple)) for r in returned):
            optimizers, schedulers = returned
            return _optimizers(optimizers), [_scheduler(s, None) for s in schedulers]
        if all(isinstance(r, Mapping) for r in returned):
            pairs = [_from_dict(r) for r in returned]
            return [o for os, _ in pairs for o in os], [s for _, ss in pairs for s in ss]
        return _optimizers(returned), []
    raise ConfigError(
        f"configure_optimizers returned a {type(returned).__name__}.",
        remedy="Return an optimizer, a list of them, (optimizers, schedulers), a dict with 'optimizer', or None.",
    )


def _optimizers(given: Any) -> list[Optimizer]:
    wrong = [type(o).__name__ for o in given if not isinstance(o, Optimizer)]
    if wrong:
        raise ConfigError(f"configure_optimizers returned {', '.join(wrong)} where an optimizer belongs.")
    return list(given)


def _from_dict(given: Mapping[str, Any]) -> tuple[list[Optimizer], list[SchedulerConfig]]:
    optimizer = given.get("optimizer")
    if not isinstance(optimizer, Optimizer):
        raise ConfigError("The dict that configure_optimizers returned has no optimizer under 'optimizer'.")
    extra = set(given) - {"optimizer", "lr_scheduler", "monitor"}
    if extra:
        raise ConfigError(f"configure_optimizers returned keys that are not known: {', '.join(sorted(extra))}.")
    scheduler = given.get("lr_scheduler")
    return [optimizer], [] if scheduler is None else [_scheduler(scheduler, given.get("monitor"))]


def _scheduler(given: Any, monitor: str | None) -> SchedulerConfig:
    if isinstance(given, Mapping):
        extra = set(given) - _KEYS
        if extra or "scheduler" not in given:
            problem = f"unknown keys {', '.join(sorted(extra))}" if extra else "no 'scheduler'"
            raise ConfigError(f"A scheduler's configuration has {problem}.")
        config = SchedulerConfig(**{"monitor": monitor, **given})
    else:
        config = SchedulerConfig(given, monitor=monitor)
    if not callable(getattr(config.scheduler, "step", None)) or not hasattr(config.scheduler, "state_dict"):
        raise ConfigError(
            f"configure_optimizers returned a {type(config.scheduler).__name__} where a scheduler belongs.",
            remedy="A scheduler has step(), state_dict() and load_state_dict().",
        )
    if config.interval not in ("epoch", "step") or type(config.frequency) is not int or config.frequency < 1:
        raise ConfigError(
            f"A scheduler steps every n 'epoch' or 'step', not every {config.frequency} {config.interval!r}."
        )
    if config.plateau and config.monitor is None:
        raise ConfigError(
            f"{type(config.scheduler).__name__} needs a metric.",
            remedy="Return {'optimizer': ..., 'lr_scheduler': ..., 'monitor': 'val_loss'}.",
        )
    return config


def reached(optimizer: Optimizer) -> bool:
    """Whether a backward pass may leave gradients in what an optimizer steps."""
    return any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"])


class SteppedOptimizer:
    """An optimizer as modules see it: its ``step`` goes through the strategy and is counted. All else is its own."""

    def __init__(
        self,
        optimizer: Optimizer,
        step: Callable[[Optimizer, Callable[[], Any] | None], Any],
        toggled: Callable[[Optimizer], AbstractContextManager[None]],
    ) -> None:
        self._optimizer = optimizer
        self._step = step
        self._toggled = toggled

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer itself."""
        return self._optimizer

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What it is to ``isinstance``: schedulers and users ask."""
        return type(self._optimizer)

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """One step."""
        return self._step(self._optimizer, closure)

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Generator[None, None, None]:
        """Let only this optimizer's parameters ask for gradients in a block."""
        with self._toggled(self._optimizer):
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_optimizer"], name)

    def __repr__(self) -> str:
        return repr(self._optimizer)


def move(optimizer: Optimizer, device: torch.device) -> None:
    """Bring an optimizer's state to the device of its parameters; what torch keeps on the CPU by design stays."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                state[key] = value.to(parameter.device if parameter.device.type != "cpu" else device)
