"""The logger of Holdfast: one line for what users should see, through the standard library."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("holdfast")


class _Console(logging.Handler):
    """Writes to stderr as long as the program has set up no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stderr.write(f"holdfast: {record.getMessage()}\n")


logger.setLevel(logging.INFO)
logger.addHandler(_Console())
