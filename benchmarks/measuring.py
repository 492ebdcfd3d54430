"""Measure several ways to do one thing in turn, and tell medians. Shared by the benchmarks; asserts nothing."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

SPREAD = 2.0
"""A series whose worst is so many times its best says little, and is measured again."""


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def interleaved(
    arms: Mapping[str, Callable[[], float]], *, rounds: int, again: int = 2, between: Callable[[], Any] = lambda: None
) -> dict[str, list[float]]:
    """Measure all arms in turn, ``rounds`` times, each round beginning with another arm, after one that is not counted.

    Where a series spreads more than ``SPREAD``, all are measured again, at most ``again`` times; what is returned is
    the attempt whose worst spread is the least.

    Args:
        arms: Name to what does it once and gives the seconds that it took.
        rounds: How often.
        again: How often all may be repeated.
        between: What is done before each, off the clock.
    """
    names = list(arms)
    for name in names:
        between()
        arms[name]()
    best: dict[str, list[float]] = {}
    for _ in range(1 + again):
        taken: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            for place in range(len(names)):
                name = names[(number + place) % len(names)]
                between()
                taken[name].append(arms[name]())
        if not best or _worst(taken) < _worst(best):
            best = taken
        if _worst(best) <= SPREAD:
            break
    return best


def _worst(taken: Mapping[str, list[float]]) -> float:
    return max(max(seconds) / min(seconds) for seconds in taken.values())


def told(seconds: list[float], *, digits: int = 3) -> str:
    """A series as its median, lowest and highest; one that spreads widely is marked."""
    mark = " *" if max(seconds) > SPREAD * min(seconds) else ""
    return f"{median(seconds):.{digits}f} ({min(seconds):.{digits}f} to {max(seconds):.{digits}f}){mark}"


def anonymous() -> int:
    """Bytes of this process's memory that no file backs; Linux only."""
    (line,) = (li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


@contextmanager
def sampling(measure: Callable[[], float], *, every: float = 0.002) -> Iterator[list[float]]:
    """What ``measure`` gives from before the block to its end, looked at on a thread of its own."""
    found, over = [measure()], threading.Event()

    def look() -> None:
        while not over.wait(every):
            found.append(measure())

    thread = threading.Thread(target=look, name="sampling")
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy that was."""
    names = [li.partition(":")[2].strip() for li in _lines("/proc/cpuinfo") if li.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
    }


def write_json(path: str, figures: Mapping[str, Any]) -> None:
    """Keep raw figures, with the machine that they are from."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"machine": machine(), **figures}, indent=1))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
