"""How much of a counted claim to run: all of it with ``HOLDFAST_TORTURE=whole``, else an even sample."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

whole: bool = os.environ.get("HOLDFAST_TORTURE") == "whole"


def sample(items: Sequence[T], count: int) -> list[T]:
    """All items in a whole run, else ``count`` of them, evenly spaced, the first and the last included."""
    if whole or len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[place * (len(items) - 1) // (count - 1)] for place in range(count)]
