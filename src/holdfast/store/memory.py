"""Keep bytes under names in this process's memory, for tests. Nothing here outlives the process."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from typing_extensions import Buffer, Self

from holdfast.store.base import Entry, Lock, Traits, temporary_name
from holdfast.store.failures import checked_line, checked_name, checked_range, reported

_inodes = itertools.count(1)


@dataclass(eq=False)
class _Object:
    """What one or more names stand for; ``sealed`` once published, as a local file is read-only."""

    data: bytearray
    sealed: bool = False
    inode: int = field(default_factory=lambda: next(_inodes))
    mtime_ns: int = field(default_factory=time.time_ns)

    def entry(self, name: str) -> Entry:
        return Entry(name, len(self.data), self.mtime_ns, self.inode)

    def require_unsealed(self) -> None:
        if self.sealed:
            raise OSError(errno.EACCES, "it was published, and is read-only")


class MemoryStore:
    """A store in memory that answers as ``LocalStore`` does, failures for misuse included.

    Each instance is a place of its own; threads may share it. A lock is held against all in this process.
    """

    def __init__(self) -> None:
        self.root = "memory:"
        self.traits = Traits(links=True, append=True, locks=True)
        self._guard = threading.RLock()
        self._objects: dict[str, _Object] = {}
        self._folders: set[str] = set()
        self._locked: set[str] = set()

    def prepare(self) -> None:
        """Do nothing: there is nothing to make."""

    def list(self) -> Iterator[Entry]:
        """Every object at this moment."""
        with self._guard:
            entries = [kept.entry(name) for name, kept in self._objects.items()]
        yield from entries

    def stat(self, name: str) -> Entry | None:
        """The entry of that name, or None."""
        checked_name("stat", name)
        with self._guard:
            kept = self._objects.get(name)
            return None if kept is None else kept.entry(name)

    def open(self, name: str) -> MemoryReader:
        """Open for reading. What is open stays readable if its name goes."""
        checked_name("open", name)
        with self._guard, reported("open", name):
            return MemoryReader(name, self._found(name))

    def create(self, name: str, *, owner: str, size: int) -> MemorySink:
        """Begin an object of ``size`` bytes that is to become ``name``."""
        checked_name("create", name)
        temporary = temporary_name(name, owner)
        with self._guard, reported("create", name):
            self._make_folders(temporary)
            self._objects[temporary] = begun = _Object(bytearray(size))
        return MemorySink(self, temporary, begun)

    def put(self, name: str, data: bytes) -> Entry:
        """Make a small object, replacing what is there."""
        checked_name("put", name)
        with self._guard, reported("put", name):
            return self._bind(name, _Object(bytearray(data)), replace=True)

    def append(self, name: str, data: bytes) -> None:
        """Add whole lines to the end of ``name``, starting on a line of their own."""
        checked_name("append to", name)
        checked_line(name, data)
        with self._guard, reported("append to", name):
            kept = self._objects.get(name)
            if kept is None:
                self._bind(name, _Object(bytearray(data)), replace=True)
                return
            kept.require_unsealed()
            if kept.data and not kept.data.endswith(b"\n"):
                kept.data += b"\n"
            kept.data += data
            kept.mtime_ns = time.time_ns()

    def link(self, source: str, name: str, *, replace: bool) -> Entry:
        """Give the object ``source`` a second name."""
        checked_name("link", source)
        checked_name("link", name)
        with self._guard:
            with reported("link", source):
                kept = self._found(source)
            with reported("link", name):
                return self._bind(name, kept, replace=replace)

    def remove(self, name: str) -> None:
        """Remove one name. A name that is gone already is no error; a folder is one."""
        checked_name("remove", name)
        with self._guard, reported("remove", name):
            if name in self._folders:
                raise OSError(errno.EISDIR, "it is a folder")
            self._objects.pop(name, None)

    def lock(self, name: str) -> Lock | None:
        """Take the lock ``name`` without waiting, or return None where it is held."""
        checked_name("lock", name)
        with self._guard, reported("lock", name):
            kept = self._objects.get(name) or _Object(bytearray())
            kept.require_unsealed()
            if name in self._locked:
                return None
            self._bind(name, kept, replace=True)
            kept.data[:] = f"process {os.getpid()}\n".encode()
            self._locked.add(name)
        return MemoryLock(self, name)

    def _found(self, name: str) -> _Object:
        if name in self._folders:
            raise OSError(errno.EISDIR, "it is a folder")
        self._require_folders(name)
        if name not in self._objects:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._objects[name]

    def _bind(self, name: str, kept: _Object, *, replace: bool) -> Entry:
        """Make ``name`` stand for ``kept``; the folders above it come to be, as on a disk, and stay."""
        self._make_folders(name)
        if not replace and (name in self._objects or name in self._folders):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if name in self._folders:
            raise OSError(errno.EISDIR, "it is a folder")
        self._objects[name] = kept
        return kept.entry(name)

    def _make_folders(self, name: str) -> None:
        self._require_folders(name)
        self._folders.update(_above(name))

    def _require_folders(self, name: str) -> None:
        for folder in _above(name):
            if folder in self._objects:
                raise OSError(errno.ENOTDIR, f"'{folder}' is not a folder")


class MemoryReader:
    """An open object, as long as it was when it was opened.

    Args:
        name: The name that it was opened by.
        kept: The object.
    """

    def __init__(self, name: str, kept: _Object) -> None:
        self.bytes = len(kept.data)
        self._name = name
        self._kept: _Object | None = kept

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept = None

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` (writable, contiguous) from ``offset``."""
        if target.nbytes:
            target.cast("B")[:] = self.read_at(offset, target.nbytes)

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""
        with reported("read", self._name):
            checked_range(offset, length, self.bytes)
            if self._kept is None:
                raise OSError(errno.EBADF, "it was closed")
            return bytes(self._kept.data[offset : offset + length])

    def mapped(self) -> None:
        """Nothing: what is in memory is read by copying it."""


class MemorySink:
    """An object being written under its temporary name.

    Args:
        store: Where it is kept.
        temporary: Its temporary name.
        begun: The object.
    """

    def __init__(self, store: MemoryStore, temporary: str, begun: _Object) -> None:
        self.temporary = temporary
        self._store = store
        self._begun = begun
        self._open = True

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of ``data`` (contiguous) at ``offset``."""
        view = memoryview(data)
        with self._store._guard, reported("write", self.temporary):
            if not self._open or self._begun.sealed:
                raise OSError(errno.EBADF, "it was published or discarded")
            if view.nbytes:
                if offset < 0:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                kept = self._begun.data
                kept.extend(bytes(max(0, offset - len(kept))))
                kept[offset : offset + view.nbytes] = view.cast("B")
                self._begun.mtime_ns = time.time_ns()

    def sync(self) -> None:
        """Seal it: nothing is written after it."""
        with self._store._guard, reported("sync", self.temporary):
            if not self._open:
                raise OSError(errno.EBADF, "it was published or discarded")
            self._begun.sealed = True

    def publish(self, name: str, *, replace: bool) -> Entry:
        """Make it visible as ``name``."""
        checked_name("publish", name)
        store = self._store
        with store._guard, reported("publish", name):
            if not self._open:
                raise OSError(errno.EBADF, "it was published or discarded")
            self._begun.sealed = True
            if store._objects.get(self.temporary) is not self._begun:
                raise OSError(errno.ESTALE, f"its temporary object '{self.temporary}' was taken over")
            entry = store._bind(name, self._begun, replace=replace)
            del store._objects[self.temporary]
            self._open = False
            return entry

    def discard(self) -> None:
        """Give the space back. Does nothing after ``publish`` or a first ``discard``."""
        with self._store._guard:
            if self._store._objects.get(self.temporary) is self._begun:
                del self._store._objects[self.temporary]
            self._open = False


class MemoryLock:
    """A lock of a ``MemoryStore``.

    Args:
        store: Where it is held.
        name: Its name.
    """

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store: MemoryStore | None = store
        self._name = name

    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._store is not None

    def release(self) -> None:
        """Let go. A second call does nothing."""
        store, self._store = self._store, None
        if store is not None:
            with store._guard:
                store._locked.discard(self._name)


def _above(name: str) -> list[str]:
    """The folders that ``name`` is in, outermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
