"""One rank of the group that test_group.py examines: says what it saw."""

from __future__ import annotations

import threading
import time

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from holdfast.engine.group import TorchGroup
from holdfast.errors import RankError

PATIENCE = 60.0  # seconds; only ever waited out by a test that fails
SHORT = 2.0
SENT = {"step": 3, "best": [0.5, None, True], "word": "holdfast", "tuple": (1, 2), "deep": {"a": {"b": []}}}


def failure_of(call):
    """The RankError that ``call`` raises, and the seconds that it took."""
    start = time.monotonic()
    try:
        call()
    except RankError as error:
        return {
            "rank": error.rank,
            "phase": error.phase,
            "text": str(error),
            "seconds": time.monotonic() - start,
        }
    return None


def broadcasts(group):
    values = [SENT, None, 7, "x", float("inf"), ["é", 2**60]]
    return [group.broadcast(value if group.rank == 0 else "not from here", phase="plan") for value in values]


def mailbox(group):
    box = group.mailbox
    box.post("result", {"from": group.rank})
    every = box.collect("result", deadline=PATIENCE)
    other = box.collect("result", ranks=[1 - group.rank], deadline=PATIENCE)
    group.barrier(phase="both have read")
    box.post("result", "again")
    group.barrier(phase="both have posted again")
    second = box.collect("result", deadline=PATIENCE)
    return {"every": list(every.items()), "other": list(other.items()), "second": list(second.items())}


def order(group):
    """Values that one rank posts under many keys, read by the other in the reverse order."""
    keys = [f"key {number}" for number in range(20)]
    for number, key in enumerate(keys):
        group.mailbox.post(key, [group.rank, number])
    read = [group.mailbox.collect(key, ranks=[1], deadline=PATIENCE)[1] for key in reversed(keys)]
    group.barrier(phase="read")
    return read


def barriers(group):
    """What the other rank had posted when each barrier let this one go; looks without waiting."""
    seen = []
    for number in range(30):
        group.mailbox.post("arrived", number)
        group.barrier(phase="step")
        seen.append(group.mailbox.collect("arrived", deadline=0.0)[1 - group.rank] >= number)
        group.barrier(phase="seen")
    return seen


def threads(group):
    """A collect in a thread, for what rank 1 posts only after the main threads have broadcast a lot."""
    if group.rank == 1:
        values = [group.broadcast(None, phase="poll") for _ in range(50)]
        group.mailbox.post("slow", "at last")
        return {"values": values}
    collected: dict[int, object] = {}
    started = threading.Event()

    def collect():
        started.set()
        collected.update(group.mailbox.collect("slow", ranks=[1], deadline=PATIENCE))

    thread = threading.Thread(target=collect)
    thread.start()
    started.wait()
    values = [group.broadcast(number, phase="poll") for number in range(50)]
    thread.join()
    return {"values": values, "collected": collected[1]}


def neighbours(group):
    """Someone else waits on torch's own connection for what rank 1 sets only after the broadcasts."""
    store, heard = _get_default_store(), []
    thread = threading.Thread(target=lambda: heard.append(store.get("not ours").decode()))
    if group.rank == 0:
        thread.start()
    values = [group.broadcast(number, phase="poll") for number in range(50)]
    if group.rank == 0:
        thread.join()
    else:
        store.set("not ours", "set")
    return {"values": values, "heard": heard}


def keys(group):
    """The keys in the store, counted by rank 0 while rank 1 rests, after few calls and after many."""

    def count_at_rest(name):
        resting, counted = f"{name}: rank 1 rests", f"{name}: rank 0 has counted"
        if group.rank == 1:
            group.mailbox.post(resting, None)
            group.mailbox.collect(counted, ranks=[0], deadline=PATIENCE)
            group.mailbox.clear(counted)
            return None
        group.mailbox.collect(resting, ranks=[1], deadline=PATIENCE)
        count = _get_default_store().num_keys()
        group.mailbox.clear(resting)
        group.mailbox.post(counted, None)
        return count

    def work(times):
        for number in range(times):
            group.broadcast(number, phase="plan")
            group.barrier(phase="commit")
            group.mailbox.post(f"save {number}", number)
            group.broadcast(number, phase="plan")
            group.mailbox.collect(f"save {number}", deadline=PATIENCE)
            group.barrier(phase="collected")
            if group.rank == 0:
                group.mailbox.clear(f"save {number}")

    work(3)
    few = count_at_rest("few")
    work(50)
    return {"few": few, "many": count_at_rest("many")}


def absent(group):
    """Rank 1 takes part in nothing until rank 0 has seen it missing everywhere."""
    short = TorchGroup(SHORT)
    seen = {}
    if short.rank == 0:
        seen["barrier"] = failure_of(lambda: short.barrier(phase="commit"))
        seen["broadcast"] = failure_of(lambda: short.broadcast(1, phase="plan"))
        short.mailbox.post("outcome 5", "mine")
        seen["collect"] = failure_of(lambda: short.mailbox.collect("outcome 5", deadline=0.5))
        group.mailbox.post("seen", None)
    short._deadline = PATIENCE  # what follows is no matter of seconds
    group.mailbox.collect("seen", ranks=[0], deadline=PATIENCE)
    if short.rank == 1:
        # It comes late: what rank 0 sent is still there for it, in order.
        short.barrier(phase="commit")
        seen["late"] = short.broadcast(None, phase="plan")
    seen["after"] = short.broadcast("together again" if short.rank == 0 else None, phase="plan")
    return seen


def wrong_thread(group):
    """The errors of the calls that belong to the main thread."""
    raised = []

    def call():
        for verb in (lambda: group.broadcast(1, phase="p"), lambda: group.barrier(phase="p")):
            try:
                verb()
            except RuntimeError as error:
                raised.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised


def main():
    """All that two ranks see of each other."""
    dist.init_process_group("gloo")
    group = TorchGroup(PATIENCE)
    checks = (broadcasts, mailbox, order, barriers, threads, neighbours, keys, absent, wrong_thread)
    seen = {"size": group.size, **{check.__name__: check(group) for check in checks}}
    group.barrier(phase="end")
    # Rank 0, which keeps the store, ends right after the barrier: rank 1 must be through it all the same.
    if group.rank == 1:
        seen["gone"] = failure_of(lambda: group.broadcast(None, phase="after the end"))
    return seen
