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
from holdfast.state.standing_by import Sign

_Handler = Callable[[int, FrameType | None], Any] | int

_UNCATCHABLE = ("SIGKILL", "SIGSTOP")


class Terminated(SystemExit):
    """What training ends with after SIGTERM: its state is durable, and the shell is told the signal."""


def exit_code(sig: int) -> int:
    """The exit code by which a shell knows that signal ``sig`` ended a process: 128 + its number."""
    return 128 + int(sig)


def ended(code: int) -> SystemExit:
    """What a program ends with by an exit code that tells of a signal."""
    return Terminated(code) if code == exit_code(signal.SIGTERM) else SystemExit(code)


def stop(pending: signal.Signals) -> NoReturn:
    """End a loop as the signal would have ended it, its state durable."""
    if pending is signal.SIGINT:
        raise KeyboardInterrupt
    raise ended(exit_code(pending))


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
    stands by (see ``standing_by.py``).

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
        self._sign: Sign | None = None
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
        self._sign = Sign(self._previous) if self.installed else None
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
