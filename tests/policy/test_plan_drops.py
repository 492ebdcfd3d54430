"""A second name goes with the policy that gave it; the checkpoint and its other names stay."""

from __future__ import annotations

from dataclasses import replace

from holdfast.policy import plan as planning
from holdfast.policy.plan import BY_HAND, Policy
from holdfast.policy.values import Event, Moment, Progress, Record, Score
from holdfast.policy.when import every
from holdfast.policy.where import Where
from holdfast.policy.which import best, everything, last

ALL = Policy("all", every(steps=1), everything(), where=Where("a-{step}"))
BEST = Policy("best", every(steps=1), best(1, "loss"), where=Where("b-{step}"))
LAST = Policy("last", every(steps=1), last(1), where=Where(None, alias="{step}-last"))


def at(step, loss=0.0):
    progress = Progress(batch=step, batches=step, steps=step)
    return Moment(frozenset({Event.BATCH_END}), progress, {"loss": Score(loss, step)})


def first(*names, **changes):
    return Record(
        "one", names, run="r", sequence=1, progress=Progress(batch=1, batches=1, steps=1), scores={"loss": 1.0},
        policies=("all", "best", "last"), **changes,
    )  # fmt: skip


def decide(record, *policies, loss=0.5, **options):
    return planning.plan(policies, {}, at(2, loss), records=[record], run="r", taken=record.names, **options)


def test_the_name_of_a_rule_goes_when_the_rule_lets_go():
    """Another rule keeps the file, under the name that it gave."""
    plan = decide(first("a-step=1.ckpt", "b-step=1.ckpt"), ALL, BEST)
    assert plan.saves[0].names == ("a-step=2.ckpt", "b-step=2.ckpt")
    assert dict(plan.drops) == {"b-step=1.ckpt": "not kept by best by loss (min)"}
    assert plan.evict == {}


def test_a_name_stays_as_long_as_its_rule_keeps_the_checkpoint():
    """The older one is still the best."""
    assert decide(first("a-step=1.ckpt", "b-step=1.ckpt"), ALL, BEST, loss=2.0).drops == {}


def test_an_alias_with_a_field_goes_when_it_has_moved_on():
    """There is one newest, under one name."""
    plan = decide(first("a-step=1.ckpt", "step=1-last.ckpt"), ALL, LAST)
    assert plan.saves[0].names == ("a-step=2.ckpt", "step=2-last.ckpt")
    assert list(plan.drops) == ["step=1-last.ckpt"]


def test_a_version_of_a_name_goes_like_the_name():
    """It is the template's all the same."""
    assert list(decide(first("a-step=1.ckpt", "b-step=1-v1.ckpt"), ALL, BEST).drops) == ["b-step=1-v1.ckpt"]


def test_the_only_name_is_never_dropped():
    """A checkpoint that somebody keeps has a name."""
    plan = decide(first("b-step=1.ckpt"), replace(ALL, where=Where("b-{step}")), BEST)
    assert plan.drops == {}
    assert decide(replace(first("b-step=1.ckpt"), policies=("best", BY_HAND)), BEST).drops == {}


def test_nothing_of_what_is_pinned_or_was_resumed_from_is_dropped():
    """Somebody may hold on to that name."""
    names = ("a-step=1.ckpt", "b-step=1.ckpt")
    assert decide(first(*names, pinned=True), ALL, BEST).drops == {}
    assert decide(first(*names), ALL, BEST, protected={"one": "resumed from"}).drops == {}


def test_drops_are_broadcast_with_the_plan():
    """Every rank knows of them."""
    plan = decide(first("a-step=1.ckpt", "b-step=1.ckpt"), ALL, BEST)
    assert planning.from_json(planning.to_json(plan)).drops == plan.drops


def test_the_later_save_of_a_step_has_the_version_of_the_earlier_one_again():
    """It replaces that file, and takes no new number."""
    policy = Policy("all", every(steps=2) | every(epochs=1), everything(), where=Where("{epoch}"))
    older = Record(
        "one", ("epoch=0.ckpt",), run="r", sequence=1, progress=Progress(0, 2, False, 2, 2), policies=("all",)
    )
    same = Record(
        "two", ("epoch=0-v1.ckpt",), run="r", sequence=2, progress=Progress(0, 4, False, 4, 4), policies=("all",)
    )
    moment = Moment(frozenset({Event.TRAIN_EPOCH_END}), Progress(0, 4, True, 4, 4))
    plan = planning.plan(
        [policy], {}, moment, records=[older, same], run="r", taken=["epoch=0.ckpt", "epoch=0-v1.ckpt"]
    )
    assert plan.saves[0].names == plan.saves[0].moves == ("epoch=0-v1.ckpt",)
    assert list(plan.evict) == ["two"]
