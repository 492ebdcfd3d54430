"""Do one thing to many items on a few threads. What is done releases the interpreter, or nothing is won.

Knows nothing of files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

THREADS = max(2, min(4, os.cpu_count() or 1))
"""How many threads read one file: two keep a disk busy while checksums are computed, more help fast ones."""
WRITERS = 4
"""How many write one, however few cores there are: all but one may wait for the disk, which takes next to no core."""


def spread(items: Iterable[T], worker: Callable[[], Callable[[T], None]], *, threads: int) -> None:
    """Hand out ``items`` to threads, the calling one among them, and return when all are done.

    The first failure stops the others after the item that they are at, and is raised. Where the system starts no
    more threads, those that there are do the work.

    Args:
        items: Taken in order.
        worker: Called once on each thread; gives what is done to an item, with buffers of its own.
        threads: How many at most, the calling one included.
    """
    shared = _Shared(iter(items), worker)
    helpers = []
    for number in range(1, threads):
        helper = threading.Thread(target=shared.work, name=f"holdfast-{number}")
        try:
            helper.start()
        except RuntimeError:  # no more threads
            break
        helpers.append(helper)
    shared.work()
    for helper in helpers:
        helper.join()
    if shared.failure is not None:
        raise shared.failure


class _Shared(Generic[T]):
    """What the threads of one ``spread`` have in common.

    Args:
        items: What is left to do.
        worker: As in ``spread``.
    """

    def __init__(self, items: Iterator[T], worker: Callable[[], Callable[[T], None]]) -> None:
        self.failure: BaseException | None = None
        self._items = items
        self._worker = worker
        self._guard = threading.Lock()

    def work(self) -> None:
        """Do items until there are none, or one failed."""
        try:
            do = self._worker()
            for item in iter(self._next, None):
                do(item[0])
        except BaseException as error:  # of whatever kind and thread: the calling thread raises it
            with self._guard:
                self.failure = self.failure or error

    def _next(self) -> tuple[T] | None:
        with self._guard:
            return None if self.failure is not None else next(((item,) for item in self._items), None)
