"""Step the schedulers when they are due. Knows when; what a scheduler does is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.errors import ConfigError
from holdfast.state.optimizers import SchedulerConfig
from holdfast.training.hooks import Context
from holdfast.training.metrics import MetricLog


class Schedules:
    """The schedulers of a fit with automatic optimisation, by when they step.

    Args:
        configs: All of them.
        module: Its ``lr_scheduler_step`` steps them.
        metrics: What those of a plateau look at.
        context: Told that ``lr_scheduler_step`` runs.
    """

    def __init__(self, configs: Sequence[SchedulerConfig], module: Any, metrics: MetricLog, context: Context) -> None:
        self._module, self._metrics, self._context = module, metrics, context

        def those(interval: str, plateau: bool) -> tuple[SchedulerConfig, ...]:
            return tuple(c for c in configs if c.interval == interval and c.plateau is plateau)

        self.each_step, self.each_epoch = those("step", False), those("epoch", False)
        self.plateau_step, self.plateau_epoch = those("step", True), those("epoch", True)

    def step(self, configs: Sequence[SchedulerConfig], count: int) -> None:
        """Step those of ``configs`` whose frequency divides ``count``: batches of the epoch, or epochs.

        Raises:
            ConfigError: The metric that one of them looks at was not logged.
        """
        for config in configs:
            if count % config.frequency:
                continue
            metric = self._monitored(config) if config.plateau else None
            if config.plateau and metric is None:
                continue
            before, self._context.hook = self._context.hook, "lr_scheduler_step"
            self._module.lr_scheduler_step(config.scheduler, metric)
            self._context.hook = before

    def _monitored(self, config: SchedulerConfig) -> Any:
        assert config.monitor is not None, "configured() asks for one"
        metric = self._metrics.callback.get(config.monitor)
        if metric is None and config.strict:
            known = ", ".join(self._metrics.callback) or "nothing"
            raise ConfigError(
                f"{type(config.scheduler).__name__} looks at {config.monitor!r}, which was not logged.",
                remedy=f"Logged so far: {known}. Or set 'strict': False in the scheduler's configuration.",
            )
        return metric
