"""How often each action of a run took place, and how long it took."""

from __future__ import annotations

import math
import os
import time

from holdfast.errors import ConfigError
from holdfast.profilers.base import Profiler


class SimpleProfiler(Profiler):
    """Sum up the duration of each action.

    Args:
        dirpath: The folder of the report; by default the run's log folder.
        filename: The report's name, without ``.txt``; by default it goes to the log.
        extended: Whether the report says how often, and which share of the time, too.

    ``recorded_durations`` holds the seconds of each call by action.
    """

    def __init__(
        self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None, extended: bool = True
    ) -> None:
        super().__init__(dirpath, filename)
        self.extended = extended
        self.current_actions: dict[str, float] = {}
        self.recorded_durations: dict[str, list[float]] = {}
        self.start_time = time.perf_counter()

    def start(self, action_name: str) -> None:
        """An action begins.

        Raises:
            ConfigError: It has begun already.
        """
        if action_name in self.current_actions:
            raise ConfigError(f"SimpleProfiler: {action_name!r} was started twice, and not stopped.")
        self.current_actions[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """It ends.

        Raises:
            ConfigError: It has not begun.
        """
        now = time.perf_counter()
        if action_name not in self.current_actions:
            raise ConfigError(f"SimpleProfiler: {action_name!r} was stopped, and never started.")
        self.recorded_durations.setdefault(action_name, []).append(now - self.current_actions.pop(action_name))

    def summary(self) -> str:
        """The actions, those that took longest first."""
        whole = time.perf_counter() - self.start_time
        totals = {action: math.fsum(each) for action, each in self.recorded_durations.items()}
        rows = [["Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"]]
        if self.extended:
            calls = sum(map(len, self.recorded_durations.values()))
            rows.append(["Total", "-", str(calls), f"{whole:.5g}", "100"])
        for action in sorted(totals, key=lambda one: totals[one], reverse=True):
            total, count = totals[action], len(self.recorded_durations[action])
            rows.append([action, f"{total / count:.5g}", str(count), f"{total:.5g}", f"{100 * total / whole:.5g}"])
        if not self.extended:
            rows = [[row[0], row[1], row[3]] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return " ".join(word for word in ((self._stage or "").upper(), "Profiler Report\n") if word) + "\n".join(lines)
