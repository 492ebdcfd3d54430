"""What a durable store asks of the operating system's files: reserve, write whole, sync, place under a name.

Knows nothing of stores and translates no error: callers wrap these in ``failures.reported``.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from contextlib import suppress

from typing_extensions import Buffer

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
# What file systems without an operation answer to it: SMB, exFAT, and what is mounted through FUSE.
UNSUPPORTED = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
NO_LINK = UNSUPPORTED | {errno.EMLINK, errno.EXDEV}
# The last where memory is promised only as far as there is some.
NO_MAP = UNSUPPORTED | {errno.ENODEV, errno.EACCES, errno.ENOMEM}
# What a name answers that is not there: missing, below a file, or a link that leads nowhere.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def make_folder(folder: str) -> None:
    """Make ``folder`` and those above it, each durable in its parent."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        with suppress(FileExistsError):  # another process was faster; if it is a file, what comes next says so
            os.mkdir(path)
        sync_folder(os.path.dirname(path))


def sync(fd: int) -> None:
    """Return when what ``fd`` refers to has reached the disk itself."""
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync stops at the drive's cache
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)


def sync_folder(folder: str) -> None:
    """Return when the names in ``folder`` have reached the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)


def create(path: str) -> int:
    """A new, empty file, open, with the user's umask; what stood at ``path`` loses its name."""
    unlink(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def create_linked(source: str, path: str) -> int:
    """A second name of the plain file ``source``, open for reading; what stood at ``path`` loses its name."""
    unlink(path)
    os.link(source, path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        require_regular(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_in_place(path: str, flags: int = 0) -> int:
    """Open a file, made if missing, to change it in place; raises ``EACCES`` where it was made read-only.

    Asked of the file and not of the system, which lets root through: most containers run as root.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
    try:
        info = os.fstat(fd)
        require_regular(info)
        if not info.st_mode & WRITABLE:
            raise PermissionError(errno.EACCES, "it was published, and is read-only")
    except BaseException:
        os.close(fd)
        raise
    return fd


def require_regular(info: os.stat_result) -> None:
    """Raise ``EISDIR`` for a folder, ``EINVAL`` for whatever else is not a plain file."""
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file")


def unlink(path: str) -> None:
    """Remove the name ``path``; one that is gone already is fine."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise


def reserve(fd: int, size: int) -> None:
    """Make the file ``size`` bytes long and, where the file system can, claim their space."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # EINVAL also where size is 0
                raise
        else:
            return
    os.ftruncate(fd, size)


def write(fd: int, offset: int, data: Buffer) -> None:
    """Write all of ``data`` at ``offset``, however short the single writes are."""
    view = memoryview(data)
    if view.nbytes == 0:
        return  # an empty view cannot be cast
    rest = view.cast("B")
    while rest:
        count = os.pwrite(fd, rest, offset)
        if count == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        offset += count
        rest = rest[count:]


def read(fd: int, offset: int, target: memoryview) -> None:
    """Fill ``target`` from ``offset``. Raises ``ENODATA`` where the file ends before."""
    if target.nbytes == 0:
        return
    rest = target.cast("B")
    at = offset
    while rest:
        count = os.preadv(fd, [rest], at)
        if count == 0:
            end = offset + target.nbytes
            raise OSError(errno.ENODATA, f"it ends at byte {at}, wanted {offset} to {end}")
        at += count
        rest = rest[count:]


def private_map(fd: int, size: int) -> mmap.mmap | None:
    """The first ``size`` bytes as memory whose changes reach no file; None where the system gives none."""
    if size == 0:
        return None
    try:
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    except OSError as error:
        if error.errno not in NO_MAP:
            raise
        return None


def append(fd: int, data: bytes) -> None:
    """Write all of ``data`` to a file opened with ``O_APPEND``: in one write, unless that is short."""
    rest = memoryview(data)
    while rest:
        count = os.write(fd, rest)
        if count == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        rest = rest[count:]


def make_read_only(fd: int) -> None:
    """Take the permission to write from everyone, where the file system has permissions."""
    try:
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & ~WRITABLE)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def place_over(temporary: str, path: str) -> None:
    """Move ``temporary`` to ``path``, in place of what stands there; ``EISDIR`` where that is a folder."""
    if os.path.isdir(path) and not os.path.islink(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")  # rename has several answers to this
    os.rename(temporary, path)


def place(temporary: str, path: str) -> None:
    """Move ``temporary`` to ``path``, unless that exists: then raises ``EEXIST``, and ``temporary`` stays."""
    try:
        os.link(temporary, path)  # unlike rename, it refuses an existing name in the same instant
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


def link_over(source: str, path: str, temporary: str) -> None:
    """Make ``path`` a second name of ``source``, in place of what it was."""
    if os.path.lexists(path) and os.path.samestat(os.lstat(path), os.stat(source)):
        return
    unlink(temporary)
    os.link(source, temporary)
    try:
        place_over(temporary, path)
    finally:
        unlink(temporary)  # it is left after a failure, and by a rename onto the very same file
