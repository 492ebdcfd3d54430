"""Turn SIGTERM and SIGINT into a flag that a loop reads between steps. Saves and stops nothing itself."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from holdfast.errors import ConfigError

_Handler = Callable[[int, FrameType | None], Any] | int

_UNCATCHABLE = ("SIGKILL", "SIGSTOP")
_UP, _DOWN = b"1", b"0"


class Terminated(SystemExit):
    """What a fit ends with after SIGTERM: its state is durable, and the shell is told the signal."""


def exit_code(sig: int) -> int:
    """The exit code by which a shell knows that signal ``sig`` ended a process: 128 + its number."""
    return 128 + int(sig)


def stop(pending: signal.Signals) -> NoReturn:
    """End a loop as the signal would have ended it."""
    if pending is signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(exit_code(pending))


class _Sign:
    """What shows other processes, for as long as it is up, that this one answers some signals.

    Args:
        signals: Those.
    """

    up: _Sign | None = None
    """The one that was put up last, and is up."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self.signals, self._above = tuple(signals), _Sign.up
        make = getattr(os, "memfd_create", None)  # Linux's
        self._fd = -1 if make is None else make("holdfast-signals")
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        if make is not None:
            os.write(self._fd, _UP)
            _Sign.up = self

    def take_down(self) -> None:
        """From now on no other process takes this one for answering anything."""
        if self._fd >= 0:
            os.pwrite(self._fd, _DOWN, 0)
            os.close(self._fd)
            self._fd, _Sign.up = -1, self._above


class _StandingBy:
    """Lets a worker pass over the first signal that its parent answers; then calls what was to be called there."""

    def __init__(self, sign: _Sign, init: Callable[[int], None] | None) -> None:
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
        if not self._passed and os.pread(self._fd, 1, 0) == _UP:
            self._passed = True
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def standing_by(init: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """A ``worker_init_fn`` by which a worker outlives the first signal that this process answers now.

    A scheduler sends it to all processes of a job at once. This one still needs its workers: torch raises the death
    of one at whatever line the training is, and that may be in the middle of an optimizer's step.

    Args:
        init: What the user has the workers call; also what is returned where no signal is answered.
    """
    return init if _Sign.up is None else _StandingBy(_Sign.up, init)


class Signals:
    """A context in which the first signal only sets ``pending``, and a second one acts as without us.

    The first signal also writes one line to stderr that says what will happen. The second one, of any of the
    signals, puts the previous handlers back and delivers itself again: SIGTERM then usually ends the process
    and SIGINT raises ``KeyboardInterrupt``.

    A signal that is ignored when the context is entered (a background job's SIGINT, say) stays ignored.
    Handlers can be installed from the main thread only; elsewhere the context does nothing and ``installed``
    is False.

    In a forked child the first SIGINT is passed over in silence: a terminal sends it to every process at once, and
    the parent may still need this one. Any other signal acts there as if we were not there, but for a worker that
    stands by (``standing_by``).

    Args:
        signals: The signals to answer.

    Attributes:
        pending: The signal that came, or None. A plain attribute: reading it at each step costs nothing.
        installed: Whether any signal is answered by this object at present.

    Raises:
        ConfigError: One of the signals cannot be caught by any process.
    """

    def __init__(self, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        self._signals = tuple(signal.Signals(sig) for sig in signals)
        refused = [sig.name for sig in self._signals if sig.name in _UNCATCHABLE]
        if refused:
            raise ConfigError(
                f"no process can catch {' or '.join(refused)}.",
                remedy="Choose another signal, such as SIGTERM.",
            )
        self._previous: dict[signal.Signals, _Handler] = {}
        self._process = 0
        self._sign: _Sign | None = None
        self.pending: signal.Signals | None = None
        self.installed = False

    def __enter__(self) -> Signals:
        if self.installed:
            raise RuntimeError("these Signals are in use already: make another object for a nested context")
        self.pending = None
        self._process = os.getpid()
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for sig in self._signals:
                handler = signal.getsignal(sig)
                # None: a handler that was not set from Python, which Python could not put back.
                if handler is not None and handler != signal.SIG_IGN:
                    self._previous[sig] = handler
                    signal.signal(sig, self._answer)
        self.installed = bool(self._previous)
        self._sign = _Sign(self._previous) if self.installed else None
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._put_back()
        if self._sign is not None and os.getpid() == self._process:
            self._sign.take_down()

    def redeliver(self) -> None:
        """Deliver the pending signal once more, with the previous handlers back in place.

        To be called in the main thread, after the save: the process then ends as it would have without us,
        killed by SIGTERM or by a ``KeyboardInterrupt`` raised here. Where the previous handler lets the
        process live, this returns. Without a pending signal it does nothing.
        """
        if self.pending is not None:
            self._put_back()
            os.kill(os.getpid(), self.pending)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        sig = signal.Signals(number)
        forked = os.getpid() != self._process
        if not self.installed or self.pending is not None or (forked and sig != signal.SIGINT):
            self._put_back()
            # Ours or not: a handler that stands above ours and has called us would call us again for ever.
            signal.signal(sig, self._previous[sig])
            os.kill(os.getpid(), sig)
            return
        self.pending = sig
        if not forked:
            line = f"holdfast: {sig.name}: saving after this step, then stopping; send it again to stop at once\n"
            # A closed stderr must not raise at whatever line of the training this handler has interrupted.
            with contextlib.suppress(OSError):
                os.write(2, line.encode())

    def _put_back(self) -> None:
        for sig, handler in self._previous.items():
            # Whoever replaced our handler keeps theirs. Bound methods are equal, never identical.
            if signal.getsignal(sig) == self._answer:
                signal.signal(sig, handler)
        self.installed = False
