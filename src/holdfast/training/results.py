"""Print what a validation or a test has measured, one column for each data loader. Reads plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(title: str, results: Sequence[Mapping[str, float]]) -> str:
    """The results as text; a metric of one of several loaders stands in its row without the loader's index."""
    several = len(results) > 1
    columns = [{_row(name) if several else name: value for name, value in result.items()} for result in results]
    names = sorted({name for column in columns for name in column})
    head = [title, *(f"DataLoader {i}" for i in range(len(columns)))]
    rows = [[name, *(_number(column.get(name)) for column in columns)] for name in names]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    line = "─" * (sum(widths) + 3 * (len(widths) - 1))
    text = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join([line, text[0].rstrip(), line, *(row.rstrip() for row in text[1:]), line])


def _row(name: str) -> str:
    before, found, index = name.rpartition("/dataloader_idx_")
    return before if found and index.isdigit() else name


def _number(value: float | None) -> str:
    return "" if value is None else str(value)
