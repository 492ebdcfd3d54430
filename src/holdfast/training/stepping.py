"""The training of one batch: forward, backward, and the steps of optimizers, which it counts. Knows no epoch's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from holdfast.errors import ConfigError
from holdfast.state.optimizers import SchedulerConfig, SteppedOptimizer, reached
from holdfast.strategies.base import TrainingStrategy
from holdfast.training.data import calling
from holdfast.training.hooks import Context, Hooks
from holdfast.training.limits import FitLimits
from holdfast.training.metrics import MetricLog
from holdfast.training.schedules import Schedules


class Stepping:
    """The side of ``FitLoop`` that trains on a batch; ``FitLoop`` documents what it is made of.

    Attributes:
        epoch: The epoch that the batch is of.
        steps: Of all optimizers, so far.
    """

    def __init__(
        self,
        module: Any,
        strategy: TrainingStrategy,
        hooks: Hooks,
        context: Context,
        metrics: MetricLog,
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[SchedulerConfig],
        limits: FitLimits,
    ) -> None:
        self.module, self.strategy, self.hooks, self.context = module, strategy, hooks, context
        self.metrics, self.limits = metrics, limits
        self.optimizers, self.schedulers = list(optimizers), list(schedulers)
        self.epoch, self.steps = 0, 0
        self._window = False  # whether gradients wait for more batches to come to them
        self._waiting: set[int] = set()  # optimizers stepped by hand that have gradients they were not stepped with
        automatic = bool(module.automatic_optimization)
        self._train_batch = self._automatic if automatic else self._manual
        self._training_step = calling(module, "training_step", 2)
        self.schedules = Schedules(schedulers if automatic else (), module, metrics, context)
        # A method that nobody overrides would only come back here: it is passed over.
        self._own_step = bool(hooks.of_module("optimizer_step"))
        self._own_zero_grad = bool(hooks.of_module("optimizer_zero_grad"))
        self._own_clipping = any(hooks.of_module(name) for name in ("configure_gradient_clipping", "clip_gradients"))
        self.wrapped = [
            SteppedOptimizer(optimizer, self.step, module.toggled_optimizer) for optimizer in self.optimizers
        ]

    def _automatic(self, batch: Any, batch_idx: int, last: bool) -> dict[str, Any]:
        opens, closes = not self._window, last or (batch_idx + 1) % self.limits.accumulate == 0
        result: dict[str, Any] = {}

        def closure() -> Any:
            loss = self._forward(batch, batch_idx, result)
            if opens:
                self._zero_grad(self.optimizers[0], batch_idx)
            if loss is not None:
                self.backward(loss)
            return loss

        self._window = not closes
        if not self.optimizers:
            self._forward(batch, batch_idx, result)
            self.steps += int(closes)  # as if one had stepped: limits, triggers and names go by steps
        elif not closes:
            with self.strategy.no_sync(self.module):
                closure()
        else:
            if self._own_step:
                before, self.context.hook = self.context.hook, "optimizer_step"
                self.module.optimizer_step(self.epoch, batch_idx, self.wrapped[0], closure)
                self.context.hook = before
            else:
                self.step(self.optimizers[0], closure)
            if self.schedules.each_step:
                self.schedules.step(self.schedules.each_step, batch_idx + 1)
        return result

    def _forward(self, batch: Any, batch_idx: int, result: dict[str, Any]) -> Any:
        """The training step; its loss, divided by the accumulation. ``result`` gets what it returned."""
        returned = self._call_training_step(batch, batch_idx)
        if returned is None:
            return None
        loss = returned.get("loss") if isinstance(returned, dict) else returned
        if not isinstance(loss, torch.Tensor):
            raise ConfigError(
                f"training_step returned {type(returned).__name__} without a loss tensor.",
                remedy="Return the loss, a dict with 'loss', or None to skip the batch.",
            )
        if self.limits.accumulate > 1:
            loss = loss / self.limits.accumulate
        if isinstance(returned, dict):
            result.update(returned)
        result["loss"] = loss.detach()
        return loss

    def _manual(self, batch: Any, batch_idx: int, last: bool) -> dict[str, Any]:
        returned = self._call_training_step(batch, batch_idx)
        if returned is None:
            return {}
        result = dict(returned) if isinstance(returned, dict) else {"loss": returned}
        loss = result.get("loss")
        if isinstance(loss, torch.Tensor):
            result["loss"] = loss.detach()
        elif not isinstance(returned, dict):
            raise ConfigError(
                f"training_step returned a {type(returned).__name__}.",
                remedy="With manual optimisation return a tensor, a dict, or nothing.",
            )
        return result

    def _call_training_step(self, batch: Any, batch_idx: int) -> Any:
        context = self.context
        before, context.hook = context.hook, "training_step"
        returned = self.strategy.forward(self._training_step, batch, batch_idx)
        context.hook = before
        return returned

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, with its hooks."""
        self.hooks.call("on_before_backward", loss)
        self.strategy.backward(self.module, loss, *args, **kwargs)
        if not self.module.automatic_optimization:
            self._waiting.update(index for index, one in enumerate(self.optimizers) if reached(one))
        self.hooks.call("on_after_backward")

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
        """One optimizer step, counted when it is taken; ``SteppedOptimizer`` comes here."""
        loss = self.strategy.step(optimizer, closure, self._before_step)
        if self._waiting:
            self._waiting.discard(next(index for index, one in enumerate(self.optimizers) if one is optimizer))
        self.steps += 1
        return loss

    def _before_step(self, optimizer: Optimizer) -> None:
        self.hooks.call("on_before_optimizer_step", optimizer)
        limits, context = self.limits, self.context
        if (limits.clip_value or self._own_clipping) and self.module.automatic_optimization:
            before, context.hook = context.hook, "configure_gradient_clipping"
            self.module.configure_gradient_clipping(
                optimizer, gradient_clip_val=limits.clip_value, gradient_clip_algorithm=limits.clip_algorithm
            )
            context.hook = before

    def _zero_grad(self, optimizer: Optimizer, batch_idx: int) -> None:
        self.hooks.call("on_before_zero_grad", optimizer)
        if self._own_zero_grad:
            self.module.optimizer_zero_grad(self.epoch, batch_idx, optimizer)
        else:
            self.strategy.zero_grad(optimizer)
