"""One background thread that makes saves durable, one at a time, and the tickets by which one waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from holdfast.engine.fence import Window
from holdfast.policy.values import Record


class Ticket:
    """A save under way.

    Args:
        names: The names that it will have.
        durable: Resolves to its record, or to what went wrong.
        windows: What it reads in place.
    """

    def __init__(self, names: tuple[str, ...], durable: Future[Record | None], windows: Sequence[Window] = ()) -> None:
        self.names = names
        self._durable = durable
        self._windows = windows

    @classmethod
    def failed(cls, names: tuple[str, ...], error: Exception) -> Ticket:
        """A save that failed before there was anything to write."""
        durable: Future[Record | None] = Future()
        durable.set_exception(error)
        return cls(names, durable)

    @property
    def staged(self) -> bool:
        """Whether the state may change in any way. A step of an optimizer waits for it by itself."""
        return all(window.read for window in self._windows)

    def fence(self) -> None:
        """Wait until the state may change; call it on the thread that changes it.

        Where other ranks wait for this one it does not take for ever: what has not been read by then is given up.
        """
        for window in self._windows:
            window.fence()

    @property
    def durable(self) -> bool:
        """Whether it is over: a loss of power loses nothing of it, or it has failed."""
        return self._durable.done()

    def wait(self) -> None:
        """Return when it is over, well or not."""
        for window in self._windows:
            window.wait()
        wait([self._durable])

    @property
    def record(self) -> Record | None:
        """The checkpoint; None where the step was on disk already. Waits until it is durable.

        Raises:
            SaveFailed: It did not become one.
        """
        self.wait()
        return self._durable.result()


class Writer:
    """Runs one save at a time on a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="holdfast-writer")

    def begin(self, names: tuple[str, ...], job: Callable[[], Record | None], windows: Sequence[Window] = ()) -> Ticket:
        """Start ``job``, which reads in place through ``windows``. The caller has seen to it that none is running."""
        return Ticket(names, self._pool.submit(job), windows)

    def close(self) -> None:
        """Wait for what runs, and end the thread."""
        self._pool.shutdown(wait=True)
