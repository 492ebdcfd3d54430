"""The logger of Holdfast: one line for what users should see, through the standard library."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("holdfast")


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
