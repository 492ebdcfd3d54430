"""Write past the page cache where the file system allows it. Translates no error, and never insists.

What is written so does not push other pages out, costs no copy in the kernel, and leaves nothing for fsync to do
but to tell the disk. Memory, offset and length are multiples of ``BLOCK``; all else goes through the page cache.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from contextlib import suppress

BLOCK = mmap.PAGESIZE
"""No less than what disks and file systems commonly ask for; one that asks for more refuses, and gets none."""
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


def aligned_memory(size: int) -> mmap.mmap:
    """Memory that can be written from directly. It is there as far as it is touched, until nobody has it."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):  # no such pages: small ones serve as well, and take longer to be made
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def open_again(path: str, file: os.stat_result) -> int | None:
    """The open file ``file`` at ``path`` once more, for direct writes; None where there are none for it."""
    flag = getattr(os, "O_DIRECT", 0)  # Linux's
    if not flag:
        return None
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flag)
    except OSError as error:
        if error.errno in _REFUSED:
            return None
        raise
    if os.path.samestat(os.fstat(fd), file):
        return fd
    os.close(fd)  # another took the name over; publishing will say so
    return None


def write(fd: int, offset: int, data: memoryview) -> int:
    """Write as much of the beginning of ``data`` at ``offset`` as can be written directly.

    Returns:
        How many bytes that was; the rest is not aligned, or was refused.
    """
    if offset % BLOCK or data.readonly or data.nbytes < BLOCK:
        return 0
    if ctypes.addressof(ctypes.c_char.from_buffer(data)) % BLOCK:
        return 0
    end = data.nbytes - data.nbytes % BLOCK
    done = 0
    while done < end and done % BLOCK == 0:  # after a write that was short by less than a block the cache takes over
        try:
            count = os.pwrite(fd, data[done:end], offset + done)
        except OSError as error:
            if error.errno in _REFUSED:
                break
            raise
        if count == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        done += count
    return done
