"""When a fit stops, and how often it does what: resolved values, nothing to be guessed."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.policy.values import Progress


@dataclass(frozen=True)
class FitLimits:
    """The limits of one fit.

    Args:
        max_epochs: Epochs at most; None for no limit.
        min_epochs: Epochs at least, whatever a callback wants.
        max_steps: Optimizer steps at most; None for no limit.
        min_steps: Optimizer steps at least.
        max_time: Seconds of fit at most; None for no limit.
        accumulate: Batches whose gradients make one step.
        validate_every: Validate after every so many batches: of the epoch, or of the run where ``by_run``.
        by_run: Whether those batches are counted over the whole run.
        validate_seconds: Validate when so many seconds have passed instead.
        validate_epochs: In every so many epochs only.
        log_every: Hand values to loggers every so many steps.
        clip_value: Clip gradients to it; None does not.
        clip_algorithm: ``"norm"`` or ``"value"``.
    """

    max_epochs: int | None
    min_epochs: int = 0
    max_steps: int | None = None
    min_steps: int = 0
    max_time: float | None = None
    accumulate: int = 1
    validate_every: int | None = None
    by_run: bool = False
    validate_seconds: float | None = None
    validate_epochs: int = 1
    log_every: int = 50
    clip_value: float | None = None
    clip_algorithm: str | None = None

    def reached(self, progress: Progress) -> str:
        """The limit of epochs or steps that a run has come to, as it was given; empty where it has come to none."""
        if self.max_epochs is not None and progress.epochs >= self.max_epochs:
            return f"max_epochs={self.max_epochs}"
        if self.max_steps is not None and progress.steps >= self.max_steps:
            return f"max_steps={self.max_steps}"
        return ""
