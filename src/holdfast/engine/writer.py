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

    Attributes:
        heard: Whether anybody has asked for its record, and so knows how it went.
    """

    def __init__(self, names: tuple[str, ...], durable: Future[Record | None], windows: Sequence[Window] = ()) -> None:
        self.names = names
        self.heard = False
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
        self.wait()  # interrupted here, nobody knows
        self.heard = True
        return self._durable.result()


Outcome = Record | None | Exception
"""What came of a save in one folder: its checkpoint, none where the step was there already, or why there is none."""


class Writer:
    """Runs one save at a time on a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="holdfast-writer")

    def begin(
        self,
        names: Sequence[tuple[str, ...]],
        job: Callable[[], Sequence[Outcome]],
        windows: Sequence[Window] = (),
    ) -> list[Ticket]:
        """Start ``job``, which reads in place through ``windows``. The caller has seen to it that none is running.

        Args:
            names: Those that it will give, for each folder.
            job: Returns what came of it in each.
            windows: What it reads in place.
        """
        waiting: list[Future[Record | None]] = [Future() for _ in names]

        def run() -> None:
            try:
                outcomes = job()
            except BaseException as error:  # whoever waits is to hear of it
                for one in waiting:
                    one.set_exception(error)
                return
            for one, outcome in zip(waiting, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    one.set_exception(outcome)
                else:
                    one.set_result(outcome)

        self._pool.submit(run)
        return [Ticket(own, one, windows) for own, one in zip(names, waiting, strict=True)]

    def close(self) -> None:
        """Wait for what runs, and end the thread."""
        self._pool.shutdown(wait=True)
