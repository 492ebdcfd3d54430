"""Why each checkpoint is kept, and which goes next: tables over listings that no disk is needed for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from holdfast.catalog.folder import Listing
from holdfast.cli.kept import Kept, judge
from holdfast.policy.values import Progress, Record
from holdfast.policy.which import Which, best, every, everything, last, nothing
from making import run

R1, R2 = run(1).id, run(2).id


def record(
    id: str,
    step: int,
    *,
    of: str = R1,
    loss: float | None = None,
    policies: Sequence[str] = ("rules",),
    pinned: bool = False,
    label: str | None = None,
) -> Record:
    """A checkpoint of run 1, or of run 2."""
    return Record(
        id=id,
        names=(f"{id}.ckpt",),
        run=of,
        run_ordinal=int(of[0], 16),
        sequence=step,
        progress=Progress(steps=step),
        scores={} if loss is None else {"loss": loss},
        policies=tuple(policies),
        reason=f"saved at {step}",
        pinned=pinned,
        label=label,
    )


def listing(*records: Record, rules: Mapping[str, Which] | None = None, of: str = R1) -> Listing:
    """A folder whose ledger knows these rules of one run, or none."""
    known = {} if rules is None else {of: {name: which.to_json() for name, which in rules.items()}}
    return Listing(records=records, rules=known)


def whys(of: Listing) -> dict[str, str]:
    return {id: kept.why for id, kept in judge(of).items()}


def going(of: Listing) -> str:
    """Ids of those that go next, as one string."""
    return "".join(id for id, kept in judge(of).items() if kept.next_to_go)


THREE = (record("a", 100, loss=3), record("b", 200, loss=1), record("c", 300, loss=2))


@pytest.mark.parametrize(
    ("which", "ids"),
    [
        (best(3, "loss"), "a"),
        (best(3, "loss", "max"), "b"),
        (best(4, "loss"), ""),
        (best(2, "loss"), "ac"),  # a is kept by nothing already
        (last(3), "a"),
        (last(1), "abc"),
        (everything(), ""),
        (every(100), ""),
        (every(200), "ac"),
        (best(1, "loss") | last(1), "abc"),
        (best(1, "loss") | last(2), "ab"),
        (best(1, "loss") | last(1) | every(300), "ab"),
        (best(3, "loss") | everything(), ""),
        (nothing(), "abc"),
    ],
)
def test_next_to_go_is_what_one_more_that_is_better_and_newer_would_push_out(which: Which, ids: str) -> None:
    """The newcomer is first in every ranking and newest; what no rule keeps then, goes."""
    assert going(listing(*THREE, rules={"rules": which})) == ids


def test_each_ranking_meets_a_newcomer_that_is_best_in_its_own_eyes() -> None:
    """Two rules that want the opposite of one metric both lose their last place to somebody."""
    rules = {"rules": best(1, "loss") | best(1, "loss", "max")}
    assert going(listing(*THREE, rules=rules)) == "abc"


def test_an_equal_score_does_not_push_the_older_one_out() -> None:
    """Of two minus infinities the older is kept, so it does not go next."""
    assert going(listing(record("a", 1, loss=-math.inf), rules={"rules": best(1, "loss")})) == ""


def test_what_any_policy_keeps_does_not_go() -> None:
    """Each policy ranks the checkpoints that bear its name, and it takes all of them to let one go."""
    records = (
        record("a", 100, policies=("rules", "last")),
        record("b", 200, policies=("last",)),
        record("c", 300, policies=("rules",)),
    )
    folder = listing(*records, rules={"rules": last(2), "last": last(1)})
    assert whys(folder) == {"a": "last 2", "b": "last", "c": "last 2"}
    assert going(folder) == "ab"


def test_the_reason_is_that_of_now() -> None:
    """A checkpoint that was saved as the best and is second by now is called the second."""
    folder = listing(*THREE, rules={"rules": best(2, "loss") | every(200)})
    assert whys(folder) == {
        "a": "no rule keeps it any more",
        "b": "1st of 2 best by loss (min): 1; every 200 steps",
        "c": "2nd of 2 best by loss (min): 2",
    }


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (record("a", 1, policies=("by hand",)), "saved by hand"),
        (record("a", 1, policies=("by hand",), label="before"), "saved by hand: before"),
        (record("a", 1, policies=("by hand", "rules")), "saved by hand; last"),
        (record("a", 1, policies=("by hand",), pinned=True), "saved by hand; pinned"),
        (record("a", 1, pinned=True), "pinned; last"),
        (record("a", 1, pinned=True, label="mine"), "pinned: mine; last"),
        (record("a", 1, pinned=True, policies=()), "pinned"),
    ],
)
def test_what_the_user_wants_is_said_first_and_never_goes(one: Record, why: str) -> None:
    """Saved by hand or pinned: no rule lets it go, whatever comes."""
    assert judge(listing(one, rules={"rules": last(1)})) == {"a": Kept(why, next_to_go=False)}


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {R1: {}},
        {R1: {"other": last(1).to_json()}},
        {R1: {"rules": [{"rule": "of a later version"}]}},
        {R1: "nonsense"},
        {R1: {"rules": 7}},
    ],
)
def test_without_rules_it_is_said_why_it_was_saved(rules: object) -> None:
    """Nothing is made up: the reason is marked as that of the save, and nothing is said to go."""
    assert judge(Listing(records=(record("a", 7),), rules=rules)) == {"a": Kept("saved at 7 (when saved)")}


def test_a_policy_whose_rules_cannot_be_read_may_keep_anything() -> None:
    """Where one of its policies is not understood, a checkpoint is not said to go."""
    one = record("a", 7, policies=("rules", "later"))
    rules = {R1: {"rules": last(1).to_json(), "later": [{"rule": "new"}]}}
    assert judge(Listing(records=(one,), rules=rules)) == {"a": Kept("last", next_to_go=False)}


def test_a_policy_that_the_run_no_longer_has_keeps_nothing() -> None:
    """Its name on a checkpoint does not stop the policies that there are from letting it go, as in a plan."""
    one = record("a", 7, policies=("rules", "of old"))
    assert going(listing(one, rules={"rules": last(1)})) == "a"


def test_an_earlier_run_is_left_alone() -> None:
    """A run lets go only of its own, so no rule of the newest run concerns another's checkpoints."""
    old, new = record("a", 100), record("b", 50, of=R2)
    assert judge(listing(old, new, rules={"rules": last(1)}, of=R2)) == {
        "a": Kept("of an earlier run"),
        "b": Kept("last", next_to_go=True),
    }
    assert judge(listing(old, new, rules={"rules": last(1)}, of=R1)) == {
        "a": Kept("of an earlier run; last"),
        "b": Kept("saved at 50 (when saved)"),
    }
