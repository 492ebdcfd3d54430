"""Show rows to people: a table on a terminal, blocks on a narrow one, aligned lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from holdfast.cli.text import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_VERDICT = "is"
_STYLES = {
    "whole": "green",
    "corrupt": "bold red",
    "missing": "red",
    "unreadable": "red",
    "foreign": "yellow",
}
_GAP = 2


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Args:
        headings: Of the columns; the one called ``is`` holds verdicts.
        rows: A cell for each heading.
        right: Headings of the columns of numbers.
        folding: Headings of the columns whose text may be folded, to the width from which it can be read.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str]
    folding: Mapping[str, int]

    def show(self) -> None:
        """Print all of it: what does not fit is folded, never cut."""
        rows = [[plain(cell) for cell in row] for row in self.rows]
        if sys.stdout is None or not sys.stdout.isatty():  # it may be closed
            # Scripts search lines; and rich would take half a second for a thousand rows.
            click.echo("\n".join(self._lines(rows)))
            return
        from rich.console import Console

        console = Console(markup=False, highlight=False, emoji=False)
        if self._needs(rows) <= console.width:
            self._print_table(console, rows)
        else:
            self._print_blocks(console, rows)

    def _lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        lines = [self.headings, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            [
                cell.rjust(width) if heading in self.right else cell.ljust(width)
                for heading, cell, width in zip(self.headings, line, widths, strict=True)
            ]
            for line in lines
        ]
        return [(" " * _GAP).join(line).rstrip() for line in aligned]

    def _needs(self, rows: Sequence[Sequence[str]]) -> int:
        """The width from which a table of it can be read."""
        from rich.cells import cell_len

        widths = [max(map(cell_len, column)) for column in zip(self.headings, *rows, strict=True)]
        least = [min(w, self.folding.get(h, w)) for h, w in zip(self.headings, widths, strict=True)]
        return sum(least) + _GAP * (len(least) - 1)

    def _print_table(self, console: Console, rows: Sequence[Sequence[str]]) -> None:
        from rich.table import Table as RichTable

        table = RichTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
        for heading in self.headings:
            table.add_column(
                heading,
                overflow="fold",
                justify="right" if heading in self.right else "left",
                no_wrap=heading not in self.folding,
            )
        for row in rows:
            table.add_row(*map(_styled, self.headings, row))
        console.print(table)

    def _print_blocks(self, console: Console, rows: Sequence[Sequence[str]]) -> None:
        from rich.padding import Padding

        for first, *rest in rows:
            facts = [f"{heading} {cell}" for heading, cell in zip(self.headings[1:], rest, strict=True) if cell]
            console.print(first)
            console.print(Padding.indent(", ".join(facts), 4))


def _styled(heading: str, cell: str) -> RenderableType:
    from rich.text import Text

    return Text(cell, style=_STYLES.get(cell, "") if heading == _VERDICT else "")
