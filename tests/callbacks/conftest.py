"""What tests of callbacks share: the values of a trainer that callbacks look at, and a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import struct
import termios
import threading
from types import SimpleNamespace

import pytest

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def make_trainer(**changes):
    """The values of a trainer in its first epoch, on one rank, without a validation."""
    values = {
        "config": SimpleNamespace(fast_dev_run=False, epoch_end_counts=lambda validates, limits: not validates),
        "loop": SimpleNamespace(evaluation=None, limits=None, batch=0),
        "strategy": SimpleNamespace(stepping=False),
        "saving": None,
        "logger": None,
        "should_stop": False,
        "current_epoch": 0,
        "callback_metrics": {},
        "progress_bar_metrics": {},
        "global_rank": 0,
        "world_size": 1,
        "is_global_zero": True,
        "num_training_batches": 4,
        "num_val_batches": [2],
        "num_sanity_val_batches": [1],
        "num_test_batches": [3],
        "num_predict_batches": [2, 1],
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def trainer():
    return make_trainer()


class Terminal:
    """A pseudo-terminal that is stdout, and everything that was written to it."""

    def __init__(self):
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.stream = io.TextIOWrapper(io.FileIO(slave, "w"), encoding="utf-8", line_buffering=True)
        self._chunks = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # how Linux says that the other side is closed
                return
            if not chunk:
                return
            self._chunks.append(chunk)

    def close(self):
        if not self.stream.closed:
            self.stream.close()
            self._reader.join()
            os.close(self._master)

    @property
    def raw(self):
        """All of it, once it is closed."""
        self.close()
        return b"".join(self._chunks).decode()

    @property
    def text(self):
        """All of it without what moves the cursor or colours."""
        return _CONTROL.sub("", self.raw)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    screen = Terminal()
    yield screen
    screen.close()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    """Make the terminal stdout for the test itself: what a fixture sets, pytest's own capture takes back."""
    screen = item.funcargs.get("terminal")
    if screen is None:
        return (yield)
    with contextlib.redirect_stdout(screen.stream):
        return (yield)


@pytest.fixture
def making():
    """Makes trainers' values."""
    return make_trainer
