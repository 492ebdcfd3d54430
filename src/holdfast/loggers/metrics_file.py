"""A table of metrics as a CSV file that grows by rows, and now and then by a column. Changes no row that it holds."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.log import logger
from holdfast.loggers.params import number
from holdfast.store import LocalStore
from holdfast.store.failures import reported

_STEP = "step"


class MetricsFile:
    """One CSV file.

    Rows are added at its end. A new column rewrites it: beside, durably, and then in one step in its place.

    Args:
        store: Its folder.
        name: Its name there. If it exists, rows are added to it; a last line that was cut off is dropped then.

    ``rows`` is how many it has, with those that are not written yet.
    """

    def __init__(self, store: LocalStore, name: str) -> None:
        self._store, self._name = store, name
        self.path = str(Path(store.root) / name)
        self._pending: list[dict[str, int | float]] = []
        # What lies behind the whole lines is of a write that failed, in this process or an earlier one.
        self._whole = self._bytes().rfind(b"\n") + 1
        heading, *rows = self._lines()
        self._columns, self.rows = heading, len(rows)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row, to be written by ``save``.

        Args:
            metrics: Number or one-element tensor by name.
            step: The step; by default the rows are counted.

        Raises:
            ConfigError: A value is no number.
        """
        row = {name: number(name, value) for name, value in metrics.items()}
        self._pending.append({**row, _STEP: self.rows if step is None else step})
        self.rows += 1

    def save(self) -> None:
        """Write the rows kept since the last time. Raises ``StoreError``, and keeps them for the next time."""
        if not self._pending:
            return
        names = dict.fromkeys([*self._columns, _STEP, *(name for row in self._pending for name in row)])
        columns = list(names)
        added = [[repr(row[name]) if name in row else "" for name in columns] for row in self._pending]
        if columns == self._columns:
            self._append(added)
        else:
            self._replace(columns, added)
        self._pending.clear()

    def rewind(self, step: int) -> None:
        """Move the rows of this step and later ones, if there are any, into a file beside it."""
        self.save()
        heading, *rows = self._lines()
        if _STEP not in heading:
            return
        at = heading.index(_STEP)
        kept = [row for row in rows if not _reaches(row[at], step)]
        gone = [row for row in rows if _reaches(row[at], step)]
        if not gone:
            return
        aside, data = self._free_name(), _csv([heading, *kept])
        self._store.put(aside, _csv([heading, *gone]))  # before they leave the file: nothing is lost on the way
        self._store.put(self._name, data)
        self._whole, self.rows = len(data), len(kept)
        logger.info("%s: its %d rows of step %s and later are in %s now", self.path, len(gone), f"{step:,}", aside)

    def _free_name(self) -> str:
        names = (f"{Path(self._name).stem}.abandoned-{n}.csv" for n in itertools.count(1))
        return next(name for name in names if self._store.stat(name) is None)

    def _bytes(self) -> bytes:
        path = Path(self.path)
        with reported("read", self.path):
            return path.read_bytes() if path.exists() else b""

    def _lines(self) -> list[list[str]]:
        """The heading and the rows that are there."""
        text = self._bytes()[: self._whole].decode()
        return list(csv.reader(io.StringIO(text, newline=""))) or [[]]

    def _replace(self, columns: list[str], added: Sequence[Sequence[str]]) -> None:
        _, *before = self._lines()
        filled = [[*row, *[""] * (len(columns) - len(row))] for row in before]
        data = _csv([columns, *filled, *added])
        self._store.put(self._name, data)
        self._columns, self._whole = columns, len(data)

    def _append(self, added: Sequence[Sequence[str]]) -> None:
        data = _csv(added)
        # No fsync: on an ordinary disk it would cost more than the steps between two of them.
        with reported("append to", self.path), open(self.path, "r+b") as file:
            file.seek(self._whole)
            file.truncate()
            file.write(data)
        self._whole += len(data)


def _reaches(cell: str, step: int) -> bool:
    """Whether a cell of the step's column, whoever wrote it, is a number from ``step`` on."""
    return cell.lstrip("-").isdigit() and int(cell) >= step


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
