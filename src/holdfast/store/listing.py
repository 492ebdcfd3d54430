"""Look through the folders of a file system for objects. Opens none of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from holdfast.store import files
from holdfast.store.base import Entry
from holdfast.store.failures import acceptable, reported


def walk(root: str, prefix: str) -> Iterator[Entry]:
    """The objects below the folder ``prefix``."""
    waiting = [prefix]
    while waiting:
        entries, below = _scan(root, waiting.pop())
        waiting += below
        yield from entries


def _scan(root: str, prefix: str) -> tuple[list[Entry], list[str]]:
    """The objects right in the folder ``prefix``, and the folders in it; none if it has vanished."""
    path = os.path.join(root, prefix)
    entries: list[Entry] = []
    below: list[str] = []
    with reported("list", path), suppress(FileNotFoundError), os.scandir(path) as found:
        for item in found:
            if not acceptable(item.name):
                continue
            if item.is_dir(follow_symlinks=False):
                below.append(f"{prefix}{item.name}/")
                continue
            try:
                info = item.stat()
            except OSError as error:
                if error.errno in files.ABSENT:  # removed meanwhile, or a symbolic link to nothing
                    continue
                raise
            if stat.S_ISREG(info.st_mode):
                entries.append(entry_of(prefix + item.name, info))
    return entries, below


def entry_of(name: str, info: os.stat_result) -> Entry:
    """What a store tells of a file."""
    return Entry(name, info.st_size, info.st_mtime_ns, info.st_ino)
