"""Measure how much a run gets through in a second, and log it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.log_steps import log_step, logs_now
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

Counts = tuple[float, int, int, int | None]


class Throughput:
    """A window of updates, and what passes through it in a second.

    Args:
        available_flops: Floating-point operations that one device can do in a second; None leaves ``mfu`` out.
        world_size: How many devices there are; with one, only figures of the device are given.
        window_size: Over how many updates rates are measured; none is given before there are so many.
        separator: Between ``device`` and the name of a figure.

    Raises:
        ConfigError: The window or the world is too small.
    """

    def __init__(
        self, available_flops: float | None = None, world_size: int = 1, window_size: int = 100, separator: str = "/"
    ) -> None:
        if world_size < 1 or window_size < 2:
            raise ConfigError(
                "Throughput: world_size is at least 1 and window_size at least 2, "
                f"not {world_size!r} and {window_size!r}."
            )
        self.available_flops, self.world_size, self.separator = available_flops, world_size, separator
        self._counts: deque[Counts] = deque(maxlen=window_size)
        self._flops: deque[int] = deque(maxlen=window_size)

    def update(
        self, *, time: float, batches: int, samples: int, lengths: int | None = None, flops: int | None = None
    ) -> None:
        """Take in the totals so far.

        Args:
            time: Seconds.
            batches: Batches of this device.
            samples: Its samples.
            lengths: Its items, such as tokens.
            flops: Its floating-point operations since the last update.

        Raises:
            ConfigError: A total does not grow.
        """
        counts = (time, batches, samples, lengths)
        if self._counts:
            names = ("time", "batches", "samples", "lengths")
            for name, before, now in zip(names, self._counts[-1], counts, strict=True):
                if before is not None and now is not None and now <= before:
                    raise ConfigError(f"Throughput: {name} is a total, which grows; it was {before} and is {now}.")
        self._counts.append(counts)
        if flops is not None:
            self._flops.append(flops * self.world_size)

    def compute(self) -> dict[str, float]:
        """The totals, and the rates where the window is full."""
        if not self._counts:
            return {}
        at, batches, samples, lengths = self._counts[-1]
        figures: dict[str, float] = {"time": at, "batches": batches, "samples": samples}
        if lengths is not None:
            figures["lengths"] = lengths
        if len(self._counts) < (self._counts.maxlen or 0):
            return figures
        first = self._counts[0]
        seconds = at - first[0]
        rates = {"batches": (batches - first[1]) / seconds, "samples": (samples - first[2]) / seconds}
        if lengths is not None and first[3] is not None:
            rates["items"] = (lengths - first[3]) / seconds
        if len(self._flops) == self._flops.maxlen:
            rates["flops"] = (sum(self._flops) - self._flops[0]) / seconds / self.world_size
        for name, rate in rates.items():
            figures[f"device{self.separator}{name}_per_sec"] = rate
            if self.world_size > 1:
                figures[f"{name}_per_sec"] = rate * self.world_size
        if "flops" in rates and self.available_flops:
            figures[f"device{self.separator}mfu"] = rates["flops"] / self.available_flops
        return figures

    def reset(self) -> None:
        """Begin anew."""
        self._counts.clear()
        self._flops.clear()


class ThroughputMonitor(Callback):
    """Log how many batches and samples a second there are, on the steps that are logged.

    Names begin with the stage, such as ``train/device/samples_per_sec``; a module with ``flops_per_batch`` has its
    operations counted too. Time spent in validations does not count for training. Totals of training are those of the
    whole run, interruptions left out.

    Args:
        batch_size_fn: Samples in a batch.
        length_fn: Items in a batch, such as tokens; at least one a sample.
        available_flops: Floating-point operations that one device can do in a second, for ``mfu``: see its data sheet.
        window_size: Over how many batches rates are measured.
        separator: Between the parts of a name.
    """

    def __init__(
        self,
        batch_size_fn: Callable[[Any], int],
        length_fn: Callable[[Any], int] | None = None,
        available_flops: float | None = None,
        window_size: int = 100,
        separator: str = "/",
    ) -> None:
        self.batch_size_fn, self.length_fn = batch_size_fn, length_fn
        self.available_flops = available_flops
        self._window_size, self._separator = window_size, separator
        self._throughputs: dict[str, Throughput] = {}
        self._totals: dict[str, list[float]] = {}
        self._since: dict[str, float] = {}
        self._validated_since = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The totals of training: seconds, batches, samples, items."""
        return {"train": list(self._totals["train"])} if "train" in self._totals else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        if "train" in state_dict:
            self._totals["train"] = list(state_dict["train"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Every run counts anew, unless it goes on from another."""
        if stage == "fit":
            self._totals.clear()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin(trainer, "train")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log where a step is complete."""
        self._count(trainer, pl_module, "train", batch)
        assert trainer.loop is not None, "a fit has a loop"
        accumulated = (batch_idx + 1) % trainer.loop.limits.accumulate == 0 or trainer.is_last_batch
        if accumulated and logs_now(trainer):
            self._log(trainer, "train", log_step(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation."""
        self._validated_since = time.perf_counter()
        if not trainer.sanity_checking:
            self._totals.pop("validate", None)
            self._begin(trainer, "validate")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        if not trainer.sanity_checking:
            self._evaluated(trainer, pl_module, "validate", batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a validation took does not count for training."""
        if "train" in self._since:
            self._since["train"] += time.perf_counter() - self._validated_since

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a test."""
        self._begin(trainer, "test")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self._evaluated(trainer, pl_module, "test", batch)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a prediction."""
        self._begin(trainer, "predict")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self._evaluated(trainer, pl_module, "predict", batch)

    def _begin(self, trainer: Trainer, stage: str) -> None:
        totals = self._totals.setdefault(stage, [0.0, 0, 0, 0])
        self._throughputs[stage] = Throughput(
            self.available_flops, trainer.world_size, self._window_size, self._separator
        )
        self._since[stage] = time.perf_counter() - totals[0]

    def _evaluated(self, trainer: Trainer, pl_module: LightningModule, stage: str, batch: Any) -> None:
        self._count(trainer, pl_module, stage, batch)
        if logs_now(trainer):
            self._log(trainer, stage, int(self._totals[stage][1]))

    def _count(self, trainer: Trainer, pl_module: LightningModule, stage: str, batch: Any) -> None:
        if not trainer.is_global_zero:
            return
        trainer.strategy.synchronise()  # without it the clock would stop before the device has
        totals = self._totals[stage]
        totals[0] = time.perf_counter() - self._since[stage]
        with torch.no_grad():
            totals[1] += 1
            totals[2] += self.batch_size_fn(batch)
            totals[3] += 0 if self.length_fn is None else self.length_fn(batch)
        self._throughputs[stage].update(
            time=totals[0],
            batches=int(totals[1]),
            samples=int(totals[2]),
            lengths=None if self.length_fn is None else int(totals[3]),
            flops=getattr(pl_module, "flops_per_batch", None),
        )

    def _log(self, trainer: Trainer, stage: str, step: int) -> None:
        if not trainer.is_global_zero:
            return
        figures = {f"{stage}{self._separator}{n}": v for n, v in self._throughputs[stage].compute().items()}
        for one in trainer.loggers:
            one.log_metrics(figures, step=step)
