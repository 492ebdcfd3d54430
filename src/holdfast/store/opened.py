"""Read an open binary file through the store's ``Reader``. Never closes it: it is whoever opened it's."""

from __future__ import annotations

import io
import os
import threading
from typing import BinaryIO

from typing_extensions import Buffer, Self

from holdfast.store.failures import checked_range, reported


class OpenFile:
    """A ``Reader`` over an open, seekable binary file.

    Args:
        file: The file.
        name: What to call it in an error.

    Raises:
        StoreError: It cannot be read or sought.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._lock = threading.Lock()
        with reported("read", name):
            self.bytes = file.seek(0, io.SEEK_END)
            file.seek(0)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset``; fails as ``Reader.read_into`` does."""
        with reported("read", self._name), self._lock:
            checked_range(offset, len(target), self.bytes)
            self._file.seek(offset)
            done = 0
            while done < len(target):
                piece = self._file.read(len(target) - done)
                if not piece:
                    checked_range(offset, len(target), offset + done)
                target[done : done + len(piece)] = piece
                done += len(piece)

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""
        with reported("read", self._name):
            checked_range(offset, length, self.bytes)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def mapped(self) -> Buffer | None:
        """Nothing: an open file may have no memory to be seen through."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with reported("read", self._name):
            self._file.seek(0, os.SEEK_SET)
