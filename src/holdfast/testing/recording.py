"""What a run does, as numbers that can be compared: each batch, what is logged, and the state at the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.callbacks.callback import Callback


class Recorder(Callback):
    """Notes every batch of a fit; at a given step it saves and ends the process as a loss of power would.

    Args:
        kill_at: The optimizer step at whose end to do so; None for never.
        path: The file to save; what was noted goes beside it, as JSON.
    """

    def __init__(self, kill_at: int | None, path: Path) -> None:
        self._kill_at, self._path = kill_at, path
        self._batches: list[dict[str, Any]] = []
        self._began_after = 0
        self._number = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Note where the fit begins."""
        self._began_after = self._number = trainer.loop.progress.batches

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the batch that is done."""
        self._number += 1
        logged = {name: digest(value) for name, value in trainer.callback_metrics.items()}
        self._batches.append(
            {
                "number": self._number, "steps": trainer.global_step, "batch": digest(batch), "logged": logged,
                "weights": weights(trainer),
            }
        )  # fmt: skip
        if self._kill_at is not None and trainer.global_step >= self._kill_at:
            if trainer.global_step == self._kill_at:
                trainer.save_checkpoint(self._path)
                self._path.with_suffix(".json").write_text(json.dumps(self.record(trainer)))
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError(f"step {self._kill_at} is not the end of a batch")

    def record(self, trainer: Any) -> dict[str, Any]:
        """All that was noted, and the state now: plain values."""
        state = weights(trainer)
        for index, optimizer in enumerate(trainer.optimizers):
            for number, held in optimizer.state_dict()["state"].items():
                state.update({f"optimizer{index}.{number}.{name}": digest(value) for name, value in held.items()})
        for index, config in enumerate(trainer.lr_scheduler_configs):
            state[f"scheduler{index}"] = digest(config.scheduler.state_dict())
        return {"began_after": self._began_after, "batches": self._batches, "state": state}


def weights(trainer: Any) -> dict[str, str]:
    """A number for each parameter and buffer of the module."""
    return {f"model.{name}": digest(value) for name, value in trainer.lightning_module.state_dict().items()}


def digest(value: Any) -> str:
    """A number for a value of whatever structure: equal for equal bits."""
    if isinstance(value, torch.Tensor):
        bare = value.detach().cpu().contiguous()
        found = hashlib.sha256(f"{bare.dtype}{tuple(bare.shape)}".encode())
        found.update(bare.reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]
    if isinstance(value, Mapping):
        return _together(f"{key}={digest(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return _together(map(digest, value))
    if isinstance(value, np.ndarray):
        return digest(torch.from_numpy(value))
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def reseed(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _together(parts: Any) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
