"""Workers of loaders that outlive the first signal which the process that trains answers. Linux only.

A scheduler sends it to all processes of a job at once. The one that trains still needs its workers: torch raises the
death of one at whatever line the training is, and that may be in the middle of an optimizer's step.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType

_UP, _DOWN = b"1", b"0"


class Sign:
    """What shows other processes, for as long as it is up, that this one answers some signals.

    Args:
        signals: Those.
    """

    up: Sign | None = None
    """The one that was put up last, and is up."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self.signals, self._above = tuple(signals), Sign.up
        make = getattr(os, "memfd_create", None)  # Linux's
        self._fd = -1 if make is None else make("holdfast-signals")
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        if make is not None:
            os.write(self._fd, _UP)
            Sign.up = self

    def take_down(self) -> None:
        """From now on no other process takes this one for answering anything."""
        if self._fd >= 0:
            os.pwrite(self._fd, _DOWN, 0)
            os.close(self._fd)
            self._fd, Sign.up = -1, self._above


class _StandingBy:
    """Lets a worker pass over the first signal that its parent answers; then calls what was to be called there."""

    def __init__(self, sign: Sign, init: Callable[[int], None] | None) -> None:
        self._path, self._signals, self._init = sign.path, sign.signals, init
        self._fd, self._passed = -1, False

    def __call__(self, worker: int) -> None:
        with contextlib.suppress(OSError):  # a system that shows no other processes: the signal ends it, as ever
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            for sig in self._signals:
                signal.signal(sig, self._answer)
        if self._init is not None:
            self._init(worker)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if os.pread(self._fd, 1, 0) == _DOWN:
            os._exit(0)  # its parent ends it, or nobody needs it: whatever else it ended with, torch raises there
        if not self._passed:
            self._passed = True
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def standing_by(init: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """A ``worker_init_fn`` by which a worker outlives the first signal that this process answers now.

    Args:
        init: What the user has the workers call; also what is returned where no signal is answered.
    """
    return init if Sign.up is None else _StandingBy(Sign.up, init)
