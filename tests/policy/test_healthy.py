"""A checkpoint whose weights are not finite ranks nowhere, and is not what the last healthy one may go for."""

from __future__ import annotations

from dataclasses import replace

from holdfast.policy.plan import Policy, plan
from holdfast.policy.values import Event, Moment, Progress, Record, Score
from holdfast.policy.when import every as due_every
from holdfast.policy.which import best, last


def record(step, *, healthy=True, loss=None):
    """A checkpoint of one policy's."""
    return Record(
        id=f"{step:032x}",
        names=(f"step={step}.ckpt",),
        run="run",
        run_ordinal=1,
        sequence=step,
        progress=Progress(batches=step, steps=step),
        scores={} if loss is None else {"loss": loss},
        policies=("rules",),
        healthy=healthy,
    )


def test_sick_weights_do_not_rank():
    """The better score of a sick one keeps nothing, and is not the best."""
    good, sick = record(1, loss=0.5), record(2, healthy=False, loss=0.1)
    assert list(best(1, "loss").keep([good, sick])) == [good.id]
    assert best(1, "loss").best_of([good, sick]) == good


def test_where_all_are_sick_none_is_the_best_by_a_score():
    """A rule that ranks calls none of them the best; one that does not still says which is the newest."""
    sick = [record(1, healthy=False, loss=0.1), record(2, healthy=False, loss=0.2)]
    assert (best(1, "loss") | last(1)).best_of(sick) is None
    assert last(1).best_of(sick) == sick[1]
    assert last(2).best_of([record(1), sick[1]]).healthy


def test_the_newest_healthy_checkpoint_stays_where_nothing_new_is_saved():
    """A plan that only adds to a sick checkpoint lets the healthy one before it stay, whatever the rules say."""
    good, sick = record(1), record(2, healthy=False)
    policy = Policy("rules", due_every(steps=1), last(1))
    moment = Moment(frozenset({Event.VALIDATION_END, Event.BATCH_END}), sick.progress, {"loss": Score(0.1, 2)})
    decided = plan([policy], {}, moment, records=[good, sick], run="run")
    assert decided.saves == ()
    assert decided.amends
    assert good.id not in decided.evict
    assert good.id in plan([policy], {}, moment, records=[good, replace(sick, healthy=True)], run="run").evict
