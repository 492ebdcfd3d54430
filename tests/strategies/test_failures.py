"""One rank fails, and no other waits for it for ever: each ends, with that rank's error, and what was saved stands."""

from __future__ import annotations

import pytest

from holdfast.catalog.verify import Verdict, verify
from holdfast.store import LocalStore
from scale import sample

SOON = 80.0  # seconds; whoever takes so long hangs
AT_ONCE = 4  # groups of ranks

QUICK = [
    (strategy, how, where, 2)
    for strategy in ("ddp", "fsdp")
    for how in ("raises", "dies")
    for where in ("training", "validation", "save")
] + [("ddp", "raises", "save", 3), ("fsdp", "raises", "training", 3)]
SLOW = [
    (strategy, how, where, 2)
    for strategy in ("ddp", "fsdp")
    for how, where in (("sleeps", "training"), ("sleeps", "validation"), ("sleeps", "save"), ("lacks", "training"))
]
CASES = [*sample(QUICK, 8), *sample(SLOW, 4)]


@pytest.fixture(scope="module")
def failed(ranks, tmp_path_factory):
    """What each rank of each case has left, and the folder of its checkpoints."""
    folders = {case: tmp_path_factory.mktemp("-".join(map(str, case))) for case in CASES}

    def begin(case):
        return ranks.begin("failures:fit", *case[:3], str(folders[case]), case[3], size=case[3], patience=SOON)

    waiting = {case: begin(case) for case in CASES if case in SLOW}  # while they wait, others can fail
    seen = {}
    for first in range(0, len(CASES), AT_ONCE):
        begun = {case: begin(case) for case in CASES[first : first + AT_ONCE] if case not in waiting}
        seen |= {case: (folders[case], group.end(ok=False)) for case, group in begun.items()}
    return seen | {case: (folders[case], group.end(ok=False)) for case, group in waiting.items()}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request, failed):
    """One of them."""
    return (*request.param, *failed[request.param])


def test_pain_43_every_rank_ends_and_none_as_if_all_were_well(case):
    """They have waited no longer than ranks wait for each other, and not even that where the failure is heard of."""
    _, how, _, _, _, ended = case
    *others, last = ended
    assert last.code == (-9 if how == "dies" else 1)
    assert [rank.code for rank in others] == [1] * len(others)


def test_pain_43_the_others_name_the_rank(case):
    """One that raises with its words, one that is dead or asleep as silent, one that lacks a metric with its name."""
    _, how, _, size, _, ended = case
    for rank, one in enumerate(ended[:-1]):
        if how == "raises":
            assert f"rank {size - 1} failed first: ValueError: on purpose" in one.log, rank
        elif how == "lacks":
            assert f"rank {size - 1} has logged 'loss' 5 times, and rank 0 6 times" in one.log, rank
        else:
            assert (
                f"rank {size - 1} does not say that anything has failed" in one.log or f"rank {size - 1}, " in one.log
            )
        assert "was not saved: rank 0, save/" not in one.log


def test_what_is_listed_verifies_and_ddp_leaves_a_rescue(case):
    """The checkpoint of step 3 stands; where rank 0 holds the whole state, the newest one is on disk too."""
    strategy, _, where, _, folder, _ = case
    store = LocalStore(folder)
    names = sorted(path.name for path in folder.glob("*.ckpt"))
    assert "epoch=0-step=3.ckpt" in names
    for name in names:
        with store.open(name) as reader:
            assert verify(reader).verdict is Verdict.WHOLE
    newest = 5 if where == "training" else 6
    if strategy == "ddp":
        assert any(f"step={newest}.ckpt" in name for name in names)
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_the_run_goes_on(failed, ranks):
    """The same call again goes on from what is newest, on one rank fewer."""
    folder, _ = next(failed[case] for case in CASES if case[0] == "ddp" and case[2] == "save")
    (one,) = ranks.run("failures:go_on", str(folder), 1, size=1)
    assert one.value == [6, 12]


def test_rank_0_ends_when_the_others_have_heard_which_rank_failed(ranks, tmp_path):
    """It heard itself from the mailbox, in a save, and the store with the words may live in its process."""
    for one in ranks.begin("failures:late", str(tmp_path), 3, size=3, patience=SOON).end(ok=False)[:2]:
        assert "rank 2 failed first: ValueError: on purpose" in one.log
