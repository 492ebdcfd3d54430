"""Keep what a run logs until somebody asks for it. On an ordinary step no tensor is read and nothing is averaged.

A single value is cloned, because its tensor may be changed after it was logged; the values of an epoch are added
up where they are. Only ``MetricLog.scores`` and ``numbers`` wait for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from holdfast.errors import ConfigError
from holdfast.log import warn
from holdfast.policy.values import Score
from holdfast.training import metric_objects
from holdfast.training.metric_entries import Entry, Stage, Union
from holdfast.training.metric_rules import FUNCTION, Given, Settings, checked_size, settle
from holdfast.training.metric_shown import Shown
from holdfast.training.metric_values import check_object, computed, numbers, one_element, plain_number, tensor_of
from holdfast.training.reduction import Across, Reduced

__all__ = ["MetricLog", "StageName", "numbers"]

StageName = Literal["train", "validate", "sanity", "test", "predict"]


class MetricLog:
    """What a run logs. One object for each call of fit, validate or test.

    A stage goes: ``begin_stage``; for each batch ``begin_batch`` and ``end_batch``; ``end_batches``; the hooks of
    its end; ``end_stage``. A validation may run within a training, which is the stage again when it ends.

    Attributes:
        reduce: Reduces a tensor over all ranks by ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``; None where there is
            one rank. Called for what is logged with ``sync_dist=True`` only: within ``log`` for single values, at
            the end of the batches for values of an epoch.
        union: Gives every rank what any of them tells, in one order; None where there is one rank. Called at the end
            of the batches, and of the stage.
        reduced: The single values that this rank has reduced with the others.
        module: Whose torchmetrics objects are a part of the state; None for none.
    """

    def __init__(self) -> None:
        self.module: Any = None
        self._seen: dict[str, dict[str, Any]] | None = None  # by metric objects, before the evaluation under way
        self._loaded: Mapping[str, Any] = {}
        self.reduce: Across | None = None
        self.union: Union | None = None
        self.reduced = Reduced()
        self._shown = Shown()
        self._none = Stage("none", several=False)
        self._stages: dict[str, Stage] = {}
        self._stage = self._none

    @property
    def callback(self) -> dict[str, Tensor]:
        """What callbacks and monitors see, as tensors: single values of training, and values of epochs.

        Always the same dict; to ask for it brings it up to date. What is put into it by hand stays.
        """
        return self._shown.callback

    @property
    def progress_bar(self) -> dict[str, Tensor]:
        """What was logged with ``prog_bar=True``, as tensors; ``numbers`` reads them."""
        return self._shown.progress_bar

    @property
    def logged(self) -> dict[str, Tensor]:
        """The newest of what was logged for loggers, as tensors, whether or not one was handed it."""
        return self._shown.logged

    @property
    def names(self) -> set[str]:
        """Every name that a monitor finds now, or when the epoch under way ends."""
        stages = [stage for name, stage in self._stages.items() if name != "sanity"]
        return set(self.callback).union(*(e.monitored for stage in stages for e in stage.entries.values()))

    # The course of a stage

    def begin_stage(self, stage: StageName, *, dataloaders: int = 1) -> None:
        """Begin a stage, or an epoch of training, with nothing logged but what ``load_state_dict`` has brought.

        What a sanity check has published is gone from here on.

        Args:
            stage: Which.
            dataloaders: How many it reads; with more than one, names say which.
        """
        self._shown.end_sanity()
        known = self._stages.get(stage)
        if known is None or known.several != (dataloaders > 1):
            known = self._stages[stage] = Stage(stage, several=dataloaders > 1)
        elif known.loaded:
            known.loaded = False
        else:
            known.forget()
        known.open = True
        known.leave_batches()
        self._stage = known
        self._seen = None if stage == "train" else metric_objects.states(self.module)
        if stage == "sanity":
            self._shown.begin_sanity()

    def begin_batch(self, batch: Any, dataloader_idx: int = 0) -> None:
        """Begin a batch. It is looked into only if an average needs a size that was not given.

        Args:
            batch: The batch.
            dataloader_idx: Which data loader it is from.
        """
        stage = self._stage
        if stage.fresh:
            self._stamp(stage, stage.steps)  # logged after the end of the batch before this one
        stage.batch = batch
        stage.loader = dataloader_idx
        stage.size = None

    def end_batch(self, steps: int) -> None:
        """What was logged in this batch was measured at ``steps`` optimizer steps."""
        stage = self._stage
        stage.steps = steps
        if stage.fresh:
            self._stamp(stage, steps)

    def end_batches(self, steps: int) -> None:
        """All batches are done: publish the values of the epoch, for the hooks that come now may read them.

        They may also log more; ``end_stage`` follows them.

        Args:
            steps: The optimizer steps at which these values were measured.
        """
        stage = self._stage
        if stage.fresh:
            self._stamp(stage, steps)
        stage.leave_batches()
        stage.revive(self.module)
        shared = stage.join(self.union, self.module) if self.union is not None else []
        reduced = {id(entry): entry.compute(self.reduce) for entry in shared}
        for entry in stage.entries.values():
            if entry.touched:
                entry.result = reduced[id(entry)] if id(entry) in reduced else entry.compute(self.reduce)
                entry.touched = False
                self._shown.publish_epoch(entry, entry.result, steps)

    def origins(self, steps: int) -> dict[str, int | None]:
        """Before ``end_stage``: each value of the epoch and its data loader; None for several or outside batches."""
        self.end_batches(steps)
        found: dict[str, int | None] = {}
        for entry in self._stage.entries.values():
            if entry.result is not None:
                name = entry.names.epoch
                found[name] = entry.loader if found.get(name, entry.loader) == entry.loader else None
        return found

    def end_stage(self, steps: int) -> dict[str, Tensor]:
        """End the stage. A training that a validation has interrupted goes on.

        Args:
            steps: The optimizer steps at which its values were measured.

        Returns:
            The values of the epoch that are for loggers.
        """
        self.end_batches(steps)
        stage = self._stage
        for_loggers = {
            entry.names.epoch: entry.result
            for entry in stage.entries.values()
            if entry.result is not None and entry.settings.logger
        }
        stage.reset_objects()
        stage.forget()
        stage.open = False
        self._seen = None
        training = self._stages.get("train", self._none)
        self._stage = training if training.open else self._none
        return for_loggers

    # Logging

    def log(
        self,
        name: str,
        value: Any,
        *,
        hook: str,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        sync_dist: bool = False,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
        enable_graph: bool = False,
        sync_dist_group: Any = None,
    ) -> None:
        """Log one value; see ``LightningModule.log``. ``hook`` is the step or hook that runs.

        Raises:
            ConfigError: The value is not one real number, or nothing can be logged in this hook, or not so.
        """
        stage = self._stage
        entry = stage.entries.get((name, hook, stage.loader))
        given = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, sync_dist, add_dataloader_idx, metric_attribute,
            rank_zero_only, enable_graph, sync_dist_group,
        )  # fmt: skip
        if entry is None or entry.given != given:
            entry = self._declare(name, hook, Given(*given))
        size = 1
        if entry.weighted:
            if batch_size is not None:
                size = batch_size if type(batch_size) is int and batch_size >= 0 else checked_size(name, batch_size)
            else:
                size = stage.size if stage.size is not None else stage.find_size(name)
        if isinstance(value, Tensor):
            self._log_tensor(stage, entry, value, size)
        elif type(value) is float or type(value) is int:
            self._log_number(stage, entry, value, size)
        elif isinstance(value, Real):
            self._log_number(stage, entry, plain_number(value), size)
        else:
            self._log_object(stage, entry, value)

    def _log_tensor(self, stage: Stage, entry: Entry, value: Tensor, size: int) -> None:
        if value.dim():
            value = one_element(entry.name, value)
        if value.dtype is not entry.dtype:
            entry.accept(value)
        bare = value.detach() if value.requires_grad else value
        if entry.on_epoch:
            entry.total.add(bare, size)
            entry.touched = True
        if entry.on_step:
            self._hold(stage, entry, (value if entry.settings.enable_graph else bare).clone())

    def _log_number(self, stage: Stage, entry: Entry, value: float, size: int) -> None:
        if entry.on_epoch:
            entry.total.add_number(value, size)
            entry.touched = True
        if entry.on_step:
            self._hold(stage, entry, value)

    def _log_object(self, stage: Stage, entry: Entry, value: Any) -> None:
        """A torchmetrics object, or one with the same verbs: it keeps the values of the epoch itself."""
        check_object(entry.name, value)
        entry.source = value
        entry.touched = entry.on_epoch
        if not entry.on_step:
            return
        single = getattr(value, "_forward_cache", None)
        if single is not None:
            self._hold(stage, entry, computed(entry.name, single))
        elif not entry.warned:
            entry.warned = True
            warn(
                f"Metric {entry.name!r} is logged on_step, but its object has no value of one step: it was only "
                "updated. Call it on the batch, or log it with on_step=False, on_epoch=True.",
            )

    def _hold(self, stage: Stage, entry: Entry, value: Tensor | float) -> None:
        """Keep a single value until somebody looks."""
        settings = entry.settings
        # In an evaluation one rank may have a batch more than another, which would wait for it.
        if self.reduce is not None and settings.synchronised and entry.in_training:
            self.reduced.count(entry.name)
            operation = "mean" if settings.operation == FUNCTION else settings.operation
            value = self.reduce(tensor_of(value), operation, what=f"the metric {entry.name!r}")
        entry.value = value
        entry.at = None
        entry.unlogged = True
        stage.fresh.append(entry)
        if not entry.unshown:
            self._shown.note(entry)

    def _declare(self, name: str, hook: str, given: Given) -> Entry:
        """The entry for a first call, or one with other arguments than the last."""
        settings = settle(name, hook, given)
        stage = self._stage
        if stage is self._none:
            raise ConfigError(
                f"log({name!r}) was called in {hook} while no training, validation or test was running.",
                remedy="Log in the steps and hooks of fit, validate and test.",
            )
        if settings.synchronised and self.reduce is not None:
            _check_reducible(name, settings, given)
        entry = stage.entry((name, hook, stage.loader), settings)
        entry.given = tuple(given)
        return entry

    # Publishing

    def step_values(self) -> dict[str, Tensor]:
        """What this stage has logged ``on_step`` for loggers and not handed out yet, the newest of each name."""
        values = {}
        for entry in self._stage.entries.values():
            if entry.unlogged and entry.settings.logger:
                values[entry.names.step] = tensor_of(entry.value)
            entry.unlogged = False
        return values

    def scores(self, steps: int) -> dict[str, Score]:
        """The metrics that callbacks see and that are one number, each with the step at which it was measured.

        This reads the tensors, those of one device and dtype together; an integer tensor gives an int. Nothing that
        the sanity check has measured is among them.

        Args:
            steps: The steps now: for values of the batch under way, and for those put into ``callback`` by hand.
        """
        return self._shown.scores(steps)

    def _stamp(self, stage: Stage, steps: int) -> None:
        for entry in stage.fresh:
            entry.at = steps
            if not entry.unshown:  # somebody has looked before the batch was over
                self._shown.note(entry)
        stage.fresh.clear()

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """The epoch of training under way, and what is published with its steps; tensors and plain values.

        Of torchmetrics objects it has what they had seen before an evaluation that is under way.
        """
        training = self._stages.get("train", self._none)
        return {
            **training.state_dict(partial(metric_objects.path_of, self.module)),
            "seen": metric_objects.states(self.module) if self._seen is None else self._seen,
            **self._shown.state_dict(training.steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with such a state: training is the stage now, and the next ``begin_stage`` keeps what is in it.

        Warns of metric objects whose value of this epoch will lack what came before. An empty state does nothing.
        """
        self._loaded = state
        if not state:
            return
        training = self._stages["train"] = self._stage = Stage("train", several=False)
        training.open = training.loaded = True
        lost = metric_objects.restore(self.module, state.get("seen", {}))
        if lost:
            warn(
                f"What {', '.join(map(repr, lost))} had seen is in the checkpoint, and no such metric object is here.",
            )
        gone = {*lost}
        training.load_state_dict(
            {**state, "objects": [one for one in state["objects"] if isinstance(one, str) or one["path"] not in gone]}
        )
        self._shown.load_state_dict(state)

    def forget_again(self) -> None:
        """Forget what was logged since ``load_state_dict``, and what metric objects have seen since."""
        if self._loaded:
            self.load_state_dict(self._loaded)
            self.begin_stage("train")


class SilentLog(MetricLog):
    """One that keeps nothing, for runs that want nothing but to train."""

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Nothing."""


def _check_reducible(name: str, settings: Settings, given: Given) -> None:
    if given.sync_dist_group is not None:
        raise ConfigError(
            f"log({name!r}, sync_dist_group=...): metrics are reduced over all ranks, not over a group of them.",
            remedy="Reduce the value yourself and log it with sync_dist=False.",
        )
    if settings.operation == FUNCTION and settings.on_epoch:
        raise ConfigError(
            f"log({name!r}, sync_dist=True): a reduce_fx function sees the values of its own rank only.",
            remedy="Use 'mean', 'sum', 'min' or 'max', or sync_dist=False.",
        )
