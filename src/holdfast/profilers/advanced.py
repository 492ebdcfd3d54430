"""Which functions each action of a run spends its time in, by Python's own profiler. Slows a run down."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
from pathlib import Path

from holdfast.errors import ConfigError
from holdfast.profilers.base import Profiler
from holdfast.store import LocalStore


class AdvancedProfiler(Profiler):
    """Profile each action with ``cProfile``. Of actions within each other, the inner one is measured.

    Args:
        dirpath: The folder of what it writes; by default the run's log folder.
        filename: The report's name, without ``.txt``; by default it goes to the log.
        line_count_restriction: So many functions of each action are reported (int), or such a share of them.
        dump_stats: Whether to write each action's figures too, to a ``.prof`` file that ``pstats`` reads.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        line_count_restriction: int | float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        self.line_count_restriction = line_count_restriction
        self.dump_stats = dump_stats
        self.profiled_actions: dict[str, cProfile.Profile] = {}
        self._within: list[str] = []

    def start(self, action_name: str) -> None:
        """An action begins; the one that it is within is not measured meanwhile."""
        if self._within:
            self.profiled_actions[self._within[-1]].disable()
        self._within.append(action_name)
        self.profiled_actions.setdefault(action_name, cProfile.Profile()).enable()

    def stop(self, action_name: str) -> None:
        """It ends.

        Raises:
            ConfigError: It is not the one that began last.
        """
        if not self._within or self._within[-1] != action_name:
            raise ConfigError(f"AdvancedProfiler: {action_name!r} was stopped, and it was not what was started last.")
        self.profiled_actions[self._within.pop()].disable()
        if self._within:
            self.profiled_actions[self._within[-1]].enable()

    def summary(self) -> str:
        """The functions of each action, by the time spent in them and in what they call."""
        sections = {}
        for action, profile in self.profiled_actions.items():
            text = io.StringIO()
            stats = pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative")
            stats.print_stats(self.line_count_restriction)
            sections[action] = text.getvalue().rstrip()
            if self.dump_stats:
                self._dump(action, stats)
        return self.report(sections) if sections else ""

    def teardown(self, stage: str | None) -> None:
        """What was measured is reported, and no more than that."""
        self.profiled_actions.clear()
        self._within.clear()

    def _dump(self, action: str, stats: pstats.Stats) -> None:
        if not self.dirpath:
            raise ConfigError("AdvancedProfiler: dump_stats=True needs a folder.", remedy="Give dirpath=.")
        folder = Path(self.dirpath)
        LocalStore(folder).prepare()
        stats.dump_stats(folder / self.file_name(action, ".prof"))
