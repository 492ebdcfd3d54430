"""Say in one table what a run goes on with: what was restored, what differs, what is not exact. Changes nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.log import logger
from holdfast.state.changes import Difference

_GAP = "  "
_HEADINGS = ("differs", "in the checkpoint", "now", "taken")
EXACT = "yes: what follows is what would have followed without the stop, on the same data"


@dataclass(frozen=True)
class Report:
    """What a run goes on with.

    Args:
        source: The checkpoint.
        where: The place in the run, for people.
        restored: What was put back.
        missing: What the checkpoint does not hold, or what it holds and nobody takes.
        differs: What is not as it was, and which was taken.
        inexact: Why what follows is not what would have followed; a sentence each.
        healthy: Whether its trained weights are finite.
    """

    source: str
    where: str
    restored: Sequence[str]
    missing: Sequence[str] = ()
    differs: Sequence[Difference] = ()
    inexact: Sequence[str] = ()
    healthy: bool = True

    def head(self) -> list[tuple[str, str]]:
        """The lines that stand for themselves: a word and a text."""
        changed = [d.title for d in self.differs if not d.exact]
        reasons = [*self.inexact, *([f"not the same as before: {', '.join(changed)}"] if changed else [])]
        return [
            ("resumed from", f"{_from_here(self.source)}, {self.where}"),
            ("restored", ", ".join(self.restored) or "nothing"),
            ("not restored", ", ".join(self.missing) or "nothing is missing"),
            *([] if self.healthy else [("weights", "not finite")]),
            *([] if self.differs else [("differs", "nothing")]),
            ("exact", f"no: {'; '.join(reasons)}" if reasons else EXACT),
        ]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """What differs, with both values and which was taken."""
        return [(d.title, *d.texts(), d.choice()) for d in self.differs]

    def text(self) -> str:
        """The whole as aligned lines."""
        head, rows = self.head(), self.rows()
        lines = [f"{word:<14}{text}" for word, text in head]
        if rows:
            widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
            widths[0] = max(12, widths[0])
            table = [
                _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in (_HEADINGS, *rows)
            ]
            lines[-1:-1] = table
        return "\n".join(lines)

    def tell(self) -> None:
        """Print it: as a table where stderr is a terminal and nobody has set up logging, else as one log entry.

        Weights that are not finite are a warning: training goes on with them, and does not mend them.
        """
        if not self.healthy:
            logger.warning(
                "'%s' holds trained weights with NaN or infinity, and the run goes on with them. 'holdfast ls' shows "
                "which checkpoints are finite; to go back, name one of those.",
                self.source,
            )
        alone = not logging.getLogger().handlers and logger.isEnabledFor(logging.INFO)
        if alone and sys.stderr.isatty():
            self._print()
        else:
            logger.info("what the run goes on with:\n%s", self.text())

    def _print(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        head = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        head.add_column(style="bold", no_wrap=True)
        head.add_column(overflow="fold")
        for word, text in self.head():
            head.add_row(word, text)
        console.print(head)
        if self.differs:
            table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
            for heading in _HEADINGS:
                table.add_column(heading, overflow="fold")
            for row in self.rows():
                table.add_row(*row)
            console.print(table)


def _from_here(path: str) -> str:
    """A path as people say it: what lies below the working directory without that."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
