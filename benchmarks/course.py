"""The steps that an arm of ``stall`` trains, round by round, and what is noted of each. Knows no way to save."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any, TextIO

import torch

LEAD = 4
now = time.perf_counter


class Course:
    """The batches of a run, round by round as the parent asks for them, and what is noted of each round."""

    def __init__(self, batch: torch.Tensor, steps: int, parent: TextIO) -> None:
        self.batch, self.steps, self.parent = batch, steps, parent
        self.durable = threading.Event()
        self.spent: list[Path] = []
        """What was saved and is removed off the clock."""
        self._begin()

    def _begin(self) -> None:
        self.starts: list[float] = []
        self.stepping: list[float] = []
        self.waited, self.began, self.safe, self.over = 0.0, 0.0, 0.0, 0.0
        self.durable.clear()

    def __len__(self) -> int:
        return 10**6

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in count():
            if number % self.steps == self.steps - LEAD:
                self._pause(first=number < self.steps)
            self.starts.append(now())
            yield self.batch

    @contextmanager
    def held(self) -> Iterator[None]:
        """The training thread does nothing but save, or wait for that."""
        start = now()
        try:
            yield
        finally:
            self.waited += now() - start

    def begin(self, at: float) -> None:
        """A save began."""
        self.began = at

    def is_safe(self, *_: Any) -> None:
        """The state may change."""
        self.safe = max(self.safe, now())

    def is_durable(self, *_: Any) -> None:
        """A loss of power loses nothing of it."""
        self.over = now()
        self.durable.set()

    def _pause(self, *, first: bool) -> None:
        ended = now()
        if first:
            answer = {"ready": True}
        else:
            if not self.durable.wait(120):
                raise SystemExit("the save was not durable in two minutes")
            answer = self._told([*self.starts, ended])
        while self.spent:
            path = self.spent.pop()
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(json.dumps(answer), file=self.parent, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # whatever else it has begun: nothing of it is looked at
        self._begin()

    def _told(self, marks: list[float]) -> dict[str, float]:
        steps = list(pairwise(marks))
        idle = [b - a for a, b in steps[1:] if b <= self.began or a >= self.over]
        busy = [b - a for a, b in steps if b > self.began and a < self.over]
        base = median(idle or [b - a for a, b in steps[1 : LEAD - 1]])
        return {
            "base": base,
            "longest": max(busy),
            "above": max(busy) - base,
            "lost": sum(busy) - base * len(busy),
            "waited": self.waited,
            "safe": self.safe - self.began,
            "durable": self.over - self.began,
            "stepping": median(self.stepping),
        }
