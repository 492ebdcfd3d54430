"""Keep bytes under names in a folder of a file system: durably, atomically, without ever showing a part."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from typing_extensions import Buffer, Self

from holdfast.errors import StoreError
from holdfast.store import direct, files, flock
from holdfast.store.base import LINKER, PROBE, Entry, Lock, Traits, temporary_name
from holdfast.store.failures import checked_line, checked_name, checked_range, reported
from holdfast.store.folders import LocalFolders
from holdfast.store.listing import entry_of, walk

_COPY_CHUNK = 8 << 20
_DIRECT_BYTES = 1 << 20
"""From this size on, an object is written past the page cache: less is not worth a second descriptor."""


class LocalStore(LocalFolders):
    """A folder of a local or mounted file system.

    A published object is read-only, so that writing through one of its names cannot change what the others
    show. Where the file system has no hard links, ``link`` makes a durable copy, and publishing without
    ``replace`` looks whether the name is free before it renames, which is not one step. A file whose name no
    store accepts (one with a backslash) is not listed.

    Args:
        root: The folder; it need not exist yet. A relative one is fixed against the working directory now.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(os.path.abspath(os.fspath(root)))
        self.traits = Traits(links=True, append=True, locks=True)

    def prepare(self) -> None:
        """Make the root if it is missing, then write, sync and remove a file in it."""
        with reported("prepare", self.root):
            files.make_folder(self.root)
            probe = os.path.join(self.root, temporary_name(secrets.token_hex(8), PROBE))
            fd = files.create(probe)
            try:
                try:
                    files.write(fd, 0, b"holdfast\n")
                    files.sync(fd)
                finally:
                    os.close(fd)
            finally:
                files.unlink(probe)  # another process's sweep may have been faster
            files.sync_folder(self.root)

    def list(self) -> Iterator[Entry]:
        """Every plain file below the root, and every symbolic link to one; linked folders are not entered."""
        return walk(self.root, "")

    def stat(self, name: str) -> Entry | None:
        """The entry of that name, or None; a folder is no object and has none."""
        path = self._path("stat", name)
        with reported("stat", path):
            try:
                info = os.stat(path)
            except OSError as error:
                if error.errno in files.ABSENT:
                    return None
                raise
        return entry_of(name, info) if stat.S_ISREG(info.st_mode) else None

    def open(self, name: str) -> LocalReader:
        """Open for reading. What is open stays readable if its name goes."""
        return LocalReader(self._path("open", name))

    def create(self, name: str, *, owner: str, size: int) -> LocalSink:
        """Begin an object of ``size`` bytes that is to become ``name``, and claim its space on the disk."""
        checked_name("create", name)
        return LocalSink(self.root, name, owner=owner, size=size)

    def linked(self, source: LocalStore, there: str, name: str, *, owner: str) -> LocalSink | None:
        """Begin an object that is to become ``name``, and is the published object ``there`` of another folder.

        There is nothing to write to it: it is durable, and only its name is to come. None where the file system gives
        no second name to that object here.
        """
        checked_name("link", name)
        origin = source._path("link", there)
        try:
            return LocalSink(self.root, name, owner=owner, size=0, of=origin)
        except StoreError as error:
            if error.errno not in files.NO_LINK:
                raise
            return None

    def put(self, name: str, data: bytes) -> Entry:
        """Make a small object, atomically and durably, replacing what is there. It stays writable."""
        checked_name("put", name)
        with self._temporaries:  # one temporary name serves every thread
            sink = LocalSink(self.root, name, owner="put", size=len(data))
            with sink.discarded_on_error():
                sink.write_at(0, data)
                return sink.publish_writable(name)

    def append(self, name: str, data: bytes) -> None:
        """Add whole lines to the end of ``name`` in one write, durably, starting on a line of their own."""
        path = self._path("append to", name)
        checked_line(path, data)
        folder = os.path.dirname(path)
        with reported("append to", path):
            files.make_folder(folder)
            fd = files.open_in_place(path, os.O_APPEND)
            try:
                size = os.fstat(fd).st_size
                torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
                files.append(fd, b"\n" + data if torn else data)
                files.sync(fd)
            finally:
                os.close(fd)
            # Not only when the file is new: whoever made it may have died before its name was durable.
            files.sync_folder(folder)

    def link(self, source: str, name: str, *, replace: bool) -> Entry:
        """Give the object ``source`` a second name, durably: a hard link, or a copy where there are none."""
        path = self._path("link", name)
        with reported("link", self._path("link", source)):
            # A symbolic link's target is the object; a hard link to the symbolic link itself is not wanted.
            origin = os.path.realpath(self._path("link", source), strict=True)
            info = os.stat(origin)
            files.require_regular(info)
        with self._temporaries, reported("link", path):  # one temporary name serves every thread
            files.make_folder(os.path.dirname(path))
            try:
                if replace:
                    files.link_over(origin, path, os.path.join(self.root, temporary_name(name, LINKER)))
                else:
                    os.link(origin, path)
            except OSError as error:
                if error.errno not in files.NO_LINK:
                    raise
                return self._copy(source, name, replace=replace)
            files.sync_folder(os.path.dirname(path))
        return entry_of(name, info)

    def remove(self, name: str) -> None:
        """Remove one name, durably. A name that is gone already is no error; a folder is one."""
        path = self._path("remove", name)
        with reported("remove", path):
            files.unlink(path)
            # Also when it was gone: whoever removed it may have died before that was durable.
            try:
                files.sync_folder(os.path.dirname(path))
            except OSError as error:
                if error.errno not in files.ABSENT:
                    raise

    def lock(self, name: str) -> Lock | None:
        """Take the lock ``name`` without waiting, or return None where it is held, be it by this process.

        The file ``name`` says who took it last. It is made if missing, and must never be removed: the holder
        of a removed file and who makes a new one would both hold "the" lock.
        """
        return flock.take(self._path("lock", name))

    def _copy(self, source: str, name: str, *, replace: bool) -> Entry:
        with self.open(source) as reader:
            sink = LocalSink(self.root, name, owner=LINKER, size=reader.bytes)
            with sink.discarded_on_error():
                for offset in range(0, reader.bytes, _COPY_CHUNK):
                    length = min(_COPY_CHUNK, reader.bytes - offset)
                    sink.write_at(offset, reader.read_at(offset, length))
                return sink.publish(name, replace=replace)


class LocalReader:
    """An open file, as long as it was when it was opened; close it by leaving its ``with`` block.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with reported("open", path):
            # O_NONBLOCK: opening a FIFO must not wait for somebody to write to it.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                info = os.fstat(self._fd)
                files.require_regular(info)
            except BaseException:
                os.close(self._fd)
                raise
        self.bytes = info.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with reported("close", self._path):
                os.close(fd)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` (writable, contiguous) from ``offset``."""
        with reported("read", self._path):
            checked_range(offset, target.nbytes, self.bytes)
            files.read(self._fd, offset, target)

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""
        with reported("read", self._path):
            checked_range(offset, length, self.bytes)  # before so many bytes of memory are asked for
            target = bytearray(length)
            files.read(self._fd, offset, memoryview(target))
        return bytes(target)

    def mapped(self) -> Buffer | None:
        """All of it as private, writable memory; None where it is empty or its file system maps nothing."""
        with reported("map", self._path):
            return files.private_map(self._fd, self.bytes)


class LocalSink:
    """A file being written under its temporary name.

    Args:
        root: The store's folder.
        name: What it is to become.
        owner: Who writes it.
        size: Its length in bytes, claimed on the disk at once.
        of: The durable file that it is to be a second name of, instead of a new one.
    """

    def __init__(self, root: str, name: str, *, owner: str, size: int, of: str | None = None) -> None:
        self.temporary = temporary_name(name, owner)
        self._root = root
        self._target = os.path.join(root, name)
        self._path = os.path.join(root, self.temporary)
        self._closed = False  # to writing
        self._direct: int | None = None  # the same file, open for writes that pass the page cache
        self._entry: Entry | None = None  # known once all bytes are on the disk
        with reported("create", self._target):
            files.make_folder(os.path.dirname(self._path))
            self._fd = files.create(self._path) if of is None else files.create_linked(of, self._path)
            self._file = os.fstat(self._fd)
            if of is not None:
                self._closed, self._entry = True, entry_of(self.temporary, self._file)
                return
            with self.discarded_on_error():
                files.reserve(self._fd, size)
                if size >= _DIRECT_BYTES:
                    self._direct = direct.open_again(self._path, self._file)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of ``data`` (contiguous) at ``offset``: past the page cache, as far as it is aligned."""
        view = memoryview(data)
        with reported("write", self._target):
            if self._closed:
                raise OSError(errno.EBADF, "it was published or discarded")
            if view.nbytes == 0:
                return  # an empty view cannot be cast
            rest = view.cast("B")
            done = 0 if self._direct is None else direct.write(self._direct, offset, rest)
            files.write(self._fd, offset + done, rest[done:])

    def sync(self) -> None:
        """Make all that was written durable and read-only, under the temporary name still."""
        with reported("sync", self._target):
            self._settle(files.make_read_only)

    def publish(self, name: str, *, replace: bool) -> Entry:
        """Make everything durable and read-only, then visible as ``name``, then make the name durable."""
        return self._publish(name, files.place_over if replace else files.place, seal=files.make_read_only)

    def publish_writable(self, name: str) -> Entry:
        """As ``publish`` with ``replace``, but what is put stays writable."""
        return self._publish(name, files.place_over, seal=None)

    def discard(self) -> None:
        """Give the space back. Does nothing after ``publish`` or a first ``discard``."""
        with reported("discard", self._path):
            try:
                if self._is_own():
                    files.unlink(self._path)
            finally:
                self._release()

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Discard the sink if the block fails."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the block's failure is the one to report; what is left is swept later
                self.discard()
            raise

    def _publish(self, name: str, move: Callable[[str, str], None], *, seal: Callable[[int], None] | None) -> Entry:
        path = os.path.join(self._root, checked_name("publish", name))
        with reported("publish", path):
            settled = self._settle(seal)
            if not self._is_own():
                raise OSError(errno.ESTALE, f"its temporary file '{self._path}' was removed or taken over")
            folder = os.path.dirname(path)
            files.make_folder(folder)
            move(self._path, path)
            files.sync_folder(folder)
            self._release()
        return Entry(name, settled.bytes, settled.mtime_ns, settled.inode)

    def _settle(self, seal: Callable[[int], None] | None) -> Entry:
        """Seal and sync, once: a second fsync after one that failed would succeed over lost bytes."""
        if not self._closed:
            self._closed = True
            if seal is not None:
                seal(self._fd)
            files.sync(self._fd)
            self._entry = entry_of(self.temporary, os.fstat(self._fd))
        if self._entry is None or self._fd < 0:
            raise OSError(errno.EBADF, "it was published or discarded, or could not be synced")
        return self._entry

    def _is_own(self) -> bool:
        """Whether the temporary name is still this sink's file, and not another's or gone.

        Our file stays open as long as it is asked for: the inode of one closed and removed is soon another's.
        """
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(self._file, os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _release(self) -> None:
        self._closed = True
        second, self._direct = self._direct, None
        fd, self._fd = self._fd, -1
        try:
            if second is not None:
                os.close(second)
        finally:
            if fd >= 0:
                os.close(fd)
