"""Work is handed out to threads once each; a failure stops it and is raised."""

from __future__ import annotations

import threading

import pytest

from holdfast.catalog.parallel import spread


def test_every_item_is_done_once_and_workers_are_per_thread():
    """Each thread has a worker of its own, and so a buffer of its own."""
    together = threading.Barrier(3, timeout=30)
    done, workers = [], []

    def worker():
        workers.append(threading.current_thread())
        together.wait()
        return lambda item: done.append(item)

    spread(range(100), worker, threads=3)
    assert sorted(done) == list(range(100))
    assert len(set(workers)) == 3
    assert threading.current_thread() in workers


def test_a_failure_stops_the_others_and_is_raised():
    """From another thread too: the caller hears of the first, and no item is begun after it was noted."""
    begun, failed = [], threading.Event()

    def do(item):
        begun.append(item)
        if item == 5:
            failed.set()
            raise OSError("the fifth")
        assert item < 5 or failed.wait(30)

    with pytest.raises(OSError, match="the fifth"):
        spread(range(1000), lambda: do, threads=2)
    assert len(begun) < 20
    assert [t for t in threading.enumerate() if t.name.startswith("holdfast-1")] == []


def test_a_failing_worker_or_iterator_is_raised():
    """Whatever goes wrong is told."""

    def items():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        spread(items(), lambda: lambda item: None, threads=2)

    def worker():
        raise MemoryError("no buffer")

    with pytest.raises(MemoryError, match="no buffer"):
        spread([1], worker, threads=2)


def test_the_caller_works_alone_where_no_thread_starts(monkeypatch):
    """At the end of the interpreter, or of what the system allows."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []
    spread(range(10), lambda: done.append, threads=4)
    assert done == list(range(10))
