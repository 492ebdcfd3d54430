"""Which steps loggers get values of, for callbacks that log by themselves. Logs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.training.trainer import Trainer


def logs_now(trainer: Trainer) -> bool:
    """Whether loggers get values of the step under way: every ``log_every_n_steps``, and when training stops."""
    every = trainer.log_every_n_steps
    return trainer.should_stop or (every > 0 and (log_step(trainer) + 1) % every == 0)


def log_step(trainer: Trainer) -> int:
    """The x-axis of loggers: batches that ended in an optimizer step, before the one under way."""
    return 0 if trainer.loop is None else trainer.loop.stepped
