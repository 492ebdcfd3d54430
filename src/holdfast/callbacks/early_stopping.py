"""Ask for the end of training when a metric no longer improves. Ends nothing itself: it sets the trainer's flag."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import torch

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError
from holdfast.log import logger

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer


class EarlyStoppingReason(Enum):
    """Why ``EarlyStopping`` has stopped a fit."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


class EarlyStopping(Callback):
    """Stop training when a metric no longer improves.

    Args:
        monitor: The metric, as it was logged.
        min_delta: How much better than the best it must be to count as better; 0 or more.
        patience: After so many checks in a row without anything better, training stops.
        verbose: Whether each improvement writes a line too; the end always writes one.
        mode: Whether lower (``"min"``) or higher (``"max"``) is better.
        strict: Whether a metric that is not there is an error; otherwise one line says so, and nothing is stopped.
        check_finite: Stop at once when the metric is NaN or infinite.
        stopping_threshold: Stop at once when the metric is as good as this, or better.
        divergence_threshold: Stop at once when it is worse than this.
        check_on_train_epoch_end: Whether to look at the end of training epochs or of validations. By default at the
            end of training epochs, unless validation runs several times an epoch or not in every one.
        log_rank_zero_only: Whether only rank 0 writes lines.

    ``wait_count`` is the number of checks in a row without anything better, ``best_score`` the best value,
    ``stopped_epoch`` the epoch in which it stopped (0 if it did not), ``stopping_reason`` why (an
    ``EarlyStoppingReason``), ``stopping_reason_message`` the same as a sentence (None if it did not).

    Raises:
        ConfigError: Arguments make no sense; all of it in one error. Or, while training, the metric is missing.
    """

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: Literal["min", "max"] = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        self.monitor, self.mode = monitor, mode
        self.min_delta, self.patience = min_delta, patience
        self.verbose, self.strict, self.check_finite = verbose, strict, check_finite
        self.stopping_threshold, self.divergence_threshold = stopping_threshold, divergence_threshold
        self.check_on_train_epoch_end = check_on_train_epoch_end
        self.log_rank_zero_only = log_rank_zero_only
        _check_arguments(self)
        self.wait_count = 0
        self.stopped_epoch = 0
        self.best_score = torch.tensor(math.inf if mode == "min" else -math.inf, dtype=torch.float64)
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None
        self._training = False
        self._at_epoch_end = True
        self._said_missing = False

    @property
    def state_key(self) -> str:
        """Two that look at different metrics, or in different directions, are kept apart."""
        return f"{type(self).__qualname__}{ {'monitor': self.monitor, 'mode': self.mode}!r}"

    def state_dict(self) -> dict[str, Any]:
        """What it counts from."""
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "patience": self.patience,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; the ``patience`` of the constructor stays, and a line says so where it is another.

        Files of Lightning before 0.10 tell of ``wait_count`` and ``patience`` alone.
        """
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict.get("stopped_epoch", 0)
        self.best_score = torch.as_tensor(state_dict.get("best_score", self.best_score), dtype=torch.float64).cpu()
        patience = state_dict.get("patience", self.patience)
        if patience != self.patience:
            logger.info("early stopping: patience is %s now, and was %s in the checkpoint", self.patience, patience)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Whatever ran before, training has not begun."""
        self._training = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle when to look: validations before this, such as the sanity check, do not count."""
        self._training = not trainer.config.fast_dev_run
        loop, wanted = trainer.loop, self.check_on_train_epoch_end
        assert loop is not None, "a fit has a loop"
        if wanted is None:
            wanted = trainer.config.epoch_end_counts(loop.evaluation is not None, loop.limits)
        self._at_epoch_end = wanted

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is validated later does not count."""
        self._training = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if it is here that it counts."""
        if self._training and self._at_epoch_end:
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if it is here that it counts."""
        if self._training and not self._at_epoch_end:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            self._missing(trainer)
            return
        current = float(metrics[self.monitor])
        stop = self._at_once(current)
        best = float(self.best_score)
        if stop is None and self._better(current, best):
            self.best_score = torch.tensor(current, dtype=torch.float64)
            self.wait_count = 0
            if self.verbose:
                since = "" if math.isinf(best) else f", after {best:g}"
                self._say(trainer, f"{self.monitor} improved to {current:g}{since}")
        elif stop is None:
            self.wait_count += 1
            if self.wait_count >= self.patience:
                stop = EarlyStoppingReason.PATIENCE_EXHAUSTED, self._exhausted(current, best)
        if stop is not None:
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason, self.stopping_reason_message = stop
            self._say(trainer, f"{stop[1]}; training stops in epoch {trainer.current_epoch}")

    def _at_once(self, current: float) -> tuple[EarlyStoppingReason, str] | None:
        """Why to stop at once, whatever was before."""
        lower = self.mode == "min"
        reached, limit = self.stopping_threshold, self.divergence_threshold
        if self.check_finite and not math.isfinite(current):
            said = f"{self.monitor} is {current:g} (the best was {float(self.best_score):g})"
            return EarlyStoppingReason.NON_FINITE_METRIC, said
        if reached is not None and (current <= reached if lower else current >= reached):
            said = f"{self.monitor} is {current:g}, which reaches the stopping_threshold of {reached:g}"
            return EarlyStoppingReason.STOPPING_THRESHOLD, said
        if limit is not None and (current > limit if lower else current < limit):
            said = f"{self.monitor} is {current:g}, worse than the divergence_threshold of {limit:g}"
            return EarlyStoppingReason.DIVERGENCE_THRESHOLD, said
        return None

    def _better(self, current: float, best: float) -> bool:
        if self.mode == "min":
            return current + self.min_delta < best
        return current - self.min_delta > best

    def _exhausted(self, current: float, best: float) -> str:
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        checks = f"{self.wait_count} check{'s' if self.wait_count != 1 else ''}"
        return f"{self.monitor} did not improve{by} in {checks}: the best was {best:g}, it is {current:g}"

    def _missing(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return  # rank 0, which has it or says so, decides
        there = ", ".join(trainer.callback_metrics) or "nothing"
        if self.strict:
            raise ConfigError(
                f"EarlyStopping looks at {self.monitor!r}, which was not logged.",
                remedy=f"Logged so far: {there}. Log it by that name, or set strict=False to go on without it.",
            )
        if not self._said_missing:
            self._said_missing = True
            self._say(trainer, f"{self.monitor} was not logged, so nothing is stopped; logged so far: {there}")

    def _say(self, trainer: Trainer, what: str) -> None:
        if self.log_rank_zero_only and not trainer.is_global_zero:
            return
        rank = f"[rank {trainer.global_rank}] " if trainer.world_size > 1 else ""
        logger.info("%searly stopping: %s", rank, what)


def _check_arguments(stopping: EarlyStopping) -> None:
    problems = []
    if not stopping.monitor:
        problems.append(f"monitor is the name of a metric, not {stopping.monitor!r}")
    if stopping.mode not in ("min", "max"):
        problems.append(f"mode is 'min' or 'max', not {stopping.mode!r}")
    if stopping.patience < 0:
        problems.append(f"patience is a whole number of 0 or more, not {stopping.patience!r}")
    if not _finite(stopping.min_delta) or stopping.min_delta < 0:
        problems.append(f"min_delta is a number of 0 or more, not {stopping.min_delta!r}")
    for name in ("stopping_threshold", "divergence_threshold"):
        threshold = getattr(stopping, name)
        if threshold is not None and not _finite(threshold):
            problems.append(f"{name} is a finite number, not {threshold!r}")
    if problems:
        raise ConfigError(f"EarlyStopping: {'; '.join(problems)}.")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
