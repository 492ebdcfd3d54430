"""How a duration is written: one reading of it, for all arguments that take one."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any


def seconds(given: Any) -> float:
    """A duration in seconds.

    Args:
        given: ``"DD:HH:MM:SS"``, a timedelta, or its arguments as a dict.

    Raises:
        ValueError: It is none of them.
    """
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, dict):
        try:
            return timedelta(**given).total_seconds()
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{given!r} is no duration") from error
    found = re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", given.strip()) if isinstance(given, str) else None
    if found is None:
        raise ValueError(f"{given!r} is not DD:HH:MM:SS, a timedelta or a dict")
    days, hours, minutes, rest = map(int, found.groups())
    return ((days * 24.0 + hours) * 60 + minutes) * 60 + rest
