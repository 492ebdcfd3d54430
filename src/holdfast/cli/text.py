"""Say numbers and names to people and to scripts. Rich is imported only where something is drawn with it."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 10_000  # columns; no terminal: nothing is folded, so that every line can be searched


def console() -> Console:
    """Where tables go: the terminal, as wide as it is; or else plain text, one line a row."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show is no crash
    made = Console(markup=False, highlight=False, emoji=False)
    return made if made.is_terminal else Console(markup=False, highlight=False, emoji=False, width=_WIDE)


def table(*headings: str, right: Collection[str] = (), prose: Collection[str] = ()) -> Table:
    """An empty table. What does not fit is folded, never cut.

    Args:
        headings: Of its columns.
        right: Those of numbers.
        prose: Those that are folded before any other is.
    """
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        made.add_column(
            heading,
            overflow="fold",
            justify="right" if heading in right else "left",
            no_wrap=heading not in prose,
            min_width=20 if heading in prose else None,
        )
    return made


def plain(text: str) -> str:
    """``text`` with what a terminal would act on, or could not show, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(bytes: int) -> str:
    """A number of bytes for people, in powers of 1,000."""
    value, unit = float(bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.95 or unit == "PB":
            break
        value /= 1000
    return f"{bytes} B" if unit == "B" else f"{value:.1f} {unit}"


def age(seconds: float | None) -> str:
    """How long ago, for people; of a clock that was ahead of ours, negative."""
    if seconds is None:
        return "unknown"
    sign, seconds = "-" if seconds <= -1 else "", abs(seconds)
    for unit, length, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 2 * 86_400)):
        if seconds < limit:
            return f"{sign}{int(seconds // length)} {unit}"
    return f"{sign}{int(seconds // 86_400):,} d"


def utc(seconds: float) -> str | None:
    """A time since 1970 as ISO 8601 in UTC, to the millisecond; None where it is no time of a calendar."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError):  # what a file says of its time is not checked by anybody before
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
