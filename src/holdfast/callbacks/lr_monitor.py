"""Log the learning rates, and momentum and weight decay where asked for. Changes none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim import Optimizer

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.log_steps import log_step, logs_now
from holdfast.errors import ConfigError
from holdfast.log import logger

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer


class LearningRateMonitor(Callback):
    """Log the learning rate of each optimizer, named ``lr-Adam``, or as its scheduler's ``name`` says.

    Several optimizers of a kind are ``lr-Adam``, ``lr-Adam-1``; several parameter groups ``lr-Adam/pg1``,
    ``lr-Adam/pg2``, or with the group's own ``name`` in place of ``pg1``.

    Args:
        logging_interval: ``"step"`` or ``"epoch"``; None for that of each scheduler.
        log_momentum: Whether to log momentum (or the first beta) too, as ``lr-Adam-momentum``.
        log_weight_decay: Whether to log weight decay too, as ``lr-Adam-weight_decay``.

    ``lrs`` holds what was logged since the fit began: a list for each name.

    Raises:
        ConfigError: The interval is none of the three. When a fit begins: nobody logs, or two groups of one optimizer
            have one name.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise ConfigError(
                f"LearningRateMonitor: logging_interval is 'step', 'epoch' or None, not {logging_interval!r}."
            )
        self.logging_interval = logging_interval
        self.log_momentum, self.log_weight_decay = log_momentum, log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self.last_momentum_values: dict[str, float | None] = {}
        self.last_weight_decay_values: dict[str, float | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the names."""
        if not trainer.loggers:
            raise ConfigError(
                "LearningRateMonitor logs, and the Trainer has no logger.", remedy="Give it one, or leave this out."
            )
        named = list(_named(trainer))
        names = [name for _, _, names in named for name in names]
        self.lrs = {name: [] for name in names}
        self.last_momentum_values = {f"{name}-momentum": None for name in names}
        self.last_weight_decay_values = {f"{name}-weight_decay": None for name in names}
        if self.log_momentum and not all({"momentum", "betas"} & set(o.defaults) for o, _, _ in named):
            logger.warning("log_momentum=True: an optimizer without momentum is logged with 0")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log those that change by step."""
        if self.logging_interval != "epoch" and logs_now(trainer):
            self._log(trainer, "step")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log those that change by epoch."""
        resumed = trainer.loop is not None and trainer.loop.batch > 0  # this epoch has begun before
        if self.logging_interval != "step" and not resumed:
            self._log(trainer, "epoch")

    def _log(self, trainer: Trainer, interval: str) -> None:
        values: dict[str, float] = {}
        for optimizer, own, names in _named(trainer):
            if self.logging_interval is None and own not in (None, interval):
                continue
            for group, name in zip(optimizer.param_groups, names, strict=True):
                values.update(self._values(optimizer, group, name))
        if not values:
            return
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for one in trainer.loggers:
            one.log_metrics(values, step=log_step(trainer))

    def _values(self, optimizer: Optimizer, group: dict[str, Any], name: str) -> dict[str, float]:
        rate = float(group["lr"])
        if name.endswith("/pg1") and name.removesuffix("/pg1") in self.lrs:  # its optimizer had one group until now
            self.lrs[name] = self.lrs.pop(name.removesuffix("/pg1"))
        self.lrs.setdefault(name, []).append(rate)
        values = {name: rate}
        if self.log_momentum:
            momentum = group["betas"][0] if "betas" in optimizer.defaults else group.get("momentum", 0)
            values[f"{name}-momentum"] = self.last_momentum_values[f"{name}-momentum"] = float(momentum)
        if self.log_weight_decay:
            decay = float(group.get("weight_decay", 0))
            values[f"{name}-weight_decay"] = self.last_weight_decay_values[f"{name}-weight_decay"] = decay
        return values


def _named(trainer: Trainer) -> Iterable[tuple[Optimizer, str | None, list[str]]]:
    """Each optimizer, the interval of its scheduler (None without one), and the names of its groups."""
    seen: Counter[type] = Counter()
    scheduled: list[Optimizer] = []
    for config in trainer.lr_scheduler_configs:
        optimizer = config.scheduler.optimizer
        scheduled.append(optimizer)
        yield optimizer, config.interval, _names(optimizer, config.name, seen)
    for optimizer in trainer.optimizers:
        if not any(optimizer is one for one in scheduled):
            yield optimizer, None, _names(optimizer, None, seen)


def _names(optimizer: Optimizer, given: str | None, seen: Counter[type]) -> list[str]:
    kind = type(optimizer)
    name = given
    if name is None:
        seen[kind] += 1
        name = f"lr-{kind.__name__}" + (f"-{seen[kind] - 1}" if seen[kind] > 1 else "")
    groups = optimizer.param_groups
    if len(groups) == 1:
        own = groups[0].get("name")
        return [f"{name}/{own}" if own else name]
    owns = [group.get("name", f"pg{i}") for i, group in enumerate(groups, start=1)]
    double = sorted(own for own, count in Counter(owns).items() if count > 1)
    if double:
        raise ConfigError(f"LearningRateMonitor: parameter groups of {name} share the name {', '.join(double)}.")
    return [f"{name}/{own}" for own in owns]
