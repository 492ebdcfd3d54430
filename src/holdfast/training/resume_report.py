"""What a fit compares with the checkpoint that it goes on from, what it takes of which, and what it says of that.

Knows the parts of a fit as values; of the trainer it knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from holdfast.policy.values import Progress
from holdfast.state import changes, fingerprint, schedule, slurm
from holdfast.state.changes import Choice
from holdfast.state.optimizers import SchedulerConfig
from holdfast.state.report import Report
from holdfast.training.checkpoint import OWN, states_by_key
from holdfast.training.combined import Combined

if TYPE_CHECKING:
    from holdfast.strategies.base import TrainingStrategy
    from holdfast.training.checkpoint import Parts

_LOADER = ("batch_size", "dataset", "sampler")


def taken(
    optimizers: Sequence[Any],
    schedulers: Sequence[SchedulerConfig],
    loader: Any,
    strategy: TrainingStrategy,
    accumulate: int,
) -> dict[str, Any]:
    """The fingerprint of a fit, before any state is put in."""
    size = strategy.world.size
    return {
        **fingerprint.of_optimizers(optimizers),
        "scheduler": [
            {**fingerprint.of_scheduler(c.scheduler), "interval": c.interval, "frequency": c.frequency}
            for c in schedulers
        ],
        **_of_loader(loader, size),
        "accumulate_grad_batches": accumulate,
        "world_size": size,
        "precision": strategy.precision.name,
        "device": _device(strategy.device),
        **fingerprint.of_process(),
        **slurm.of_job(),
    }


class Comparison:
    """A checkpoint beside the fit that goes on from it. To be made before any state is put in.

    Args:
        root: The checkpoint's dictionary.
        now: The fit's fingerprint.
        schedulers: Its schedulers.
        choices: What the user chose.
        checkpoint: Its path, for errors.

    Raises:
        Incompatible: Something differs of which the user chose ``"refuse"``.
    """

    def __init__(
        self,
        root: Mapping[str, Any],
        now: Mapping[str, Any],
        schedulers: Sequence[SchedulerConfig],
        choices: Mapping[str, Choice],
        *,
        checkpoint: str,
    ) -> None:
        self._root, self._now, self._schedulers, self._checkpoint = root, now, schedulers, checkpoint
        self._saved: Mapping[str, Any] = root.get(OWN, {}).get(fingerprint.KEY, {})
        self.differs = changes.differences(self._saved, now, choices, checkpoint=checkpoint)
        self._new = {d.name for d in self.differs if d.taken == "new"}
        self._schedules: dict[int, schedule.Schedule] = {}

    @property
    def kept(self) -> dict[str, Any]:
        """The fingerprint of the run from here on."""
        return changes.kept(self._saved, self._now, self.differs)

    def state_to_restore(self) -> dict[str, Any]:
        """The dictionary, in which schedulers that are to be new have the state that they were made with."""
        if "scheduler" not in self._new:
            return dict(self._root)
        states = list(self._root.get("lr_schedulers", []))
        for i, (old, new) in enumerate(zip(self._saved["scheduler"], self._now["scheduler"], strict=True)):
            if old != new:
                self._schedules[i] = one = schedule.Schedule(self._schedulers[i].scheduler)
                states[i] = one.state_to_load(states[i], same_type=old["type"] == new["type"])
        return {**self._root, "lr_schedulers": states}

    def apply(self, optimizers: Sequence[Any], progress: Progress) -> None:
        """Give the code's values where they were chosen; after the state was put in."""
        if "optimizer" in self._new:
            schedule.set_settings(optimizers, self._saved["optimizer"], self._now["optimizer"])
        replayed: set[int] = set()
        for i, one in self._schedules.items():
            if one.replays:
                one.replay(self._steps(i, progress))
                replayed.add(id(self._schedulers[i].scheduler.optimizer))
        saved, now = self._saved.get("lr"), self._now["lr"]
        if saved is None or not any(d.name == "lr" for d in self.differs):
            return
        # Rates that were replayed are the code's, all others the checkpoint's: some are to be the other ones.
        wrong = [o for o in optimizers if (id(o) in replayed) != ("lr" in self._new)]
        before, after = (saved, now) if "lr" in self._new else (now, saved)
        pick = [i for i, o in enumerate(optimizers) if any(o is one for one in wrong)]
        schedule.rescale(
            wrong, [c.scheduler for c in self._schedulers], [before[i] for i in pick], [after[i] for i in pick]
        )

    def report(self, parts: Parts, place: str, inexact: Sequence[str], *, healthy: bool) -> Report:
        """What there is to say."""
        restored, missing = _held(self._root, parts)
        if not self._saved:
            missing.append("what the run was made of, so that nothing can be compared")
        progress = parts.progress
        where = f"step {progress.steps:,}, epoch {progress.epoch}" + (f", {place}" if place else "")
        return Report(self._checkpoint, where, restored, missing, self.differs, inexact, healthy)

    def _steps(self, index: int, progress: Progress) -> int:
        """How often a scheduler would have stepped by now."""
        old, new = self._saved["scheduler"][index], self._now["scheduler"][index]
        state = self._root["lr_schedulers"][index]
        if all(old.get(name) == new[name] for name in ("interval", "frequency")) and "last_epoch" in state:
            return max(0, int(state["last_epoch"]))
        return int((progress.steps if new["interval"] == "step" else progress.epochs) // new["frequency"])


def place_in_data(progress: Progress, size: int | None) -> str:
    """Where in the epoch it is, for people."""
    if progress.complete:
        return "at its end"
    if progress.batch == 0:
        return "at its beginning"
    return f"after batch {progress.batch:,}" + ("" if size is None else f" of {size:,}")


def _held(root: Mapping[str, Any], parts: Parts) -> tuple[list[str], list[str]]:
    """What of a fit a checkpoint holds and what not, for people."""
    own, restored, missing = root.get(OWN, {}), [f"model ({len(root['state_dict']):,} tensors)"], []
    for word, things in (("optimizer", parts.optimizers), ("scheduler", parts.schedulers)):
        restored += [f"{word} {type(thing).__name__}" for thing in things]
    keyed = states_by_key(parts.callbacks)
    there = root.get("callbacks") or {}
    found = {key: type(c).__name__ for key, c in keyed if key in there or type(c).__qualname__ in there}
    lacking = [type(c).__name__ for key, c in keyed if key not in found and c.state_dict()]
    if found:
        restored.append(f"callbacks ({', '.join(found.values())})")
    missing += [f"the state of {name}" for name in lacking]
    datamodule = parts.datamodule
    if datamodule is not None and type(datamodule).__qualname__ in root:
        restored.append("datamodule")
    scaled = parts.strategy.precision.scaler is not None
    for held, name in (
        ("MixedPrecision" in root if scaled else None, "scaler"),
        (bool(own.get("gradients")) or None, "half-accumulated gradients"),
        ("data" in own.get("loop", {}), "place in the data"),
        ("random" in own, "random state"),
    ):
        if held is not None:
            (restored if held else missing).append(name)
    return restored, missing


def _of_loader(loader: Any, size: int) -> dict[str, Any]:
    loaders = list(loader.loaders.values()) if isinstance(loader, Combined) else [loader]
    each = [fingerprint.of_loader(one) for one in loaders]
    for one in each:
        if "batch_size" in one:
            one["batch_size"] *= size
    if len(each) == 1:
        return each[0]
    return {name: [one.get(name) for one in each] for name in _LOADER if any(name in one for one in each)}


def _device(device: torch.device) -> str:
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
