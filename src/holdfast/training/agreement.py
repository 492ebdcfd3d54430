"""What all ranks must do at the same step, though only one of them may know of it: stop, answer a signal, keep time.

With one rank it is what that one knows. With many it is what rank 0 said last: they are asked about once a second, at
a batch that all of them count alike, and nothing changes in between. So whatever is decided from it is decided alike.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

from holdfast.engine.group import Group
from holdfast.errors import RankError
from holdfast.state.signals import Signals
from holdfast.training.reduction import Reduced

_SECONDS = 1.0
_MOST_BATCHES = 10_000


class Agreement:
    """The wishes of all ranks, and the time.

    Args:
        group: The ranks.
        signals: What this rank was sent.
        asked_to_stop: Whether somebody on this rank wants the fit to end.
        reduced: Which single values this rank has reduced with others.
    """

    def __init__(self, group: Group, signals: Signals, asked_to_stop: Callable[[], bool], reduced: Reduced) -> None:
        self._group, self._signals, self._asked_to_stop = group, signals, asked_to_stop
        self._reduced = reduced
        self._alone = group.size == 1
        self._began = time.monotonic()
        self._now = 0.0
        self._stop = False
        self._signal: signal.Signals | None = None
        self._batches, self._next = 0, 1
        self._polled_at = self._began

    @property
    def stop(self) -> bool:
        """Whether the fit is to end."""
        return self._asked_to_stop() if self._alone else self._stop

    @property
    def signal(self) -> signal.Signals | None:
        """The signal to answer, or None."""
        return self._signals.pending if self._alone else self._signal

    def now(self) -> float:
        """Seconds since the fit began."""
        return time.monotonic() - self._began if self._alone else self._now

    def count(self) -> None:
        """One more batch is done: on every rank, after the same batch."""
        if not self._alone:
            self._batches += 1
            if self._batches >= self._next:
                self.poll()

    def poll(self) -> None:
        """Ask all ranks now: every rank calls this at the same point.

        Raises:
            RankError: Ranks have reduced different values with each other: what was logged is none of them.
        """
        if self._alone:
            return
        pending = self._signals.pending
        own = [self._asked_to_stop(), pending and int(pending), self._reduced.told()]
        wishes = self._group.gather(own, phase="poll")
        said = self._group.broadcast(self._decide(wishes) if wishes else None, phase="poll")
        if said["differs"] is not None:
            rank, what = said["differs"]
            raise RankError(
                f"{what}: values of different metrics were taken for one.",
                rank=rank,
                phase="metrics",
                remedy="What is logged with sync_dist=True and on_step=True every rank logs at each step.",
            )
        self._stop, self._now = said["stop"], said["now"]
        self._signal = None if said["signal"] is None else signal.Signals(said["signal"])
        self._batches, self._next = 0, said["next"]

    def fail(self, error: BaseException) -> None:
        """Tell the others that this rank has failed, and what it has reduced until then."""
        self._group.fail(f"{type(error).__name__}: {error}", self._reduced.told())

    def _decide(self, wishes: list[list[Any]]) -> dict[str, object]:
        """On rank 0: what all are told."""
        now = time.monotonic()
        seconds, self._polled_at = max(now - self._polled_at, 1e-6), now
        each = seconds / max(self._batches, 1)
        return {
            "stop": any(stop for stop, _, _ in wishes),
            "signal": next((number for _, number, _ in wishes if number is not None), None),
            "differs": Reduced.difference([reduced for _, _, reduced in wishes]),
            "now": now - self._began,
            # Never many more than last time: a first batch that was quick by chance says little.
            "next": max(1, min(int(_SECONDS / each), 4 * max(self._next, 1), _MOST_BATCHES)),
        }
