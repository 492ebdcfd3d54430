"""What one stage of a run logs: an entry for each metric, hook and data loader. Publishes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, dtype

from holdfast.errors import ConfigError
from holdfast.log import warn
from holdfast.training import metric_objects
from holdfast.training.metric_rules import FUNCTION, Names, Settings
from holdfast.training.metric_values import computed, no_number, size_of, sizes, tensor_of
from holdfast.training.reduction import Across, Reduction, nothing_yet, reduction

Union = Callable[[list[list[Any]]], list[list[Any]]]
"""Gives each rank what all ranks have told, sorted, each thing once."""

Key = tuple[str, str, int | None]
"""Name, hook, and the index of the data loader; None outside of batches."""


class Entry:
    """One metric of one stage, as one hook logs it, from one data loader.

    Attributes:
        given: The arguments of the last call, which need no second look when they come again.
        value: The last single value.
        at: The optimizer steps at which that was measured; None while its batch is under way.
        unshown: Whether nobody has looked at it since.
        unlogged: Whether it was not handed to loggers since.
        total: The values of this epoch.
        dtype: Of the last tensor of this epoch.
        source: The metric object that was logged in this epoch.
        touched: Whether something was logged since ``result`` was made.
        result: The published value of this epoch.
        agreed: Its dtype on all ranks, where it is reduced over them.
    """

    __slots__ = (
        "agreed", "at", "dtype", "given", "hook", "in_training", "loader", "name", "names", "on_epoch", "on_step",
        "result", "settings", "source", "total", "touched", "unlogged", "unshown", "value", "warned", "weighted",
    )  # fmt: skip

    def __init__(self, name: str, hook: str, loader: int | None, settings: Settings, *, in_training: bool) -> None:
        self.name, self.hook, self.loader = name, hook, loader
        self.settings = settings
        self.names = Names.of(name, settings, loader)
        self.in_training = in_training
        self.on_step, self.on_epoch = settings.on_step, settings.on_epoch
        self.weighted = settings.on_epoch and settings.operation == "mean"
        self.given: tuple[Any, ...] | None = None
        self.value: Any = None
        self.at: int | None = None
        self.unshown = self.unlogged = self.warned = False
        self.forget()

    def forget(self) -> None:
        """Begin an epoch."""
        self.total: Reduction = reduction(self.settings.function or self.settings.operation)
        self.dtype: dtype | None = None
        self.source: Any = None
        self.touched = False
        self.result: Tensor | None = None
        self.agreed: dtype | None = None

    def accept(self, value: Tensor) -> None:
        """Make ready for a value of another dtype than the last one's."""
        if value.is_complex():
            raise no_number(self.name, value)
        if self.on_epoch:
            self.total.accept(value)
        self.dtype = value.dtype

    def compute(self, across: Across | None) -> Tensor:
        """The value of this epoch so far."""
        if self.source is not None:
            return tensor_of(computed(self.name, metric_objects.computed(self.source)))
        alone = not self.settings.synchronised
        return tensor_of(computed(self.name, self.total.result(None if alone else across, self.agreed)))

    @property
    def monitored(self) -> set[str]:
        """The names under which callbacks find it. Single values of an evaluation are not for them."""
        step = {self.names.step} if self.on_step and self.in_training else set()
        return step | ({self.names.epoch, self.names.monitor} if self.on_epoch else set())

    @property
    def published(self) -> set[str]:
        """All its names."""
        return self.monitored | ({self.names.step} if self.on_step else set())


class Stage:
    """What one stage logs. Its entries outlive an epoch, so that the arguments of all calls are compared.

    Attributes:
        several: Whether it reads more than one data loader.
        entries: What was logged, in the order of the first calls.
        waiting: What a checkpoint holds of this epoch and was not logged since.
        objects: Likewise, the metric objects that it was logged with.
        fresh: What was logged since the last batch ended.
        open: Whether it was begun and not ended.
        loaded: Whether it was made by a checkpoint and not begun since.
        steps: Optimizer steps at the end of the last batch.
        batch: The batch under way, or the last one.
        loader: Its data loader; None outside of batches.
        size: Its size, once somebody has asked.
    """

    __slots__ = (
        "_checked", "batch", "entries", "fresh", "loaded", "loader", "name", "objects", "open", "several", "size",
        "steps", "waiting",
    )  # fmt: skip

    def __init__(self, name: str, *, several: bool) -> None:
        self.name, self.several = name, several
        self.entries: dict[Key, Entry] = {}
        self.waiting: dict[Key, dict[str, Any]] = {}
        self.objects: dict[Key, dict[str, Any]] = {}
        self.fresh: list[Entry] = []
        self.open = self.loaded = self._checked = False
        self.steps = 0
        self.leave_batches()

    def leave_batches(self) -> None:
        """No batch is under way."""
        self.batch: Any = None
        self.loader: int | None = None
        self.size: int | None = None

    def forget(self) -> None:
        """Begin an epoch."""
        self.waiting.clear()
        self.objects.clear()
        self.fresh.clear()
        for entry in self.entries.values():
            entry.forget()

    def reset_objects(self) -> None:
        """Reset the metric objects, when all are computed: one may stand under several names."""
        for entry in self.entries.values():
            if entry.source is not None:
                entry.source.reset()

    def entry(self, key: Key, settings: Settings) -> Entry:
        """The entry of that key, a new one if need be.

        Raises:
            ConfigError: The metric has been logged with other settings, or another one has its name.
        """
        name, hook, index = key
        for other in self.entries.values():
            if other.name == name and other.settings != settings:
                where = f"in {hook}" if other.hook == hook else f"in {other.hook} and in {hook}"
                raise ConfigError(
                    f"Metric {name!r} is logged {where} with {other.settings.differences(settings)}.",
                    remedy="Log it with the same arguments each time, or under another name.",
                )
        if key in self.entries:
            return self.entries[key]
        entry = Entry(name, hook, index if self.several else None, settings, in_training=self.name == "train")
        self._check_names(entry)
        self.entries[key] = entry
        self.objects.pop(key, None)
        if key in self.waiting:
            self._go_on(entry, self.waiting.pop(key))
        return entry

    def find_size(self, name: str) -> int:
        """The size of the batch under way: that of the first tensor in it; 1 where there is no batch.

        Raises:
            ConfigError: It holds no tensor.
        """
        size = 1 if self.batch is None else size_of(self.batch)
        if size is None:
            raise ConfigError(
                f"Metric {name!r} is averaged over the epoch, but a batch (a {type(self.batch).__name__}) holds no "
                "tensor that would tell its size.",
                remedy="Give batch_size= to log().",
            )
        if not self._checked and self.batch is not None:
            self._checked = True
            if any(other != size for other in sizes(self.batch)):
                warn(
                    f"The tensors of a batch differ in their first dimension. Metric {name!r} is weighted by the first "
                    f"one's, {size}; give batch_size= to log() if that is not the batch size.",
                )
        self.size = size
        return size

    def state_dict(self, path_of: Callable[[Any], str | None]) -> dict[str, Any]:
        """The epoch so far, and which metric objects were logged in it; what they have seen is not in it.

        Args:
            path_of: Where a metric object is in the module; None if its state is not saved.
        """
        found = [
            {
                "key": list(key),
                "settings": _named(entry.settings),
                "total": entry.total.state_dict(),
            }
            for key, entry in self.entries.items()
            if entry.touched and entry.source is None
        ]
        objects = []
        for key, entry in self.entries.items():
            if entry.source is not None:
                path = path_of(entry.source)
                known = {"key": list(key), "settings": _named(entry.settings), "path": path, "touched": entry.touched}
                objects.append(entry.name if path is None else known)
        return {"entries": [*found, *self.waiting.values()], "objects": [*objects, *self.objects.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let metrics go on from such a state when they are logged again, or at the end if they are not."""
        for saved in state["entries"]:
            name, hook, index = saved["key"]
            self.waiting[name, hook, index] = saved
        for saved in state["objects"]:
            if not isinstance(saved, str):
                name, hook, index = saved["key"]
                self.objects[name, hook, index] = saved
        if lost := [saved for saved in state["objects"] if isinstance(saved, str)]:
            warn(
                f"This epoch's value of {', '.join(map(repr, lost))} will cover only the batches from here on: what a "
                "metric object has seen is in the checkpoint only if it is one of torchmetrics' in the module.",
            )

    def revive(self, module: Any) -> None:
        """Make entries of what a checkpoint holds and nobody has logged since; ``module`` has the metric objects."""
        for key, saved in list(self.objects.items()):
            entry = self.entry(key, Settings(**saved["settings"]))
            entry.source, entry.touched = module.get_submodule(saved["path"]), saved["touched"]
        for key, saved in list(self.waiting.items()):
            if saved["settings"]["operation"] == FUNCTION:
                warn(
                    f"Metric {key[0]!r} has no value for this epoch: it was not logged since the resume, and the "
                    "checkpoint does not hold its reduce_fx function.",
                )
            else:
                self.entry(key, Settings(**saved["settings"]))
        self.waiting.clear()

    def join(self, union: Union, module: Any) -> list[Entry]:
        """Take part in what any rank has logged for all of them in this epoch, as one that has seen nothing of it.

        Ranks differ: one may have had no batch, or none of a kind. What they reduce must be the same all the same.

        Args:
            union: Gives to every rank what any of them has told, in one order.
            module: Has the metric objects, which reduce themselves and need all ranks for it.

        Returns:
            The metrics that are to be reduced over all ranks now, in that order.

        Raises:
            ConfigError: This rank cannot take part in what another has logged.
        """
        own = [
            [list(key), _named(entry.settings), *told]
            for key, entry in self.entries.items()
            if entry.touched and (told := _for_others(entry, module)) is not None
        ]
        kinds: dict[Key, dtype] = {}
        objects: dict[Key, str | None] = {}
        joined: dict[Key, Entry] = {}
        for (name, hook, index), settings, kind, path in union(own):
            key = name, hook, index
            entry = joined[key] = self.entry(key, Settings(**settings))
            if kind is None:
                _join_object(entry, module, path, objects.setdefault(key, path))
            else:
                there = getattr(torch, kind)
                kinds[key] = entry.agreed = torch.promote_types(kinds.get(key, there), there)
                if not entry.touched and entry.result is None:
                    entry.total = nothing_yet(entry.settings.operation, there)
            entry.touched = True
        if both := [key[0] for key in joined if key in kinds and key in objects]:
            raise ConfigError(
                f"Metric {both[0]!r} is logged as a metric object on one rank, and as a number on another.",
                remedy="Log the same on every rank.",
            )
        return list(joined.values())

    def _go_on(self, entry: Entry, saved: dict[str, Any]) -> None:
        before, now = saved["settings"]["operation"], entry.settings.operation
        if before == now and entry.on_epoch:
            entry.total.load_state_dict(saved["total"])
            entry.touched = True
        elif entry.on_epoch:
            warn(
                f"Metric {entry.name!r} was reduced by {before} when the checkpoint was taken, and is by {now} now: "
                "its value of this epoch covers only the batches from here on.",
            )

    def _check_names(self, entry: Entry) -> None:
        for other in self.entries.values():
            clash = " and ".join(map(repr, sorted(other.published & entry.published)))
            if not clash or (other.name, other.loader) == (entry.name, entry.loader):
                continue
            if other.name == entry.name:
                raise ConfigError(
                    f"Data loaders {other.loader} and {entry.loader} both log {clash} without their index.",
                    remedy="Leave add_dataloader_idx at True, or put the index into the name.",
                )
            raise ConfigError(
                f"{clash} would stand for two metrics: {other.name!r}, logged in {other.hook}, and {entry.name!r}, "
                f"logged in {entry.hook}.",
                remedy="Rename one of them.",
            )


def _for_others(entry: Entry, module: Any) -> tuple[str | None, str | None] | None:
    """What other ranks must know of a metric to reduce it with this one; None where it is this rank's alone.

    Returns:
        Its dtype, or else that it is an object, and where in the module.
    """
    if entry.source is not None:
        together = getattr(entry.source, "sync_on_compute", False)  # torchmetrics' own word
        return (None, metric_objects.path_of(module, entry.source)) if together else None
    return (str(entry.total.dtype).removeprefix("torch."), None) if entry.settings.synchronised else None


def _join_object(entry: Entry, module: Any, path: str | None, first: str | None) -> None:
    """Let this rank's own object take part where another rank has logged its like."""
    if path != first:
        raise ConfigError(
            f"Metric {entry.name!r} is logged with {first!r} on one rank, and with {path!r} on another.",
            remedy="Log the same metric object on every rank.",
        )
    if entry.source is None and path is None:
        raise ConfigError(
            f"Metric {entry.name!r} was logged on another rank and not on this one, and its object, which waits for "
            "all ranks, is no part of the module.",
            remedy="Log it on every rank, or make the metric object an attribute of the module.",
        )
    if path is not None:
        entry.source = module.get_submodule(path)
    metric_objects.forget_computed(entry.source)


def _named(settings: Settings) -> dict[str, Any]:
    """Settings as plain values."""
    return {name: value for name, value in asdict(settings).items() if name != "function"}
