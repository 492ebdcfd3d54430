"""Make the operating system fail at its n-th call, refuse an operation, or tell in what order it was called.

Only functions of the ``os`` module are replaced, and only inside a ``with`` block. The calls of other threads
in that time are counted too, so name the ``functions`` narrowly where other threads are at work.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# All through which a store can change or reach a disk.
CHANGING = (
    "open",
    "mkdir",
    "posix_fallocate",
    "ftruncate",
    "pwrite",
    "write",
    "fchmod",
    "fsync",
    "close",
    "rename",
    "link",
    "unlink",
)
_ON_DESCRIPTORS = {"posix_fallocate", "ftruncate", "pwrite", "write", "fchmod", "fsync", "close", "preadv"}
_ON_TWO_PATHS = {"rename", "link"}


@dataclass(frozen=True)
class Call:
    """One call: the function's name, and the inode of the file or the path that it was to change or make."""

    function: str
    target: int | str


@dataclass
class Calls:
    """What was called, in order: ``done`` by the system, and the one that ``failed`` instead."""

    done: list[Call] = field(default_factory=list)
    failed: Call | None = None

    def functions(self) -> list[str]:
        """The names of the functions that were done, in order."""
        return [call.function for call in self.done]

    def in_order(self, *expected: Call) -> bool:
        """Whether all of these were done in this order, whatever else was done between them."""
        remaining = iter(self.done)
        return all(call in remaining for call in expected)


@dataclass(frozen=True)
class Failure:
    """One trial of ``each_failure``: what the system was made to answer, and what came of it."""

    code: int
    calls: Calls
    caught: OSError | None


@contextmanager
def watching(functions: Sequence[str] = CHANGING) -> Iterator[Calls]:
    """Record the calls made in the block."""
    with _intercepting(functions, lambda _call, _count: None) as calls:
        yield calls


@contextmanager
def failing_at(
    number: int, code: int, *, functions: Sequence[str] = CHANGING, at_most: int | None = None
) -> Iterator[Calls]:
    """Let the ``number``-th call (from 1) in the block raise ``OSError(code)``; nothing is done in its stead.

    ``at_most`` makes every write a short one of at most so many bytes. A ``close`` that fails closes
    nevertheless, as it does on Linux.
    """
    with _intercepting(functions, lambda _call, count: code if count == number else None, at_most) as calls:
        yield calls


@contextmanager
def refusing(**codes: int) -> Iterator[Calls]:
    """Let every call of the functions named raise ``OSError`` with that code, as in ``link=errno.EPERM``."""
    with _intercepting(tuple(codes), lambda call, _count: codes[call.function]) as calls:
        yield calls


@contextmanager
def unreadable(*paths: str | os.PathLike[str], code: int = errno.EACCES) -> Iterator[Calls]:
    """Let these files refuse to be opened, by whichever name; or, with ``errno.EIO``, to be read once they are open."""
    inodes = {Path(path).stat().st_ino for path in paths}

    def decide(call: Call, _count: int) -> int | None:
        target = inode(str(call.target)) if call.function == "open" else call.target
        return code if target in inodes else None

    def inode(path: str) -> int:
        try:
            return Path(path).stat().st_ino
        except OSError:  # none yet, or none any more
            return -1

    with _intercepting(("preadv",) if code == errno.EIO else ("open",), decide) as calls:
        yield calls


@contextmanager
def short_writes(at_most: int) -> Iterator[Calls]:
    """Let no single write in the block write more than ``at_most`` bytes."""
    with _intercepting(("pwrite", "write"), lambda _call, _count: None, at_most) as calls:
        yield calls


def each_failure(
    operation: Callable[[], object],
    *,
    scene: Callable[[], object],
    codes: Sequence[int] = (errno.ENOSPC, errno.EIO),
    functions: Sequence[str] = CHANGING,
    at_most: int | None = None,
) -> Iterator[Failure]:
    """Run ``operation`` with its first call failing, then its second, until none fails; for each code.

    ``scene`` is called before each run, and sets up what the operation starts from. Yields after each run in
    which a call failed; what ``operation`` raises in one where none did is raised.
    """
    for code in codes:
        for number in itertools.count(1):
            scene()
            caught: OSError | None = None
            with failing_at(number, code, functions=functions, at_most=at_most) as calls:
                try:
                    operation()
                except OSError as error:
                    if calls.failed is None:
                        raise
                    caught = error
            if calls.failed is None:
                break
            yield Failure(code, calls, caught)


@dataclass
class Stall:
    """Calls that the system does not answer until it is let ``go``; ``reached`` when the first has come."""

    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def hold(self, _call: Call, _count: int) -> None:
        """Wait."""
        self.reached.set()
        assert self.go.wait(60), "whoever holds lets go"


@contextmanager
def stalled(*functions: str) -> Iterator[Stall]:
    """Let every call of these functions take until it is let go, as a disk does that does not answer."""
    stall = Stall()
    with _intercepting(functions, stall.hold):
        try:
            yield stall
        finally:
            stall.go.set()


@contextmanager
def _intercepting(
    functions: Sequence[str], decide: Callable[[Call, int], int | None], at_most: int | None = None
) -> Iterator[Calls]:
    calls = Calls()
    counter = itertools.count(1)
    guard = threading.Lock()
    real = {name: getattr(os, name) for name in functions if hasattr(os, name)}

    def replacement(name: str) -> Callable[..., object]:
        @functools.wraps(real[name])
        def call(*args: object, **named: object) -> object:
            with guard:
                made = Call(name, _target(name, args))
                code = decide(made, next(counter))
                if code is None:
                    calls.done.append(made)
                else:
                    calls.failed = made
            if code is not None:
                if name == "close":
                    real[name](*args)
                raise OSError(code, os.strerror(code))
            if at_most is not None and name in {"pwrite", "write"}:
                args = (args[0], memoryview(args[1])[:at_most], *args[2:])
            return real[name](*args, **named)

        return call

    for name in real:
        setattr(os, name, replacement(name))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def _target(name: str, args: tuple) -> int | str:
    if name in _ON_DESCRIPTORS:
        try:
            return os.fstat(args[0]).st_ino
        except OSError:  # a closed one: the real function will say so
            return -1
    return os.fspath(args[1] if name in _ON_TWO_PATHS else args[0])
