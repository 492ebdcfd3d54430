"""Say numbers, names and times to people and to scripts."""

from __future__ import annotations

import io
import os
import sys
from datetime import datetime, timezone


def escape_what_stdout_lacks() -> None:
    """From now on, letters that the encoding of stdout lacks are written as escapes, and are no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """What could not be written goes nowhere: Python would try again at the end, and fail in words of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def plain(text: str) -> str:
    """``text`` with what a terminal would act on, or could not show, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
