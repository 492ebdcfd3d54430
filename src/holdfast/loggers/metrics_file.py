"""A table of metrics as a CSV file that grows by rows, and now and then by a column. Changes no row that it holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

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

    def add(self, values: Mapping[str, int | float], step: int) -> None:
        """Keep a row, to be written by ``save``."""
        self._pending.append({**values, _STEP: step})
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


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
