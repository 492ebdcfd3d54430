"""Log how busy the device is. CPU figures come from psutil, which is optional, and is imported here alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.log_steps import log_step, logs_now
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer


class DeviceStatsMonitor(Callback):
    """Log the device's figures at the beginning and the end of batches, on the steps that are logged.

    On a GPU they are those of ``torch.cuda.memory_stats``, on the CPU ``cpu_percent``, ``cpu_vm_percent`` and
    ``cpu_swap_percent``; their names begin with ``DeviceStatsMonitor.on_train_batch_start/`` and so on.

    Args:
        cpu_stats: Whether to log those of the CPU; by default only where it is the device.

    Raises:
        ConfigError: When a run begins: nobody logs, or psutil is needed and missing.
    """

    def __init__(self, cpu_stats: bool | None = None) -> None:
        self._cpu_stats = cpu_stats
        self._reads_cpu = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out early what is missing."""
        if stage != "fit":
            return
        if not trainer.loggers:
            raise ConfigError("DeviceStatsMonitor logs, and the Trainer has no logger.", remedy="Give it one.")
        on_cpu = trainer.strategy.device.type == "cpu"
        self._reads_cpu = on_cpu if self._cpu_stats is None else self._cpu_stats
        if self._reads_cpu:
            cpu_stats()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log them."""
        self._log(trainer, "on_train_batch_start")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log them."""
        self._log(trainer, "on_train_batch_end")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Log them."""
        self._log(trainer, "on_validation_batch_start")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log them."""
        self._log(trainer, "on_validation_batch_end")

    def _log(self, trainer: Trainer, hook: str) -> None:
        if not logs_now(trainer):
            return
        device = trainer.strategy.device
        figures: dict[str, float] = dict(torch.cuda.memory_stats(device)) if device.type == "cuda" else {}
        if self._reads_cpu:
            figures.update(cpu_stats())
        for one in trainer.loggers if figures else ():
            separator = getattr(one, "group_separator", "/")
            named = {f"{type(self).__qualname__}.{hook}{separator}{name}": value for name, value in figures.items()}
            one.log_metrics(named, step=log_step(trainer))


def cpu_stats() -> dict[str, float]:
    """How busy the machine is, in percent.

    Raises:
        ConfigError: psutil is not installed.
    """
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "Figures of the CPU need psutil, which is not installed.", remedy='pip install "holdfast[psutil]"'
        ) from error
    return {
        "cpu_percent": psutil.cpu_percent(),
        "cpu_vm_percent": psutil.virtual_memory().percent,
        "cpu_swap_percent": psutil.swap_memory().percent,
    }
