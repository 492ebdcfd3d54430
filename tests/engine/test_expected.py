"""What a run will have saved once a save is durable: as the folder shows it then."""

from __future__ import annotations

from holdfast.engine.expected import expected
from holdfast.policy.plan import Amend, Plan, Save
from holdfast.policy.values import Moment, Progress, Record, Score
from holdfast.policy.what import full

OWN = [
    Record("a", ("a.ckpt",), run="r", sequence=1, policies=("p",), run_ordinal=3),
    Record("b", ("b.ckpt", "last.ckpt"), run="r", sequence=2, policies=("p", "last"), run_ordinal=3),
]
MOMENT = Moment(frozenset(), Progress(steps=9), {"loss": Score(0.5, 9), "old": Score(1.0, 3)})


def after(plan):
    """Id, names, policies and scores of each."""
    found = expected(OWN, plan, MOMENT, run="r", sequence=2)
    return [(r.id, r.names, r.policies, dict(r.scores)) for r in found]


def test_without_a_plan_nothing_changes():
    """Those that there are, as they are."""
    assert expected(OWN, Plan(), MOMENT, run="r", sequence=2) == OWN


def test_what_is_saved_is_there_and_what_it_replaces_is_not():
    """With its names, that of the alias which moves to it among them, and the scores of its own step."""
    save = Save(full, ("c.ckpt", "last.ckpt"), moves=("last.ckpt",), policies=("p", "last"), scores={"late": 2.0})
    assert after(Plan(saves=(save,), evict={"a": "3rd of 2"})) == [
        ("b", ("b.ckpt",), ("p", "last"), {}),
        ("expected 1", ("c.ckpt", "last.ckpt"), ("p", "last"), {"loss": 0.5, "late": 2.0}),
    ]
    (new,) = expected(OWN, Plan(saves=(save,)), MOMENT, run="r", sequence=2)[2:]
    assert (new.run, new.run_ordinal, new.sequence, new.progress.steps, new.what) == ("r", 3, 3, 9, "full")


def test_what_is_amended_has_what_was_added():
    """Names, policies and scores; a name that is dropped goes, but never the last one."""
    amend = Amend("a", ("best.ckpt",), policies=("q",), scores={"loss": 0.5})
    assert after(Plan(amends=(amend,), drops={"last.ckpt": "moved", "a.ckpt": "x"}))[0] == (
        "a", ("best.ckpt",), ("p", "q"), {"loss": 0.5},
    )  # fmt: skip
    assert after(Plan(drops={"a.ckpt": "x"}))[0][1] == ("a.ckpt",)
