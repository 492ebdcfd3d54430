"""Find out what a path on the command line leads to. Opens nothing."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.sharded import INDEX, STATE

# Unlike Path's, the functions of os.path answer for every path: also below a folder that may not be searched.


def is_folder(path: str) -> bool:
    """Whether a folder can be seen there."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str) -> bool:
    """Whether a file can be seen there."""
    return os.path.isfile(path)  # noqa: PTH113


def is_sharded(path: str) -> bool:
    """Whether a folder there is one checkpoint, or what is left of one."""
    return is_file(within(path, INDEX)) or is_file(within(path, STATE))


def has_ledger(folder: str) -> bool:
    """Whether Holdfast has kept a diary in that folder."""
    return is_file(within(folder, LEDGER))


def within(folder: str, name: str) -> str:
    """The path of a name in a folder, the folder as it was given."""
    return os.path.join(folder, name)  # noqa: PTH118


def home(path: str) -> tuple[str, str]:
    """The folder that a checkpoint belongs to, and its name there: a name may have folders in it."""
    file = Path(os.path.abspath(path))  # noqa: PTH100  a link is looked at where it lies
    root = next((parent for parent in file.parents if has_ledger(str(parent))), file.parent)
    return str(root), file.relative_to(root).as_posix()
