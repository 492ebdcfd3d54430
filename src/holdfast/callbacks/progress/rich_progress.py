"""Draw a progress bar with rich, which is loaded when the first bar is drawn. Decides nothing of what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.callbacks.progress.line import Line
from holdfast.callbacks.progress.progress_bar import ProgressBar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_GAP = 2


class RichProgressBar(ProgressBar):
    """The default bar. What is printed meanwhile appears above it.

    Args:
        refresh_rate: See ``ProgressBar``.
        leave: See ``ProgressBar``.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)
        self._drawing: Live | None = None

    def show(self, lines: Sequence[Line], *, final: bool) -> None:
        """Draw."""
        if self._drawing is None:
            from rich.console import Console
            from rich.live import Live

            # No thread of its own: it is drawn when we say so.
            self._drawing = Live(console=Console(highlight=False), auto_refresh=False)
            self._drawing.start()
        self._drawing.update(_table(lines), refresh=True)
        if final:
            self.close()

    def close(self) -> None:
        """Stop; the cursor and stdout are the program's again."""
        if self._drawing is not None:
            self._drawing.stop()
            self._drawing = None


def _table(lines: Sequence[Line]) -> RenderableType:
    """One row a line; metrics below it, folded where the terminal is narrow, never cut."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar as Bar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for _ in ("counts", "speed", "left"):
        table.add_column(justify="right", no_wrap=True)
    for line in lines:
        bar = Bar(total=line.total, completed=line.done, pulse=line.total is None)
        table.add_row(line.label, bar, line.counts, line.speed, line.left)
    facts = [Text((" " * _GAP).join(line.facts)) for line in lines if line.facts]
    return Group(table, *facts)
