"""What a profiler offers to a run, and where its report goes. Measures nothing itself."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.store import LocalStore


class Profiler:
    """Base class of all profilers. One of your own overrides ``start``, ``stop`` and ``summary``.

    Args:
        dirpath: The folder of what it writes; by default the run's log folder.
        filename: The report's name in it, without ``.txt``; by default it goes to the log, in which Holdfast writes
            all else.
    """

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename
        self._stage: str | None = None
        self._local_rank: int | None = None

    def start(self, action_name: str) -> None:
        """An action begins."""
        raise NotImplementedError

    def stop(self, action_name: str) -> None:
        """It ends."""
        raise NotImplementedError

    def summary(self) -> str:
        """The report."""
        return ""

    @contextmanager
    def profile(self, action_name: str) -> Generator[str, None, None]:
        """Measure a block of code."""
        self.start(action_name)
        try:
            yield action_name
        finally:
            self.stop(action_name)

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """A run begins.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
            local_rank: This process among those of its host; None where there is one.
            log_dir: Where to write, where nobody said.
        """
        self._stage, self._local_rank = stage, local_rank
        self.dirpath = self.dirpath or log_dir

    def describe(self) -> None:
        """Write the report: to the file, else to the log of the first process."""
        report = self.summary()
        if not report:
            return
        if self.filename and self.dirpath:
            store = LocalStore(Path(self.dirpath))
            store.prepare()
            store.append(self.file_name(), report.rstrip("\n").encode() + b"\n")
        elif not self._local_rank:
            logger.info("%s", report)

    def teardown(self, stage: str | None) -> None:
        """The run is over."""

    def file_name(self, action_name: str = "", extension: str = ".txt") -> str:
        """The name of what is written: stage, ``filename``, rank and action, as far as there are any."""
        rank = "" if self._local_rank is None else str(self._local_rank)
        base = "-".join(part for part in (self._stage, self.filename, rank, action_name) if part)
        return (re.sub(r'[\\/:*?"<>|\s_]+', "_", base) or "profile") + extension

    def report(self, sections: Mapping[str, str]) -> str:
        """A report of sections."""
        lines = [" ".join(word for word in ((self._stage or "").upper(), "Profiler Report") if word)]
        for action, text in sections.items():
            lines += [f"Profile stats for: {action}", text]
        return "\n".join(lines)


class PassThroughProfiler(Profiler):
    """One that measures nothing."""

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""


def profiler_of(given: object) -> Profiler | None:
    """The profiler that an argument means: a name, a ``Profiler``, or None for none.

    Raises:
        ConfigError: It is neither.
    """
    if given is None or isinstance(given, PassThroughProfiler):
        return None
    if isinstance(given, Profiler):
        return given
    if given == "simple":
        from holdfast.profilers.simple import SimpleProfiler

        return SimpleProfiler()
    if given == "advanced":
        from holdfast.profilers.advanced import AdvancedProfiler

        return AdvancedProfiler()
    if given == "pytorch":
        from holdfast.profilers.pytorch import PyTorchProfiler

        return PyTorchProfiler()
    raise ConfigError(f"profiler= is 'simple', 'advanced', 'pytorch' or a Profiler, not {given!r}.")
