"""Turn the system's errors into ``StoreError``, and refuse what no store accepts. Touches no file itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import StoreError

REMEDIES = {
    errno.ENOSPC: "Free space on that disk, keep fewer checkpoints, or save to another disk.",
    errno.EDQUOT: "Your quota there is used up: free space, keep fewer checkpoints, or save to another disk.",
    errno.EACCES: "Check the owner and permissions of that path and of its folder, or use another folder.",
    errno.EPERM: "Check the owner and permissions of that path and of its folder, or use another folder.",
    errno.EROFS: "That disk is mounted read-only: use another folder, or mount it for writing.",
}


@contextmanager
def reported(operation: str, path: str, *, remedies: dict[int, str] = REMEDIES) -> Iterator[None]:
    """Raise every ``OSError`` of the block as a ``StoreError`` that names the operation and the path.

    Args:
        operation: The verb of the store.
        path: What it is done to, as the user knows it.
        remedies: What to do now, by ``errno``.
    """
    try:
        yield
    except StoreError:
        raise  # an inner operation has already said what happened, and to what
    except OSError as error:
        raise StoreError(operation, path, error, remedy=remedies.get(error.errno or 0, "")) from error


def acceptable(name: str) -> bool:
    """Whether ``name`` stays below the root on every system: no empty or dotted part, backslash or NUL."""
    return not ("\\" in name or "\0" in name or {"", ".", ".."}.intersection(name.split("/")))


def checked_name(operation: str, name: str) -> str:
    """``name`` itself; raises ``StoreError`` with ``errno.EINVAL`` where no store accepts it."""
    with reported(operation, name.replace("\0", "\\0")):
        if not acceptable(name):
            raise OSError(errno.EINVAL, "a name is relative, without '..', empty parts or backslashes")
    return name


def checked_line(name: str, data: bytes) -> bytes:
    """``data`` itself; raises ``StoreError`` with ``errno.EINVAL`` unless it ends with a newline."""
    with reported("append to", name):
        if not data.endswith(b"\n"):
            raise OSError(errno.EINVAL, "what is appended is whole lines, and ends with a newline")
    return data


def checked_range(offset: int, length: int, size: int) -> None:
    """Raise ``OSError`` unless an object of ``size`` bytes has all of ``length`` bytes from ``offset``."""
    if offset < 0 or length < 0:
        raise OSError(errno.EINVAL, f"byte {offset}, length {length} is no range")
    if offset + length > size:
        raise OSError(errno.ENODATA, f"it ends at byte {size}, wanted {offset} to {offset + length}")
