"""What the engine knows of other ranks: a broadcast, a barrier and a mailbox. Uses no collective.

All that passes between ranks is small values in a key-value store, so that nothing can hang: each wait has a
deadline, and the ranks that did not come until then are named.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.errors import ConfigError, RankError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_PAUSES = (0.0005, 0.02)  # seconds between two looks at the store: the first, and the longest they grow to


class Mailbox(Protocol):
    """Values that ranks leave for each other. Usable from any thread; no rank waits to post.

    A value is whatever JSON can hold, and comes back as JSON gives it: tuples as lists, keys as strings.
    """

    def post(self, key: str, value: Any) -> None:
        """Leave ``value`` under ``key`` and this rank, replacing what this rank left there before."""

    def collect(
        self, key: str, *, ranks: Iterable[int] | None = None, deadline: float, phase: str = ""
    ) -> dict[int, Any]:
        """Wait until each of ``ranks`` (None: all) has posted under ``key``; return the values by rank.

        The values stay there. When ``deadline``, in seconds from now, passes first, this raises ``RankError``
        with the phase (``key``, where none is given), which names every rank that has not posted.
        """

    def clear(self, key: str) -> None:
        """Remove what all ranks posted under ``key``: for one rank to call, once nobody collects it."""


class Group(Protocol):
    """The ranks that save and resume together. ``broadcast`` and ``barrier`` belong to the main thread.

    Every rank calls the two in the same order. Both raise ``RuntimeError`` in another thread and, when the
    group's deadline passes, ``RankError``, which names the phase and the missing ranks.
    """

    rank: int
    size: int
    patience: float | None
    """Seconds for which this rank may let the others wait in a collective; None where there are none."""
    mailbox: Mailbox

    def broadcast(self, value: Any, *, phase: str) -> Any:
        """Give rank 0's ``value`` to every rank; the others' is ignored. Rank 0 returns once all have it.

        The value is one that JSON can hold; what JSON makes of it comes back, on rank 0 too. ``phase`` says
        what the ranks are doing, such as ``plan``: for errors, and equal on all ranks.
        """

    def barrier(self, *, phase: str) -> None:
        """Return once every rank has called this too; ``phase`` as in ``broadcast``."""

    def gather(self, value: Any, *, phase: str) -> list[Any]:
        """Every rank's ``value`` by rank, on rank 0; an empty list elsewhere, where nothing is waited for.

        As ``broadcast``, for the main thread and values that JSON can hold.
        """

    def fail(self, words: str, note: Any = None) -> None:
        """Tell the others that this rank has failed: who waits for it stops waiting, and so does this rank itself.

        From any thread; afterwards each wait here raises ``RankError`` at once. ``note`` is for ``failed``.
        """

    def failure(self) -> tuple[int, str] | None:
        """The rank that failed first, as far as any has said so, and its words. Waits for nobody."""

    def failed(self, seconds: float) -> dict[int, Any]:
        """After ``fail``: the notes of all ranks that have failed too, or do within that time. The rest is silent."""


class Solo:
    """The group of one process."""

    rank, size = 0, 1
    patience: float | None = None

    def __init__(self) -> None:
        self.mailbox: Mailbox = _MemoryMailbox()

    def broadcast(self, value: Any, *, phase: str) -> Any:
        """Return what JSON makes of ``value``, as a larger group would."""
        _require_main_thread("broadcast", phase)
        return json.loads(json.dumps(value))

    def barrier(self, *, phase: str) -> None:
        """Return."""
        _require_main_thread("barrier", phase)

    def gather(self, value: Any, *, phase: str) -> list[Any]:
        """What JSON makes of ``value``, as a larger group would give it."""
        _require_main_thread("gather", phase)
        return [json.loads(json.dumps(value))]

    def fail(self, words: str, note: Any = None) -> None:
        """There is nobody to tell."""

    def failure(self) -> None:
        """Nobody else can have failed."""

    def failed(self, seconds: float) -> dict[int, Any]:
        """There is nobody else."""
        return {}

    def __reduce__(self) -> tuple[type[Solo], tuple[()]]:
        return Solo, ()


class TorchGroup:
    """The group of torch.distributed's default process group, over its key-value store.

    Each rank makes the same number of these, in the same order. One that has raised ``RankError`` may go on:
    what the missing rank was sent waits for it.

    Args:
        deadline: Seconds that ``broadcast`` and ``barrier`` wait for other ranks.

    Raises:
        ConfigError: The deadline is not positive and finite.
        ValueError: There is no default process group yet (torch's own error).
    """

    def __init__(self, deadline: float = 600.0) -> None:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

        if not 0 < deadline < float("inf"):
            raise ConfigError(f"the deadline of a group is a positive, finite number of seconds, not {deadline!r}.")
        self.rank, self.size, self._deadline = dist.get_rank(), dist.get_world_size(), deadline
        self.patience: float | None = deadline / 4
        with _naming_rank_0("group"):
            # A connection of our own: a store answers one call at a time, and others may wait on theirs.
            store = _get_default_store().clone()  # type: ignore[attr-defined]  # torch's stubs lack it
            store.set_timeout(timedelta(seconds=deadline))
            # Counted in the store: it can outlive a process group, and with it an earlier group's last keys.
            ordinal = store.add(f"holdfast/groups/{self.rank}", 1)
        prefix = f"holdfast/{ordinal}"
        failed = PrefixStore(f"{prefix}/failed", store)
        self._over = threading.Event()
        own, mail = PrefixStore(f"{prefix}/own", store), PrefixStore(f"{prefix}/mail", store)
        self._own = _StoreMailbox(own, failed, self._over, self.rank, self.size)
        self.mailbox: Mailbox = _StoreMailbox(mail, failed, self._over, self.rank, self.size)
        self._failed = failed
        self._calls = 0
        self._spent: tuple[str, ...] = ()

    def broadcast(self, value: Any, *, phase: str) -> Any:
        """Give rank 0's ``value`` to every rank, see ``Group``."""
        key = self._next("broadcast", phase)
        if self.rank == 0:
            self._own.post(key, value)
        received = self._own.collect(key, ranks=[0], deadline=self._deadline, phase=phase)[0]
        self._leave(key, phase)
        return received

    def barrier(self, *, phase: str) -> None:
        """Return once every rank has called this too, see ``Group``."""
        key = self._next("barrier", phase)
        self._own.post(key, None)
        self._own.collect(key, deadline=self._deadline, phase=phase)
        self._leave(key, phase)

    def gather(self, value: Any, *, phase: str) -> list[Any]:
        """Every rank's ``value`` on rank 0, see ``Group``."""
        key = self._next("gather", phase)
        self._own.post(key, value)
        if self.rank != 0:
            return []
        values = self._own.collect(key, deadline=self._deadline, phase=phase)
        self._own.clear(key)
        return [values[rank] for rank in range(self.size)]

    def fail(self, words: str, note: Any = None) -> None:
        """Tell the others, see ``Group``. Where the store is gone, so is whoever would hear it."""
        self._over.set()
        with suppress(RankError), _naming_rank_0("fail"):
            # The first to fail is the cause; what comes after it is a consequence.
            self._failed.compare_set("first", "", json.dumps([self.rank, words]))
            self._failed.set(str(self.rank), json.dumps(note))

    def failure(self) -> tuple[int, str] | None:
        """Who failed first, see ``Group``."""
        with suppress(RankError), _naming_rank_0("failure"):
            return _failure(self._failed)
        return None

    def failed(self, seconds: float) -> dict[int, Any]:
        """The notes of those that have failed, see ``Group``."""
        end, ranks = time.monotonic() + seconds, range(self.size)
        with _naming_rank_0("failed"):
            while not self._failed.check([str(rank) for rank in ranks]) and time.monotonic() < end:
                time.sleep(_PAUSES[1])
            return {rank: json.loads(self._failed.get(str(rank))) for rank in ranks if self._failed.check([str(rank)])}

    def _next(self, verb: str, phase: str) -> str:
        _require_main_thread(verb, phase)
        self._calls += 1
        return f"{self._calls}/{verb}/{phase}"

    def _leave(self, key: str, phase: str) -> None:
        """Let rank 0 return last: the store may live in its process, which may end right afterwards."""
        receipt = f"{key}/done"
        if self.rank == 0:
            self._own.collect(receipt, ranks=range(1, self.size), deadline=self._deadline, phase=phase)
            self._own.remove(key, 0)
        else:
            # Rank 0 is in this call, so it has all receipts of the one before, and nobody waits there.
            for old in self._spent:
                self._own.remove(old, self.rank)
            self._spent = (key, receipt)
            self._own.post(receipt, None)


class _MemoryMailbox:
    """The mailbox of one process, whose threads post to each other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._posted: dict[str, str] = {}

    def post(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._changed:
            self._posted[key] = text
            self._changed.notify_all()

    def collect(
        self, key: str, *, ranks: Iterable[int] | None = None, deadline: float, phase: str = ""
    ) -> dict[int, Any]:
        wanted = _wanted(ranks, 1)
        with self._changed:
            if wanted and not self._changed.wait_for(lambda: key in self._posted, deadline):
                raise _missing(wanted, wanted, deadline, phase or key)
            return {rank: json.loads(self._posted[key]) for rank in wanted}

    def clear(self, key: str) -> None:
        with self._changed:
            self._posted.pop(key, None)


class _StoreMailbox:
    """A mailbox in a key-value store. Each call on the store is short, so threads can share it."""

    def __init__(self, store: Store, failed: Store, over: threading.Event, rank: int, size: int) -> None:
        self._store, self._failed, self._over, self._rank, self._size = store, failed, over, rank, size

    def post(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        with _naming_rank_0(key):
            self._store.set(f"{key}/{self._rank}", text)

    def collect(
        self, key: str, *, ranks: Iterable[int] | None = None, deadline: float, phase: str = ""
    ) -> dict[int, Any]:
        wanted, phase = _wanted(ranks, self._size), phase or key
        end, pause = time.monotonic() + deadline, _PAUSES[0]
        with _naming_rank_0(phase):
            # ``Store.wait`` would keep out other threads, and Python's signal handlers for as long.
            while wanted and not self._store.check([f"{key}/{rank}" for rank in wanted]):
                if time.monotonic() >= end:
                    absent = [rank for rank in wanted if not self._store.check([f"{key}/{rank}"])]
                    if absent:
                        raise _missing(absent, wanted, deadline, phase)
                failure = _failure(self._failed)
                if failure is not None and (self._over.is_set() or self._has_failed(wanted)):
                    raise RankError(failure[1], rank=failure[0], phase=phase)
                time.sleep(pause)
                pause = min(pause * 1.5, _PAUSES[1])
            return {rank: json.loads(self._store.get(f"{key}/{rank}")) for rank in wanted}

    def _has_failed(self, wanted: list[int]) -> bool:
        """Whether any of these ranks has, be it only in consequence of another's failure: it will not answer."""
        return any(self._failed.check([str(rank)]) for rank in wanted)

    def clear(self, key: str) -> None:
        for rank in range(self._size):
            self.remove(key, rank)

    def remove(self, key: str, rank: int) -> None:
        with _naming_rank_0(key):
            self._store.delete_key(f"{key}/{rank}")


def _failure(store: Store) -> tuple[int, str] | None:
    """The rank that failed first, and its words."""
    if not store.check(["first"]):
        return None
    rank, words = json.loads(store.get("first"))
    return rank, words


def _wanted(ranks: Iterable[int] | None, size: int) -> list[int]:
    wanted = sorted(set(range(size) if ranks is None else ranks))
    if not set(wanted) <= set(range(size)):
        raise ConfigError(f"ranks {wanted} are not all in a group of {size}.")
    return wanted


def _missing(absent: list[int], wanted: list[int], deadline: float, phase: str) -> RankError:
    others = f", nor did rank {', '.join(map(str, absent[1:]))}" if absent[1:] else ""
    return RankError(
        f"did not answer within {deadline:g} s{others} ({len(wanted) - len(absent)} of {len(wanted)} did).",
        rank=absent[0],
        phase=phase,
        remedy="See that rank's own output for why; if it is only slow, raise the deadline.",
    )


@contextmanager
def _naming_rank_0(phase: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # torch.distributed's own errors are RuntimeErrors; only calls on its store stand inside.
        raise RankError(
            f"the key-value store of torch.distributed does not answer: {str(error).splitlines()[0]}",
            rank=0,
            phase=phase,
            remedy="It lives in the process of rank 0, or in its launcher: see whether that one has ended.",
        ) from error


def _require_main_thread(verb: str, phase: str) -> None:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{verb} ({phase}) was called outside the main thread; use the mailbox there")
