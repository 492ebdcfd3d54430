"""What a place to keep bytes under names must offer. Bytes and names only: a store knows no checkpoint.

Names are relative to the store's root, parts joined by ``/``; ``..``, empty parts and backslashes are refused
with ``errno.EINVAL``. An operation that fails raises ``StoreError`` with the operation and the path, and
leaves what stood before as it was. Nothing here is retried and nothing is swallowed.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from typing_extensions import Buffer

LINKER = "link"
"""The owner in the temporary names that ``Store.link`` makes."""

PROBE = "probe"
"""The owner in the temporary names that ``Store.prepare`` makes; whoever finds one may remove it at any time."""

REMOVER = "removed"
"""The owner in the temporary names of folders that are being removed; whoever finds one may go on with it."""


@dataclass(frozen=True)
class Traits:
    """What differs between stores, declared rather than found out.

    Args:
        links: Two names can share one object (a hard link); otherwise ``link`` copies.
        append: ``append`` adds to an object; otherwise each appended piece becomes an object of its own.
        locks: ``lock`` keeps other processes out; otherwise it only keeps out this process.
    """

    links: bool
    append: bool
    locks: bool


@dataclass(frozen=True)
class Entry:
    """One name in a store.

    Args:
        name: Relative to the root.
        bytes: Size of the object.
        mtime_ns: When it was last written, in nanoseconds. For noticing change only: nothing is ordered by
            it.
        inode: Equal for two names of one object, different for two objects.
    """

    name: str
    bytes: int
    mtime_ns: int
    inode: int


class Reader(AbstractContextManager["Reader"], Protocol):
    """An open object. Several threads may read at once."""

    bytes: int

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` (writable, contiguous) from ``offset``.

        Raises ``StoreError`` with ``errno.ENODATA`` where bytes are missing.
        """
        ...

    def read_at(self, offset: int, length: int) -> builtins.bytes:
        """``length`` bytes from ``offset``; fails as ``read_into`` does."""
        ...

    def mapped(self) -> Buffer | None:
        """All of it as memory that is read when it is touched, and outlives the reader; None where it cannot be had.

        It is writable and private: what is written to it stays there. Bytes that cannot be read when they are touched
        end the process, so read them with ``read_into`` before.
        """
        ...


class Sink(Protocol):
    """An object being written, invisible to ``list``'s callers as a checkpoint until it is published.

    Several threads may write at once, to ranges that do not overlap.
    """

    temporary: str

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of ``data`` (contiguous) at ``offset``.

        Fastest where it is writable memory and memory, offset and length are multiples of ``mmap.PAGESIZE``: a
        store may then hand it to the disk as it is.
        """
        ...

    def sync(self) -> None:
        """Make all that was written durable under the temporary name, as ``publish`` does first of all.

        Nothing can be written after it. Raises ``StoreError`` again where an earlier attempt failed.
        """
        ...

    def publish(self, name: str, *, replace: bool) -> Entry:
        """Make everything written durable, then visible as ``name``, then make the name durable.

        After it returns, a loss of power loses neither; the object can be replaced and removed, but no longer
        written to. When it raises, ``name`` is what it was before, unless the failure is of a step after the
        name was made (dropping the temporary name, the folder's fsync): then ``name`` is the new object,
        whole.

        Args:
            name: The final name; missing folders are made.
            replace: Whether an object of that name may be replaced, atomically. If not, and there is one,
                raises ``StoreError`` with ``errno.EEXIST`` and the sink can still be published under another
                name.
        """
        ...

    def discard(self) -> None:
        """Give the space back. Does nothing after ``publish`` or a first ``discard``."""
        ...


class Lock(Protocol):
    """A lock that is held until released; the death of the process releases it."""

    def held(self) -> bool:
        """Whether it still keeps others out: it can get lost with its file, or by a network file system."""
        ...

    def release(self) -> None:
        """Let go. A second call does nothing."""
        ...


@runtime_checkable
class Store(Protocol):
    """A place that keeps bytes under names.

    ``root`` is for people: a path or URL to print and to join with a name.
    """

    root: str
    traits: Traits

    def prepare(self) -> None:
        """Make the root if it is missing, and find out early that it cannot be written to."""
        ...

    def list(self) -> Iterator[Entry]:
        """Every object below the root, temporary ones included, in no order. A missing root has none."""
        ...

    def stat(self, name: str) -> Entry | None:
        """The entry of that name, or None."""
        ...

    def open(self, name: str) -> Reader:
        """Open for reading. What is open stays readable if its name goes."""
        ...

    def create(self, name: str, *, owner: str, size: int) -> Sink:
        """Begin an object of ``size`` bytes that is to become ``name``.

        The space is reserved where the store can, so that a full disk is noticed before anything is written.
        Its temporary name is ``temporary_name(name, owner)``; one left there by an earlier life of the owner
        is replaced. A sink whose temporary object was removed, or replaced so, cannot be published.
        """
        ...

    def put(self, name: str, data: bytes) -> Entry:
        """Make a small object, atomically and durably, replacing what is there."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Add ``data``, whole lines, to the end of ``name``, durably.

        Raises ``StoreError`` with ``errno.EINVAL`` unless ``data`` ends with a newline. A failure or a crash
        may leave none, a part or all of it at the end; a part stays on a line of its own, because what is
        appended next begins a new one. Readers skip empty and torn lines.
        """
        ...

    def link(self, source: str, name: str, *, replace: bool) -> Entry:
        """Give the object ``source`` a second name, durably; ``replace`` as in ``Sink.publish``.

        Where the store has no links the object is copied, durably. Replacing a name of the very same object
        does nothing.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove one name, durably. A name that is gone already is no error; a folder is one."""
        ...

    def lock(self, name: str) -> Lock | None:
        """Take the lock ``name`` without waiting, or return None where another holds it."""
        ...


@runtime_checkable
class FolderStore(Store, Protocol):
    """A store whose names can also stand for folders of objects, which appear and go as a whole."""

    def is_folder(self, name: str) -> bool:
        """Whether ``name`` is a folder itself, and not a link to one."""
        ...

    def inside(self, name: str) -> list[Entry]:
        """Every object below the folder ``name``, which may be a link to one; none where there is no such folder."""
        ...

    def place_folder(self, temporary: str, name: str) -> None:
        """Make a folder of durable objects visible as ``name``, durably and as a whole.

        Raises ``StoreError`` with ``errno.EEXIST`` where the name is taken; the folder keeps its own then.
        """
        ...

    def exchange_folder(self, temporary: str, name: str) -> None:
        """Make a folder of durable objects visible as ``name``, in place of the folder of that name, which goes.

        At every moment one of them has the name. Raises ``StoreError`` with ``errno.ENOSYS`` where that cannot be had;
        nothing is changed then.
        """
        ...

    def point(self, source: str, name: str, *, replace: bool) -> None:
        """Give the folder ``source`` a second name, durably; ``replace`` as in ``link``, but no folder is replaced."""
        ...

    def pointers(self, folder: str) -> list[str]:
        """Second names of folders that lie right in ``folder``; the root is ``""``."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove a folder, durably: as a whole before any object of it. One that is gone already is no error."""
        ...


def temporary_name(name: str, owner: str) -> str:
    """The name of ``name`` while ``owner`` writes it: in the same folder, hidden, and saying whose it is."""
    assert owner, "an owner has a name"
    assert not set(owner) & {".", "/"}, "an owner is read back from between the last dots of the name"
    folder, _, base = name.rpartition("/")
    hidden = f".{base}.{owner}.tmp"
    return f"{folder}/{hidden}" if folder else hidden


def temporary_owner(name: str) -> str | None:
    """Who writes the temporary object ``name``; None where ``name`` is no temporary one."""
    base = name.rpartition("/")[2]
    if not (base.startswith(".") and base.endswith(".tmp")):
        return None
    parts = base[1 : -len(".tmp")].rsplit(".", 1)
    return parts[1] if len(parts) == 2 and parts[1] else None
