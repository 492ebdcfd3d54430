"""What a command's exit code says, for scripts. The numbers are a promise: none ever gets another meaning."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from holdfast.errors import Corrupt, Foreign, HoldfastError, NotFound


class Exit(IntEnum):
    """An exit code of ``holdfast``; ``MEANINGS`` says each in words."""

    OK = 0
    ERROR = 1
    USAGE = 2
    CORRUPT = 10
    NOT_FOUND = 11
    FOREIGN = 12


MEANINGS = {
    Exit.OK: "all is well: for `verify`, every checkpoint is whole",
    Exit.ERROR: "an error that has no code of its own, such as a file that cannot be read",
    Exit.USAGE: "the command line itself is wrong",
    Exit.CORRUPT: "a checkpoint is corrupt: its bytes are not the bytes that were saved",
    Exit.NOT_FOUND: "there is nothing by that name, or no checkpoint in that folder to verify",
    Exit.FOREIGN: "a file that was named is none of Holdfast's: there is nothing to verify it by",
}

_WORST_FIRST = (Exit.CORRUPT, Exit.ERROR, Exit.NOT_FOUND, Exit.FOREIGN, Exit.OK)


class Failure(HoldfastError):
    """What was asked for cannot be done.

    Args:
        what: What is wrong.
        exit: The exit code.
        remedy: What to do now.
    """

    def __init__(self, what: str, exit: Exit, *, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.exit = exit


def worst(exits: Iterable[Exit]) -> Exit:
    """The one that counts where a command looked at several things."""
    there = set(exits)
    return next((exit for exit in _WORST_FIRST if exit in there), Exit.OK)


def of(error: HoldfastError) -> Exit:
    """The exit code of a command that raised ``error``."""
    if isinstance(error, Failure):
        return error.exit
    kinds = {Corrupt: Exit.CORRUPT, NotFound: Exit.NOT_FOUND, Foreign: Exit.FOREIGN}
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), Exit.ERROR)
