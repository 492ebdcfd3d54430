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
_MOST = 512
"""Bytes that are looked at of who holds it."""
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

    def held(self) -> bool:
        """Whether it still keeps others out, as far as can be seen.

        Not where the file was removed or replaced, for others lock the new one; nor where a network file system has
        lost the lock and somebody else has had it since. One that it has lost and nobody wanted is taken again here.
        """
        if self._fd < 0:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _is_at(self._fd, self._path) and os.pread(self._fd, _MOST, 0) == _holder()
        except OSError:  # whatever a lost lock answers: it is none that one could count on
            return False

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
        while (fd := _locked(path)) is None:
            pass  # its file was removed meanwhile: who comes later would lock another one
    return None if fd < 0 else FileLock(fd, path)


def _locked(path: str) -> int | None:
    """The file, locked; -1 where another has it; None where it has lost its name by the time that it was locked."""
    fd = files.open_in_place(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(fd, path):
            holder = _holder()
            files.write(fd, 0, holder)
            os.ftruncate(fd, len(holder))
            return fd
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _holder() -> bytes:
    """What the file says of who has locked it."""
    return f"process {os.getpid()} on {os.uname().nodename}\n".encode()


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _forget_all() -> None:
    """Leave the parent's locks to the parent: a data loader's worker must not outlive it holding them."""
    while _held:
        _held.pop().forget()


os.register_at_fork(after_in_child=_forget_all)
