"""What the engine's view of other ranks promises: of one process, and of two real ones over gloo's store."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from holdfast.engine.group import Solo
from holdfast.errors import ConfigError, RankError

PATIENCE = 60.0  # seconds; what the children's other waits are allowed


@pytest.fixture(scope="module")
def ranks(launcher):
    """What each of two ranks saw, by rank."""
    return [rank.value for rank in launcher.run("engine.group_child:main", size=2)]


def test_a_broadcast_gives_every_rank_what_rank_0_sent(ranks):
    """Both ranks get rank 0's values, in order, as JSON gives them back, and nothing of rank 1's."""
    sent = {
        "step": 3,
        "best": [0.5, None, True],
        "word": "holdfast",
        "tuple": [1, 2],
        "deep": {"a": {"b": []}},
    }
    expected = [sent, None, 7, "x", float("inf"), ["é", 2**60]]
    assert [rank["size"] for rank in ranks] == [2, 2]
    assert [rank["broadcasts"] for rank in ranks] == [expected, expected]


def test_the_mailbox_gives_each_rank_the_posts_of_the_ranks_it_names(ranks):
    """All ranks by default, ascending; only the named ones otherwise; a second post replaces the first."""
    for rank, seen in enumerate(ranks):
        assert seen["mailbox"]["every"] == [[0, {"from": 0}], [1, {"from": 1}]]
        assert seen["mailbox"]["other"] == [[1 - rank, {"from": 1 - rank}]]
        assert seen["mailbox"]["second"] == [[0, "again"], [1, "again"]]


def test_posts_under_different_keys_can_be_read_in_any_order(ranks):
    """Keys are independent: reading them backwards gives each key's own value."""
    backwards = [[1, number] for number in reversed(range(20))]
    assert [seen["order"] for seen in ranks] == [backwards, backwards]


def test_no_rank_leaves_a_barrier_before_all_have_come(ranks):
    """After each of 30 barriers, what the other rank did before it can be seen without waiting."""
    assert [seen["barriers"] for seen in ranks] == [[True] * 30] * 2


def test_a_collect_in_a_thread_does_not_hold_up_the_main_thread(ranks):
    """Fifty broadcasts go through while a thread waits for a post that comes only after them."""
    assert [seen["threads"]["values"] for seen in ranks] == [list(range(50))] * 2
    assert ranks[0]["threads"]["collected"] == "at last"


def test_the_group_is_not_held_up_by_others_who_wait_on_the_same_store(ranks):
    """Broadcasts go through while torch's own connection is taken by a wait that ends only after them."""
    assert [seen["neighbours"]["values"] for seen in ranks] == [list(range(50))] * 2
    assert ranks[0]["neighbours"]["heard"] == ["set"]


def test_the_store_does_not_grow_with_the_number_of_calls(ranks):
    """Fifty more rounds of broadcasts, barriers and posts leave exactly as many keys as three did."""
    assert ranks[0]["keys"]["many"] == ranks[0]["keys"]["few"] > 0


@pytest.mark.parametrize(
    ("verb", "phase", "deadline"),
    [("barrier", "commit", 2.0), ("broadcast", "plan", 2.0), ("collect", "outcome 5", 0.5)],
)
def test_a_rank_that_does_not_come_is_named_when_the_deadline_passes(ranks, verb, phase, deadline):
    """Rank 0 raises a RankError with rank 1 and the phase, once that very deadline has passed."""
    error = ranks[0]["absent"][verb]
    assert (error["rank"], error["phase"]) == (1, phase)
    assert f"rank 1, {phase}" in error["text"]
    assert deadline <= error["seconds"] < PATIENCE


def test_a_late_rank_gets_what_it_was_sent_and_the_group_goes_on(ranks):
    """After a RankError on rank 0, rank 1 still gets what was sent, and the next broadcast reaches both."""
    assert ranks[1]["absent"]["late"] == 1
    assert [seen["absent"]["after"] for seen in ranks] == ["together again"] * 2


def test_broadcast_and_barrier_refuse_any_thread_but_the_main_one(ranks):
    """Both raise RuntimeError, which names the call, in another thread."""
    for seen in ranks:
        assert [error.split()[0] for error in seen["wrong_thread"]] == ["broadcast", "barrier"]


def test_a_rank_whose_store_is_gone_learns_it_from_a_rank_error(ranks):
    """Rank 0 ends right after the last barrier: rank 1 is through that, and its next call names rank 0."""
    error = ranks[1]["gone"]
    assert (error["rank"], error["phase"]) == (0, "after the end")
    assert "does not answer" in error["text"]
    assert error["seconds"] < PATIENCE


def test_solo_answers_at_once_as_a_larger_group_would():
    """One process gets its own values back, as JSON gives them, and needs nobody for a barrier."""
    group = Solo()
    group.barrier(phase="commit")
    assert (group.rank, group.size) == (0, 1)
    assert group.broadcast({"tuple": (1, 2), 3: None}, phase="plan") == {"tuple": [1, 2], "3": None}
    group.mailbox.post("result", (1, 2))
    assert group.mailbox.collect("result", deadline=0.0) == {0: [1, 2]}
    assert group.mailbox.collect("result", ranks=[], deadline=0.0) == {}


def test_solo_collects_what_another_thread_posts_later():
    """A collect that began before the post ends with it."""
    group = Solo()
    collected = {}
    collector = threading.Thread(target=lambda: collected.update(group.mailbox.collect("result", deadline=60)))
    collector.start()
    group.mailbox.post("result", "here")
    collector.join()
    assert collected == {0: "here"}


def test_solo_raises_for_what_was_never_posted_or_is_cleared():
    """Without a post, or after a clear, the deadline ends the wait with a RankError that names rank 0."""
    group = Solo()
    group.mailbox.post("old", 1)
    group.mailbox.clear("old")
    group.mailbox.clear("never posted")
    for key in ("old", "never posted"):
        with pytest.raises(RankError) as raised:
            group.mailbox.collect(key, deadline=0.01)
        assert (raised.value.rank, raised.value.phase) == (0, key)


def test_solo_knows_no_rank_but_0():
    """A rank that the group does not have is refused, not waited for."""
    with pytest.raises(ConfigError, match="group of 1"):
        Solo().mailbox.collect("result", ranks=[1], deadline=60)


@pytest.mark.parametrize("call", [lambda g: g.broadcast(1, phase="p"), lambda g: g.barrier(phase="p")])
def test_solo_refuses_the_same_threads_as_a_larger_group(call):
    """What would fail on many ranks fails on one, so that tests on one process find it."""
    raised = []

    def run():
        with pytest.raises(RuntimeError, match="main thread") as info:
            call(Solo())
        raised.append(info.value)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_the_module_does_not_import_torch():
    """The engine's Solo costs no import of torch: only TorchGroup asks for it."""
    code = "import sys, holdfast.engine.group; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
