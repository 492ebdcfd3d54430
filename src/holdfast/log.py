"""The logger of Holdfast, and its warnings: what users should see, through the standard library."""

from __future__ import annotations

import logging
import sys
import warnings

logger = logging.getLogger("holdfast")

_BETWEEN = {"holdfast", "contextlib"}
"""Whose frames may lie between a warning and the user's line: an ExitStack may be what closes a Checkpointer."""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, pointing to the user's line that led here: the innermost of those in progress."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def size(bytes: int) -> str:
    """A number of bytes for people, in powers of 1,000."""
    value, unit = float(bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.95 or unit == "PB":
            break
        value /= 1000
    return f"{bytes} B" if unit == "B" else f"{value:.1f} {unit}"


class _Console(logging.Handler):
    """Writes to stderr as long as the program has set up no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stderr.write(f"holdfast: {record.getMessage()}\n")


logger.setLevel(logging.INFO)
logger.addHandler(_Console())
