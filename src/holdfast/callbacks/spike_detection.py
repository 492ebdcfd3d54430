"""End a fit whose loss jumps, and note down the batches that are to blame. Mends nothing itself."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError, HoldfastError
from holdfast.store import LocalStore

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer


class TrainingSpikeException(HoldfastError, RuntimeError):
    """The loss jumped.

    Args:
        batch_idx: At which batch of the epoch.
    """

    def __init__(self, batch_idx: int, *, remedy: str = "") -> None:
        super().__init__(f"The loss jumped at batch {batch_idx}.", remedy=remedy)
        self.batch_idx = batch_idx


class SpikeDetection(Callback):
    """End training when the loss is far worse than the running mean of the last ones.

    A spike is a loss that is worse than the one before, and away from the mean by ``atol`` and by ``rtol`` times the
    mean; a limit that is None is no condition. The batch, and the one before it, which may have spoilt the weights, are
    added to the file of batches to exclude, as a list of indices; what leaves them out is your loader.

    Args:
        mode: Whether lower (``"min"``) or higher (``"max"``) is better.
        window: How many losses the mean is of.
        warmup: So many batches of an epoch are not looked at.
        atol: Distance from the mean.
        rtol: Distance from it in multiples of it.
        exclude_batches_path: The file (``.json``) or its folder; by default ``skip_batches.json`` in the trainer's
            ``default_root_dir``.
        finite_only: Whether NaN and infinity are spikes as well; otherwise they are passed over.

    Raises:
        ConfigError: The mode or the window makes no sense.
        TrainingSpikeException: During training: the loss jumped.
    """

    def __init__(
        self,
        mode: Literal["min", "max"] = "min",
        window: int = 10,
        warmup: int = 1,
        atol: float | None = None,
        rtol: float | None = 2.0,
        exclude_batches_path: str | os.PathLike[str] | None = None,
        finite_only: bool = True,
    ) -> None:
        problems = []
        if mode not in ("min", "max"):
            problems.append(f"mode is 'min' or 'max', not {mode!r}")
        if type(window) is not int or window < 1:
            problems.append(f"window is a whole number of at least 1, not {window!r}")
        if problems:
            raise ConfigError(f"SpikeDetection: {'; '.join(problems)}.")
        self.mode, self.warmup = mode, warmup
        self.atol, self.rtol = atol, rtol
        self.exclude_batches_path = exclude_batches_path
        self.finite_only = finite_only
        self.bad_batches: list[int] = []
        self.last_val = 0.0
        self._window: deque[float] = deque(maxlen=window)

    def state_dict(self) -> dict[str, Any]:
        """The losses that count, and the batches to exclude."""
        return {"last_val": self.last_val, "bad_batches": list(self.bad_batches), "window": list(self._window)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self.last_val = state_dict["last_val"]
        self.bad_batches = list(state_dict["bad_batches"])
        self._window.clear()
        self._window.extend(state_dict.get("window", ()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss."""
        loss = outputs.get("loss")
        if loss is None:
            return
        value = float(loss)
        spike = batch_idx >= self.warmup and self._is_spike(value)
        if trainer.world_size > 1:
            spike = bool(trainer.strategy.reduce(torch.tensor(float(spike), device=pl_module.device), "max"))
        if spike:
            self.bad_batches += [batch_idx - 1, batch_idx]
            path = self._path(trainer)
            if trainer.is_global_zero:
                store = LocalStore(path.parent)
                store.prepare()
                store.put(path.name, json.dumps(self.bad_batches, indent=4).encode())
            remedy = f"Leave out the batches in '{path}', and go on from a checkpoint before them."
            raise TrainingSpikeException(batch_idx, remedy=remedy)
        if math.isfinite(value):
            self._window.append(value)
            self.last_val = value

    def _is_spike(self, value: float) -> bool:
        if not math.isfinite(value):
            return self.finite_only
        better = value <= self.last_val if self.mode == "min" else value >= self.last_val
        if better or not self._window:
            return False
        mean = math.fsum(self._window) / len(self._window)
        away = abs(value - mean)
        return (self.atol is None or away >= abs(self.atol)) and (self.rtol is None or away >= abs(self.rtol * mean))

    def _path(self, trainer: Trainer) -> Path:
        path = Path(trainer.default_root_dir if self.exclude_batches_path is None else self.exclude_batches_path)
        return (path if path.suffix == ".json" else path / "skip_batches.json").absolute()
