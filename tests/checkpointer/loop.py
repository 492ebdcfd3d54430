"""A small loop with all that makes resuming hard: dropout, batch norm, moments, a scheduler, three generators."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from holdfast import Checkpointer
from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.verify import Verdict
from holdfast.store import LocalStore, Store

BATCHES = 4  # in an epoch


class Gone(Exception):
    """Stands for whatever ends a process in the middle of its work."""


@dataclass
class State:
    """What a run consists of."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    history: list = field(default_factory=list)
    notes: dict = field(default_factory=dict)

    def objects(self) -> dict[str, Any]:
        """By part name, as ``resume`` takes them."""
        return dict(vars(self))


def build(seed: int = 0) -> State:
    """A new state; all generators start from ``seed``."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return State(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7))


def batches(epoch: int):
    """The data of an epoch: its order follows from the epoch alone."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(BATCHES):
        yield torch.randn(10, 6, generator=generator)


def learn(state: State, batch: torch.Tensor) -> float:
    """One optimizer step, which draws from all three global generators."""
    noise = random.random() + float(np.random.rand())
    loss = (state.model(batch) * noise).square().mean()
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    return loss.item()


def train(
    ckpt: Checkpointer,
    state: State,
    source: Any = "auto",
    *,
    epochs: int = 3,
    gone_at: tuple[str, int] | None = None,
) -> None:
    """The loop. ``gone_at`` ends it right after that call for that step: ``("step", 5)``, ``("validated", 8)``..."""

    def passing(place: str) -> None:
        if gone_at == (place, ckpt.progress.steps):
            raise Gone

    start = ckpt.resume(source, **state.objects())
    for epoch in range(start.epochs, epochs):
        for batch in islice(batches(epoch), start.done_in(epoch), None):
            state.history.append(learn(state, batch))
            state.notes["newest"] = {"loss": state.history[-1], "epoch": epoch}
            ckpt.step(samples=len(batch))
            passing("step")
        ckpt.validated({"val_loss": state.history[-1]})
        passing("validated")
        state.scheduler.step()
        ckpt.epoch_end()
        passing("epoch_end")


def everything(state: State) -> dict[str, Any]:
    """All that must be equal in two runs that did the same: tensors, counters, lists, and the random generators."""
    _, key, *place = np.random.get_state()
    return {
        "model": {k: v.clone() for k, v in state.model.state_dict().items()},
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "history": list(state.history),
        "notes": dict(state.notes),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (key.tolist(), place),
    }


def listing(folder: Any):
    """What a folder, or a store, holds; every checkpoint in it is verified in full first."""
    where = Folder(folder if isinstance(folder, Store) else LocalStore(folder))
    found = where.scan()
    for record in found.records:
        assert resolve.check(where, record).verdict is Verdict.WHOLE, record.names
    return found


def kept(folder: Any) -> list[tuple[str, ...]]:
    """The names of each checkpoint, oldest first; all verified."""
    return [record.names for record in listing(folder).records]


def facts(folder: Any, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a folder's ledger."""
    lines = (Path(folder) / LEDGER).read_text().splitlines()
    return [fact for fact in map(json.loads, lines) if fact["fact"] == kind]


def damage(path: Path, offset: int = -3000, flip: int = 1) -> None:
    """Flip a bit of a published file in place, as no program of ours would."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= flip
    path.write_bytes(data)
