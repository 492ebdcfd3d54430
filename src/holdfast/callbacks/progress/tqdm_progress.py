"""Draw a progress bar with tqdm, which is optional. Decides nothing of what it shows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from holdfast.callbacks.progress.line import Line
from holdfast.callbacks.progress.progress_bar import ProgressBar
from holdfast.errors import ConfigError


class TQDMProgressBar(ProgressBar):
    """A bar drawn by tqdm.

    Args:
        refresh_rate: See ``ProgressBar``.
        process_position: How many lines of the terminal to leave free above it.
        leave: See ``ProgressBar``.

    Raises:
        ConfigError: tqdm is not installed.
    """

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)
        if find_spec("tqdm") is None:
            raise ConfigError("TQDMProgressBar needs tqdm.", remedy="Install it: pip install 'holdfast[tqdm]'")
        self.process_position = process_position
        self._bars: list[Any] = []

    def print(self, *args: Any, sep: str = " ", end: str = "\n", file: Any = None, **kwargs: Any) -> None:
        """As the built-in ``print``, above the bar."""
        if self._bars:
            self._bars[0].write(sep.join(map(str, args)), file=file, end=end)
        else:
            print(*args, sep=sep, end=end, file=file, **kwargs)

    def show(self, lines: Sequence[Line], *, final: bool) -> None:
        """Draw."""
        while len(self._bars) > len(lines):  # a validation is over, and leaves nothing
            bar = self._bars.pop()
            bar.leave = False
            bar.close()
        for index, line in enumerate(lines):
            if index == len(self._bars):
                self._bars.append(self._new(line, index))
            bar = self._bars[index]
            bar.n, bar.total = line.done, line.total
            bar.set_description_str(line.label, refresh=False)
            bar.set_postfix_str(", ".join(filter(None, [line.speed, line.left, *line.facts])), refresh=False)
            bar.refresh()
        if final:
            self.close()

    def close(self) -> None:
        """Leave what was drawn last, and go to the next line."""
        while self._bars:
            self._bars.pop().close()

    def _new(self, line: Line, index: int) -> Any:
        # The rate and the time left are ours: tqdm's own would count validations and what was done before a resume.
        return import_module("tqdm").tqdm(
            total=line.total,
            desc=line.label,
            file=sys.stdout,
            leave=True,
            dynamic_ncols=True,
            position=self.process_position + index,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
        )
