"""A training run that saves at every step, to be killed: deterministic, so each step's weights are known beforehand.

Speaks in lines on standard output: ``prepared``; ``began STEP WEIGHTS`` when it has its state, WEIGHTS being their
SHA-256; and each line that Holdfast logs when a save is durable, ``saved NAME, ...``, the acknowledgement that users
see.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence

import torch
from torch import nn

from holdfast import Checkpointer, best, every, last

KEPT_BEST = 2
KEPT_LAST = 2
RULES = best(KEPT_BEST, "loss", mode="min") | last(KEPT_LAST)
_PR_SET_PTRACER = 0x59616D61
_ANYBODY = ctypes.c_ulong(-1)


def score(step: int) -> int:
    """The metric of a step: up and down, and slowly better, so that every rank is taken anew now and then."""
    return step * 7919 % 101 - step // 5


def wanted(newest: int) -> set[int]:
    """The steps that the rules keep when ``newest`` is the newest, none having failed; 0 means none at all."""
    return kept(range(1, newest + 1))


def kept(saved: Sequence[int]) -> set[int]:
    """The steps that the rules keep of those that were ever saved, oldest first."""
    ranked = sorted(saved, key=lambda step: (score(step), step))
    return {*ranked[:KEPT_BEST], *saved[-KEPT_LAST:]}


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all weights, names included."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimizer before the first step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train_on(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step. The batch follows from its number; the dropout from the random state that a resume must restore."""
    batch = torch.randn(16, 32, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()


def oracle(steps: int) -> None:
    """Train without ever stopping or saving, and print the weights' fingerprint after each step."""
    model, optimizer = build()
    weights = [fingerprint(model.state_dict())]
    for step in range(1, steps + 1):
        train_on(step, model, optimizer)
        weights.append(fingerprint(model.state_dict()))
    print(json.dumps(weights))


def train(folder: str, waits: int) -> None:
    """Train on, from wherever the folder's newest checkpoint is, until killed or told to end.

    Args:
        folder: Where the checkpoints are.
        waits: How many first steps wait for a line on standard input each; its end ends the run.
    """
    logging.getLogger("holdfast").addHandler(_Acknowledgements())
    logging.getLogger().addHandler(logging.NullHandler())  # nothing on standard error
    model, optimizer = build()
    _say("prepared")
    with Checkpointer(folder, when=every(steps=1), which=RULES) as checkpointer:
        start = checkpointer.resume(model=model, optimizer=optimizer)
        _say(f"began {start.steps} {fingerprint(model.state_dict())}")
        step = start.steps
        while True:
            if waits > 0 and not sys.stdin.readline():
                return
            waits -= 1
            step += 1
            train_on(step, model, optimizer)
            checkpointer.step(metrics={"loss": score(step)})


def train_traced(folder: str, waits: int) -> None:
    """As ``train``, and let any process of this user trace this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    train(folder, waits)


class _Acknowledgements(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("saved "):
            _say(record.getMessage())


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # in one piece, at once, from whichever thread
