"""``trainer.fit_loop`` and its kin: what programs read of a loop, and the few limits that they set. Holds nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.training.defaults import sizes_of

if TYPE_CHECKING:
    from holdfast.training.evaluate import Evaluation
    from holdfast.training.facts import Facts

_LIMITS = ("max_epochs", "min_epochs", "max_steps", "min_steps")


@dataclass(frozen=True)
class Counts:
    """How many have begun, and how many of those are done.

    Args:
        ready, started: Begun.
        processed: Trained on.
        completed: Over, with all that follows on them.
    """

    ready: int
    started: int
    processed: int
    completed: int


@dataclass(frozen=True)
class Counted:
    """The same of the whole run, and of what is under way.

    Args:
        total: Of the run.
        current: Of the epoch; for epochs the same as ``total``.
    """

    total: Counts
    current: Counts


class _View:
    """Reads a trainer; of what can be set, sets the trainer's own.

    Args:
        trainer: The trainer.
    """

    __slots__ = ("_trainer",)
    _trainer: Facts

    def __init__(self, trainer: Facts) -> None:
        object.__setattr__(self, "_trainer", trainer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _LIMITS:
            raise AttributeError(
                f"fit_loop.{name} cannot be set, only {', '.join(_LIMITS)}. Where a run stands is in its checkpoints; "
                "one that begins anew wants a new Trainer."
            )
        setattr(self._trainer, name, value)

    @property
    def max_epochs(self) -> int:
        """Epochs at most, of this fit and those that follow; -1 for no limit."""
        return self._trainer.max_epochs

    @property
    def min_epochs(self) -> int:
        """Epochs at least; 0 where nobody asked for any."""
        return self._trainer.min_epochs

    @property
    def max_steps(self) -> int:
        """Optimizer steps at most; -1 for no limit."""
        return self._trainer.max_steps

    @property
    def min_steps(self) -> int | None:
        """Optimizer steps at least."""
        return self._trainer.min_steps

    @property
    def batch_idx(self) -> int:
        """The batch of the epoch that is under way, or was last; -1 before the first."""
        loop = self._trainer.loop
        return -1 if loop is None else loop.batch - loop.at_boundary

    @property
    def total_batch_idx(self) -> int:
        """The same of the run."""
        loop = self._trainer.loop
        return -1 if loop is None else loop.total_batches - loop.at_boundary


class EvaluationView:
    """``trainer.validate_loop``, ``trainer.test_loop`` and ``trainer.predict_loop``.

    Args:
        evaluation: The evaluation; None before the first.
    """

    __slots__ = ("_evaluation",)

    def __init__(self, evaluation: Evaluation | None) -> None:
        self._evaluation = evaluation

    @property
    def num_dataloaders(self) -> int:
        """How many loaders it reads."""
        return 0 if self._evaluation is None else len(self._evaluation.loaders)

    @property
    def max_batches(self) -> list[float]:
        """Batches of each; infinite where one does not say."""
        return [] if self._evaluation is None else sizes_of(self._evaluation)

    @property
    def predictions(self) -> list[Any]:
        """What the steps of a prediction have returned, batch by batch; for several loaders a list of each."""
        outputs = [] if self._evaluation is None else self._evaluation.outputs
        return outputs[0] if len(outputs) == 1 else outputs


class EpochLoopView(_View):
    """``fit_loop.epoch_loop``: the batches of an epoch."""

    __slots__ = ()

    @property
    def global_step(self) -> int:
        """Optimizer steps done."""
        return self._trainer.global_step

    @property
    def batch_progress(self) -> Counted:
        """Batches."""
        loop = self._trainer.loop
        if loop is None:
            return Counted(_counts(0, 0), _counts(0, 0))
        within = not loop.at_boundary
        return Counted(_counts(loop.total_batches, within), _counts(loop.batch, within))

    @property
    def val_loop(self) -> EvaluationView:
        """The validation within the fit."""
        return self._trainer.validate_loop

    @property
    def _batches_that_stepped(self) -> int:
        """Batches that ended with a step: what loggers count by, and programs read although its name is private."""
        loop = self._trainer.loop
        return 0 if loop is None else loop.stepped


class FitLoopView(_View):
    """``trainer.fit_loop``."""

    __slots__ = ()

    @property
    def epoch_loop(self) -> EpochLoopView:
        """Its inner loop."""
        return EpochLoopView(self._trainer)

    @property
    def done(self) -> bool:
        """Whether a limit is reached, or somebody's wish to stop counts: no epoch begins any more."""
        loop = self._trainer.loop
        return self._trainer._brought is not None if loop is None else loop.done

    @property
    def max_batches(self) -> float:
        """Batches of an epoch."""
        return self._trainer.num_training_batches

    def setup_data(self) -> None:
        """Nothing: the training data is there before ``configure_optimizers``, where programs ask for it."""

    @property
    def epoch_progress(self) -> Counted:
        """Epochs."""
        done, loop = self._trainer.current_epoch, self._trainer.loop
        if loop is None:
            counts = _counts(done, 0)
        else:
            begun = done + (loop.running and not loop.epoch_ended)
            counts = Counts(begun, begun, loop.progress.epochs, done)
        return Counted(counts, counts)


def _counts(done: int, within: int) -> Counts:
    return Counts(done + within, done + within, done, done)
