"""Draw a progress bar with rich, which is loaded when the first bar is drawn. Decides nothing of what it shows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.callbacks.progress.line import FORMAT, Line
from holdfast.callbacks.progress.progress_bar import ProgressBar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_GAP = 2


@dataclass(frozen=True)
class RichProgressBarTheme:
    """How the parts of a ``RichProgressBar`` look: styles as rich writes them, such as ``"bold green"``.

    Args:
        description: The words before a bar.
        progress_bar: What is done of a bar.
        progress_bar_finished: A bar that is done.
        progress_bar_pulse: A bar of unknown length.
        batch_progress: Batches done, of how many.
        time: The time left.
        processing_speed: The rate.
        metrics: The metrics below a bar.
        metrics_text_delimiter: What stands between two of them.
        metrics_format: How their floats are written.
    """

    description: str = ""
    progress_bar: str = "bar.complete"
    progress_bar_finished: str = "bar.finished"
    progress_bar_pulse: str = "bar.pulse"
    batch_progress: str = ""
    time: str = ""
    processing_speed: str = ""
    metrics: str = ""
    metrics_text_delimiter: str = " " * _GAP
    metrics_format: str = FORMAT


_PLAIN = RichProgressBarTheme()


class RichProgressBar(ProgressBar):
    """The default bar. What is printed meanwhile appears above it.

    Args:
        refresh_rate: See ``ProgressBar``.
        leave: See ``ProgressBar``.
        theme: How it looks; by default in the terminal's own colours.
        console_kwargs: For ``rich.console.Console``, such as ``{"stderr": True}``.
    """

    def __init__(
        self,
        refresh_rate: int = 1,
        leave: bool = False,
        theme: RichProgressBarTheme = _PLAIN,
        console_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(refresh_rate, leave)
        self.theme, self._console = theme, {"highlight": False, **(console_kwargs or {})}
        self._drawing: Live | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "configure_columns"):
            warnings.warn(
                f"{cls.__name__}.configure_columns is never called: the columns of this bar are what they are. "
                "get_metrics() chooses what is shown, theme= how; or override show() and draw the lines yourself.",
                stacklevel=2,
            )

    def show(self, lines: Sequence[Line], *, final: bool) -> None:
        """Draw."""
        if self._drawing is None:
            from rich.console import Console
            from rich.live import Live

            # No thread of its own: it is drawn when we say so.
            self._drawing = Live(console=Console(**self._console), auto_refresh=False)
            self._drawing.start()
        self._drawing.update(_table(lines, self.theme), refresh=True)
        if final:
            self.close()

    def close(self) -> None:
        """Stop; the cursor and stdout are the program's again."""
        if self._drawing is not None:
            self._drawing.stop()
            self._drawing = None


def _table(lines: Sequence[Line], theme: RichProgressBarTheme) -> RenderableType:
    """One row a line; metrics below it, folded where the terminal is narrow, never cut."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar as Bar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
    table.add_column(no_wrap=True, style=theme.description)
    table.add_column(ratio=1)
    for style in (theme.batch_progress, theme.processing_speed, theme.time):
        table.add_column(justify="right", no_wrap=True, style=style)
    for line in lines:
        bar = Bar(
            total=line.total,
            completed=line.done,
            pulse=line.total is None,
            complete_style=theme.progress_bar,
            finished_style=theme.progress_bar_finished,
            pulse_style=theme.progress_bar_pulse,
        )
        table.add_row(line.label, bar, line.counts, line.speed, line.left)
    facts = [line.facts_in(theme.metrics_format) for line in lines]
    return Group(table, *(Text(theme.metrics_text_delimiter.join(of), style=theme.metrics) for of in facts if of))
