"""A lock between processes, held through an open file. Never removes the file: that makes two of one."""

from __future__ import annotations

import errno
import fcntl
import os

from holdfast.store import files
from holdfast.store.failures import REMEDIES, reported

_NO_LOCKS = (
    "That file system has no locks (flock). Use a folder on another one, or mount this one with locks "
    "(NFS: start lockd; Lustre: the 'flock' option)."
)
_LOCK_REMEDIES = REMEDIES | dict.fromkeys((errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK), _NO_LOCKS)
_held: set[FileLock] = set()


class FileLock:
    """A lock that is held from its making until ``release`` or the death of this process.

    Args:
        fd: The open file that carries the lock.
        path: Its path.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        _held.add(self)

    def release(self) -> None:
        """Let go. A second call does nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        _held.discard(self)
        with reported("unlock", self._path):
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)

    def forget(self) -> None:
        """Close the inherited file without unlocking it: in a forked child the lock is its parent's."""
        os.close(self._fd)
        self._fd = -1


def take(path: str) -> FileLock | None:
    """Lock the file ``path``, made if missing, or return None where it is locked, be it by this process."""
    with reported("lock", path, remedies=_LOCK_REMEDIES):
        files.make_folder(os.path.dirname(path))
        fd = files.open_in_place(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = f"process {os.getpid()} on {os.uname().nodename}\n".encode()
            files.write(fd, 0, holder)
            os.ftruncate(fd, len(holder))
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
    return FileLock(fd, path)


def _forget_all() -> None:
    """Leave the parent's locks to the parent: a data loader's worker must not outlive it holding them."""
    while _held:
        _held.pop().forget()


os.register_at_fork(after_in_child=_forget_all)
