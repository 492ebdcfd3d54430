"""Fits in which ranks log different things, as ranks run them; ``test_apart.py`` says what must come of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from contract import trainer
from courses import loader
from torch import nn
from torchmetrics import MeanMetric

from holdfast import LightningModule
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
from holdfast.errors import HoldfastError
from holdfast.strategies import DDPStrategy
from holdfast.training import running

PATIENT = 60.0  # seconds that ranks wait for each other
SHORT = 5.0  # the same, where one waits in vain

Logs = Callable[[Any, float], None]
"""What a step logs, given the module and a value that is 1 on rank 0, 2 on rank 1, plus the step."""


class Logging(LightningModule):
    """Logs in training and in validation what it is told to."""

    def __init__(self, training: Logs | None = None, validation: Logs | None = None) -> None:
        super().__init__()
        self.training_logs, self.validation_logs = training, validation
        self.net = nn.Linear(5, 1)
        self.first, self.second = MeanMetric(), MeanMetric()
        self.elsewhere = [MeanMetric()]
        self.monitor: str | None = None

    def training_step(self, batch, batch_idx):
        if self.training_logs is not None:
            self.training_logs(self, self.global_step + self.global_rank + 1.0)
        return self.net(batch[1]).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        if self.validation_logs is not None:
            self.validation_logs(self, self.global_step + self.global_rank + 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        if self.monitor is None:
            return optimizer
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": self.monitor}}


class Said(logging.Handler):
    """Keeps what is logged to the user."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def fit(
    folder: Path | None, module: Logging, size: int, *callbacks: Any, epochs: int = 2, batches: int = 2,
    timeout: float = PATIENT,
) -> Any:  # fmt: skip
    """A fit of a few batches that ranks by ``val``, if it saves: its end, and what was said."""
    saver = [] if folder is None else [ModelCheckpoint(folder, "{epoch}", monitor="val", save_top_k=1)]
    strategy = DDPStrategy(timeout=timedelta(seconds=timeout))
    fitted = trainer(
        strategy, size, callbacks=[*saver, *callbacks], enable_checkpointing=bool(saver),
        max_epochs=epochs, limit_train_batches=batches, limit_val_batches=1,
    )  # fmt: skip
    log, said = logging.getLogger("holdfast"), Said()
    log.addHandler(said)
    try:
        fitted.fit(module, loader(size), None if module.validation_logs is None else loader(size, 16, shuffle=False))
        error = None
    except HoldfastError as raised:
        error = f"{type(raised).__name__}: {raised}"
    finally:
        log.removeHandler(said)
    metrics = {name: float(value) for name, value in fitted.callback_metrics.items()}
    names = [] if folder is None else sorted(path.name for path in folder.glob("*.ckpt"))
    return {"error": error, "metrics": metrics, "said": said.lines, "names": names, "steps": fitted.global_step}


def on(rank: int, log: Logs) -> Logs:
    """Only there."""
    return lambda module, value: log(module, value) if module.global_rank == rank else None


def number(name: str, **options: Any) -> Logs:
    """Log the value itself."""
    return lambda module, value: module.log(name, value, **options)


def seen(module: Any, value: float, name: str, metric: MeanMetric) -> None:
    """Log by a metric object."""
    metric.update(value)
    module.log(name, metric, on_epoch=True)


def crossed(module: Any, value: float) -> None:
    """Both objects, on each rank in another order."""
    both = [("val", module.first), ("other", module.second)]
    for name, metric in both if module.global_rank == 0 else reversed(both):
        seen(module, value * (1 if name == "val" else 100), name, metric)


def reduced_by_hand(module: Any, value: float) -> None:
    """As users do who know torch.distributed."""
    total = torch.tensor(value)
    dist.all_reduce(total)
    module.log("val", total / 2)


VALIDATIONS: dict[str, Logs] = {
    "number on rank 0": on(0, number("val", sync_dist=True)),
    "number on rank 1": on(1, number("val", sync_dist=True)),
    "object on rank 0": on(0, lambda module, value: seen(module, value, "val", module.first)),
    "object on rank 1": on(1, lambda module, value: seen(module, value, "val", module.first)),
    "objects in another order": crossed,
    "each its own": number("val"),
    "each its own, on rank 0": on(0, number("val")),
    "each its own, on rank 1": on(1, number("val")),
    "synchronised": number("val", sync_dist=True),
    "reduced by hand": reduced_by_hand,
    "an object": lambda module, value: seen(module, value, "val", module.first),
}


def validations(root: str, size: int) -> dict[str, Any]:
    """A fit of each."""
    warnings.simplefilter("error")
    return {
        name: fit(Path(root, name.replace(" ", "-")), Logging(validation=logs), size)
        for name, logs in VALIDATIONS.items()
    }


def watched(size: int) -> dict[str, Any]:
    """Fits in which others than checkpoints decide by a metric that each rank measures for itself."""
    warnings.simplefilter("error")
    stops = EarlyStopping("val", patience=9)
    found = {"stops": fit(None, Logging(validation=number("val")), size, stops)}
    only = Logging(validation=on(0, number("val")))
    found["stops on rank 0"] = fit(None, only, size, EarlyStopping("val", patience=1, mode="max"), epochs=5)
    module = Logging(training=number("train", on_epoch=True))
    module.monitor = "train"
    return {**found, "schedules": fit(None, module, size, epochs=3)}


def elsewhere(module: Any, value: float) -> None:
    """An object that is no part of the module, on rank 0."""
    seen(module, value, "hidden", module.elsewhere[0])


def two(module: Any, value: float) -> None:
    """Two metrics, the first of which rank 1 leaves out at step 3."""
    for name in ("first", "second")[module.global_rank and module.global_step == 3 :]:
        module.log(name, value, sync_dist=True)


def instead(module: Any, value: float) -> None:
    """Another metric on rank 1, so that as many are reduced."""
    module.log("second" if module.global_rank and module.global_step == 3 else "first", value, sync_dist=True)


def turned(module: Any, value: float) -> None:
    """Two metrics, on rank 1 in another order at step 3."""
    for name in ("first", "second")[:: -1 if module.global_rank and module.global_step == 3 else 1]:
        module.log(name, value, sync_dist=True)


ERRORS: dict[str, dict[str, Logs]] = {
    "instead": {"training": instead},
    "turned": {"training": turned},
    "left out": {"training": two},
    "hidden": {"validation": on(0, elsewhere)},
}


def error(name: str, size: int) -> Any:
    """A fit that fails."""
    running._SILENCE = 30.0  # no rank is silent, however slow it is
    return fit(None, Logging(**ERRORS[name]), size, batches=6, timeout=SHORT if name == "left out" else PATIENT)
