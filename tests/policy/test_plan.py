"""What a plan saves, amends and evicts: one table or story for each rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from holdfast.policy.plan import BY_HAND, Amend, Policy, Save
from holdfast.policy.values import Event, Progress, Record, Request, Score, Tally
from holdfast.policy.what import full, weights_only
from holdfast.policy.when import at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import Which, best, everything, last, nothing, pinned
from holdfast.policy.which import every as every_steps
from modelled_run import (
    BATCH,
    EPOCH,
    FIT,
    RUN,
    SIGNAL,
    TIME,
    VALIDATION,
    Disk,
    Training,
    newest,
    on_disk,
    rules,
)


@pytest.mark.parametrize(
    ("which", "measured", "saves", "armed"),
    [
        (last(1), {}, True, False),
        (last(1), {"loss": 1.0}, True, False),
        (everything(), {}, True, False),
        (nothing(), {}, False, False),
        (best(1, "loss"), {"loss": 1.0}, True, False),
        (best(1, "loss"), {}, False, True),
        (best(1, "loss"), {"other": 1.0}, False, True),
        (best(1, "loss"), {"loss": math.nan}, False, False),
        (best(1, "loss") | best(1, "other"), {"other": 1.0}, True, False),
        (best(1, "loss") | last(1), {}, True, True),
        (best(1, "loss") | last(1), {"loss": 1.0}, True, False),
        (best(1, "loss") | every_steps(10), {}, True, True),
        (best(1, "loss") | every_steps(11), {}, False, True),
        (best(1, "loss") | pinned(), {}, False, True),
    ],
)
def test_a_trigger_saves_now_or_waits_for_a_score(
    which: Which, measured: dict[str, float], saves: bool, armed: bool
) -> None:
    """Rules that need no score save at once, those that need one wait for it, a mixture does both."""
    decided = Training([rules(which, every(steps=10))]).save(10, **measured)
    assert bool(decided.saves) is saves
    assert decided.tallies["rules"].armed == ("every 10 steps" if armed else None)
    assert decided.tallies["rules"].fired.steps == 10


def test_an_armed_policy_saves_the_step_at_which_validation_ran() -> None:
    """The score belongs to the weights that were validated, so those are saved, and it waits no longer."""
    training = Training([rules(best(1, "loss"), every(steps=10))])
    assert not training.save(10).acts
    assert not training.save(13).acts
    (save,) = training.at(14, loss=0.5).happen(VALIDATION).saves
    assert save == Save(
        full,
        ("epoch=0-step=14.ckpt",),
        policies=("rules",),
        scores={"loss": 0.5},
        reason="every 10 steps; best by loss (min): 0.5",
    )
    assert training.tallies["rules"] == Tally(Progress(0, 10, False, 10, 10), None)
    assert not training.at(15, loss=0.1).happen(VALIDATION).acts


def test_a_validation_that_does_not_measure_the_metric_makes_no_file() -> None:
    """Nothing ranks, nothing is saved for that rule, and the plan says so."""
    training = Training([rules(best(1, "loss"), every(steps=10))])
    training.save(10)
    decided = training.at(10, other=1.0).happen(VALIDATION)
    assert not decided.acts
    assert decided.declined == {"rules": "every 10 steps: not kept by best by loss (min)"}
    assert decided.tallies["rules"].armed is None


def test_all_that_is_due_waits_for_the_validation_of_this_very_step() -> None:
    """One save serves the whole step, score included; what is not due is not drawn in."""
    training = Training([rules(best(1, "loss")), newest(), Policy("other", never(), last(1))])
    waiting = training.at(10).happen(BATCH, follows=True)
    assert not waiting.acts
    assert {name for name, tally in waiting.tallies.items() if tally.armed} == {"rules", "last"}
    (save,) = training.at(10, loss=0.5).happen(VALIDATION).saves
    assert save.policies == ("rules", "last")
    assert save.scores == {"loss": 0.5}


def test_what_was_armed_before_makes_a_step_wait_as_well() -> None:
    """The armed policy will save at this step's validation, so what is due now saves with it."""
    training = Training([rules(best(1, "loss"), every(steps=7)), newest(every(steps=10))])
    training.save(7)
    assert not training.at(10).happen(BATCH, follows=True).acts
    (save,) = training.at(10, loss=0.5).happen(VALIDATION).saves
    assert save.policies == ("rules", "last")


def test_nothing_waits_where_nobody_needs_the_score() -> None:
    """A validation that no armed policy waits for delays no save."""
    assert Training([newest()]).at(10).happen(BATCH, follows=True).saves


@pytest.mark.parametrize("request_", [SIGNAL, Request("crash", Event.EXCEPTION)])
def test_a_request_saves_now_and_arms_nobody(request_: Request) -> None:
    """What may be the last chance does not wait for a score; without one the ranked rule declines."""
    training = Training([rules(best(1, "loss"), never()), newest(never())]).at(10)
    decided = training.happen(BATCH, requests=[request_], follows=True)
    assert [(s.policies, s.reason) for s in decided.saves] == [(("last",), request_.reason)]
    assert decided.declined == {"rules": f"{request_.reason}: not kept by best by loss (min)"}
    assert all(tally == Tally() for tally in decided.tallies.values())


def test_a_clock_is_a_trigger_like_any_other() -> None:
    """When its time has come the alias saves at once, and the ranked rule is armed for the next validation."""
    training = Training([rules(best(1, "loss"), never()), newest(never())])
    (save,) = training.at(10).happen(BATCH, requests=[TIME]).saves
    assert save.policies == ("last",)
    assert training.tallies["rules"].armed == TIME.reason
    (save,) = training.at(12, loss=0.5).happen(VALIDATION).saves
    assert save.policies == ("rules", "last")


def test_a_request_is_served_now_though_others_would_wait() -> None:
    """A signal's save does not wait for a validation that a killed process never runs."""
    training = Training([rules(best(1, "loss")), newest()]).at(10)
    (save,) = training.happen(BATCH, requests=[SIGNAL], follows=True).saves
    assert save.policies == ("last",)
    assert training.tallies["rules"].armed


def test_a_request_for_one_policy_concerns_only_that_one() -> None:
    """The others neither save nor decline."""
    training = Training([rules(last(2), never()), newest(never())]).at(10)
    decided = training.happen(BATCH, requests=[replace(SIGNAL, policy="last")])
    assert [s.policies for s in decided.saves] == [("last",)]
    assert not decided.declined


@pytest.mark.parametrize("request_", [SIGNAL, TIME])
def test_a_request_does_not_swallow_the_trigger_of_the_same_step(request_: Request) -> None:
    """The rule that fired by itself still gets the next validation's score."""
    training = Training([rules(best(1, "loss"), every(steps=10)), newest(never())]).at(10)
    training.happen(BATCH, requests=[request_])
    assert training.tallies["rules"].armed == "every 10 steps"
    assert training.at(11, loss=1.0).happen(VALIDATION).saves[0].policies == ("rules", "last")


def test_a_request_does_not_put_off_the_next_trigger() -> None:
    """Only a policy's own trigger counts as its firing."""
    training = Training([rules(last(1), every(epochs=1))]).at(10).epoch_over()
    training.happen(BATCH, requests=[SIGNAL])
    assert training.tallies["rules"].fired == Progress()
    assert training.happen(EPOCH).tallies["rules"].fired == training.progress


def test_all_policies_with_one_what_share_one_write() -> None:
    """I7: four policies, two Whats, two files, own names before aliases; a second look writes none."""
    training = Training(
        [
            newest(),
            rules(best(1, "loss")),
            Policy("weights", every(steps=1), last(3), weights_only, Where("weights-{step}")),
            Policy("more", every(steps=1), last(3), full, Where("more-{step}")),
        ]
    )
    decided = training.save(10, loss=0.5)
    assert [(s.what, s.names, s.moves, s.policies) for s in decided.saves] == [
        (
            full,
            ("epoch=0-step=10.ckpt", "more-step=10.ckpt", "last.ckpt"),
            ("last.ckpt",),
            ("last", "rules", "more"),
        ),
        (weights_only, ("weights-step=10.ckpt",), (), ("weights",)),
    ]
    assert not training.happen(BATCH).acts


def test_an_alias_follows_every_save_of_its_what() -> None:
    """``last`` points at the newest there is, whoever asked for it; but not at a file of other content."""
    training = Training([rules(last(2), every(steps=10)), newest(never())])
    assert training.save(10).saves[0].policies == ("rules", "last")
    weights = Training([rules(last(2), every(steps=10), what=weights_only), newest(never())])
    assert weights.save(10).saves[0].policies == ("rules",)
    ranked = Policy("best", never(), best(1, "loss"), full, Where(None, alias="best"))
    unscored = Training([rules(last(2)), ranked]).save(10)
    assert unscored.saves[0].policies == ("rules",)
    assert not unscored.declined


def test_the_reason_names_the_triggers_and_the_ranks_once_each() -> None:
    """The log line says why, without repeating itself, and without the alias that goes along."""
    policies = [rules(best(3, "loss") | last(2)), Policy("more", every(steps=1), last(2)), newest(never())]
    (save,) = Training(policies).save(10, loss=0.5).saves
    assert save.reason == "every step; 1st of 3 best by loss (min): 0.5; last 2"


def test_an_alias_that_is_due_as_well_adds_no_reason() -> None:
    """Its triggers hold those of the ranked one again; where it alone is due, they are the reason."""
    policies = [rules(last(1), when=every(steps=2)), newest(every(steps=2) | at(Event.BATCH_END))]
    training = Training(policies)
    assert [training.save(step).saves[0].reason for step in (1, 2)] == ["at batch end", "every 2 steps; last"]


def test_a_step_on_disk_is_not_written_again_at_fit_end() -> None:
    """Identical progress and What: there is nothing to do, not even an eviction, and NaN is no news twice."""
    training = Training([rules(last(1)), newest()])
    training.save(10, loss=math.nan)
    training.metrics["loss"] = Score(float("nan"), 10)
    training.disk.put(on_disk("old", 5))
    decided = training.happen(FIT)
    assert not decided.acts
    assert not decided.evict


def test_a_step_on_disk_with_other_content_is_written() -> None:
    """Weights alone are no answer to who wants everything."""
    training = Training([rules(last(1))])
    training.disk.put(on_disk("weights", 10, what="weights only"))
    assert [s.what for s in training.save(10).saves] == [full]


def test_a_late_score_is_added_to_the_step_on_disk() -> None:
    """The validation of a step that was saved already writes a line, not a file."""
    training = Training([rules(best(1, "loss") | last(1), template="{step}-{loss:.2f}"), newest()])
    training.save(10)
    decided = training.at(10, loss=0.5).happen(VALIDATION)
    assert decided.amends == (Amend("#1", scores={"loss": 0.5}),)
    assert not decided.saves
    assert not training.happen(FIT).acts


@pytest.mark.parametrize(("score", "left"), [(0.9, ["a", "#1"]), (0.1, ["#1"]), (0.5, ["a", "#1"])])
def test_a_late_score_changes_the_ranks(score: float, left: list[str]) -> None:
    """What would have gone with the score known from the start goes now; of equals the older stays."""
    training = Training([rules(best(1, "loss") | last(1))])
    training.disk.put(on_disk("a", 5, scores={"loss": 0.5}))
    training.save(10)
    training.at(10, loss=score).happen(VALIDATION)
    assert training.disk.ids == left


def test_the_newest_checkpoint_is_not_evicted_without_a_newer_one() -> None:
    """I5: even if its score, measured again, is worse than that of one which is kept for other reasons."""
    training = Training([rules(best(1, "loss"))])
    training.disk.put(on_disk("a", 5, scores={"loss": 0.5}, pinned=True))
    training.save(10, loss=0.1)
    assert training.at(10, loss=0.9).happen(FIT).amends == (Amend("#1", scores={"loss": 0.9}),)
    assert training.disk.ids == ["a", "#1"]
    training.save(11, loss=0.2)
    assert training.disk.ids == ["a", "#2"]


def test_another_policy_joins_the_step_on_disk() -> None:
    """It gets its claim, its name and its alias, which moves; the file is not written again."""
    early = Policy("early", every(steps=10), everything(), full, Where("early-{step}"))
    late = Policy("late", at(VALIDATION), best(2, "loss"), full, Where("late-{step}", alias="best"))
    training = Training([early, late])
    training.save(10, loss=0.9)
    training.happen(VALIDATION)
    training.save(20, loss=0.5)
    (amend,) = training.happen(VALIDATION).amends
    assert amend == Amend("#2", names=("late-step=20.ckpt", "best.ckpt"), moves=("best.ckpt",), policies=("late",))
    assert training.disk.records["#1"].names == ("early-step=10.ckpt", "late-step=10.ckpt")


def test_a_policy_that_does_not_keep_the_step_on_disk_does_not_claim_it() -> None:
    """Otherwise its word could evict what another asked for, or what no rule of now knows."""
    training = Training([rules(best(1, "loss"))])
    training.disk.put(on_disk("a", 5, scores={"loss": 0.1}), on_disk("theirs", 10, policies=("forgotten",)))
    decided = training.save(10, loss=0.5)
    assert decided.amends == (Amend("theirs", scores={"loss": 0.5}),)
    assert decided.declined == {"rules": "every step: not kept by best by loss (min)"}
    assert training.disk.ids == ["a", "theirs"]


def superseding(**older: object) -> tuple[Training, Record]:
    """A step that was saved before its epoch was complete, and is due again."""
    training = Training([rules(best(2, "loss") | last(1), every(epochs=1)), newest(never())])
    record = replace(
        on_disk("a", 10, "epoch=0-step=10.ckpt", scores={"loss": 0.5}, policies=("rules", "last")), **older
    )
    training.disk.put(record)
    return training.at(10).epoch_over(), record


def test_a_later_save_of_the_same_step_replaces_the_earlier_one() -> None:
    """It takes over the name, the scores and who wanted it."""
    training, _ = superseding()
    decided = training.happen(EPOCH)
    (save,) = decided.saves
    assert decided.evict == {"a": "replaced by the later save of the same step"}
    assert (save.names, save.moves) == (("epoch=0-step=10.ckpt", "last.ckpt"),) * 2
    assert (save.policies, save.scores) == (("rules", "last"), {"loss": 0.5})
    assert training.disk.ids == ["#1"]


def test_what_is_replaced_does_not_stand_in_its_successors_way() -> None:
    """Its score is the successor's now: they do not compete, and what is measured again counts."""
    training, _ = superseding()
    training.disk.put(on_disk("b", 9, scores={"loss": 0.1}))
    training.policies = [rules(best(2, "loss"), every(epochs=1))]
    assert training.at(10, loss=0.5).epoch_over().happen(EPOCH).evict.keys() == {"a"}
    assert {r.id: r.scores["loss"] for r in training.disk.records.values()} == {"b": 0.1, "#1": 0.5}
    again, _ = superseding()
    assert again.at(10, loss=0.4).epoch_over().happen(EPOCH).saves[0].scores == {"loss": 0.4}


@pytest.mark.parametrize(
    "older", [{"pinned": True}, {"policies": (BY_HAND,)}, {"policies": ("forgotten",)}, {"run": "other"}]
)
def test_what_may_not_go_is_not_replaced(older: dict[str, object]) -> None:
    """It stays as it is, with its name, and hands nothing over."""
    training, record = superseding(**older)
    (save,) = training.happen(EPOCH).saves
    assert save.names == ("epoch=0-step=10-v1.ckpt", "last.ckpt")
    assert save.scores == {}
    assert training.disk.records["a"] == record


def test_what_the_run_went_on_from_is_not_replaced() -> None:
    """I5: protected is as good as pinned."""
    training, record = superseding()
    training.protected = {"a": "the run went on from it"}
    assert training.happen(EPOCH).saves[0].names == ("epoch=0-step=10-v1.ckpt", "last.ckpt")
    assert training.disk.records["a"] == record


def test_a_step_is_replaced_only_if_somebody_who_is_due_wants_it() -> None:
    """Who wanted the earlier save has it; that the epoch is complete is no reason to write by itself."""
    training, record = superseding(policies=("last",))
    training.policies = [rules(best(1, "loss"), every(epochs=1)), newest(never())]
    training.disk.put(on_disk("b", 9, scores={"loss": 0.1}))
    decided = training.at(10, loss=0.5).epoch_over().happen(EPOCH)
    assert decided.declined
    assert not decided.acts
    assert training.disk.records["a"] == record


@pytest.mark.parametrize(
    ("scores", "score", "saved"),
    [
        ([0.5, 0.3], 0.4, True),
        ([0.5, 0.3], 0.5, False),
        ([0.5, 0.3], 0.6, False),
        ([0.5, 0.3], math.nan, False),
        ([0.5, math.nan], 0.6, True),
        ([0.5], 0.6, True),
        ([0.5], math.nan, False),
        ([], math.inf, True),
        ([], math.nan, False),
    ],
)
def test_a_newcomer_is_saved_only_if_it_ranks(scores: list[float], score: float, saved: bool) -> None:
    """I9: equal is not better, NaN never ranks, and what would not be kept is not written."""
    training = Training([rules(best(2, "loss"))])
    training.disk.put(*(on_disk(f"r{i}", i, scores={"loss": v}) for i, v in enumerate(scores, start=1)))
    decided = training.save(10, loss=score)
    assert bool(decided.saves) is saved
    assert bool(decided.declined) is not saved


def test_a_score_of_another_step_is_not_used() -> None:
    """I9: the last known loss was measured on other weights, so it neither ranks nor is written down."""
    training = Training([rules(best(2, "loss") | last(1))])
    training.save(9, loss=0.1)
    (save,) = training.save(10).saves
    assert save.scores == {}
    assert save.reason == "every step; last"


@pytest.mark.parametrize(
    ("record", "goes"),
    [
        (on_disk("a", 5), True),
        (on_disk("a", 5, policies=("rules", "forgotten")), True),
        (on_disk("a", 5, pinned=True), False),
        (on_disk("a", 5, policies=(BY_HAND,)), False),
        (on_disk("a", 5, policies=("rules", BY_HAND)), False),
        (on_disk("a", 5, policies=()), False),
        (on_disk("a", 5, policies=("forgotten",)), False),
        (on_disk("a", 5, run="other", run_ordinal=1), False),
    ],
)
def test_only_what_a_known_rule_of_this_run_lets_go_goes(record: Record, goes: bool) -> None:
    """I5: never what a user wants, what nobody of now can judge, or what another run wrote."""
    training = Training([rules(last(1))])
    training.disk.put(record)
    decided = training.save(10)
    assert decided.evict == ({"a": "no rule keeps it (last)"} if goes else {})


def test_what_is_protected_stays() -> None:
    """I5: the checkpoint resumed from, though no rule keeps it."""
    training = Training([rules(last(1))], protected={"a": "the run went on from it"})
    training.disk.put(on_disk("a", 5))
    assert not training.save(10).evict


def test_a_plan_that_does_nothing_evicts_nothing() -> None:
    """An eviction comes with what replaces it, or at least with something that is durable."""
    training = Training([rules(best(1, "loss"))])
    training.disk.put(on_disk("a", 5, scores={"loss": 0.1}), on_disk("b", 6, scores={"loss": 0.2}))
    decided = training.save(10, loss=0.5)
    assert decided.declined
    assert not decided.evict


def test_a_failed_save_evicts_nothing() -> None:
    """I2: what was to be replaced stands under its name, and the next trigger does both."""
    training = Training([rules(best(1, "loss"), template="best"), newest()])
    training.save(1, loss=0.5)
    decided = training.at(2, loss=0.4).happen(BATCH, durable=0)
    assert set(decided.evict) == {"#1"}
    assert training.disk.records["#1"].names == ("best.ckpt", "last.ckpt")
    training.save(3, loss=0.3)
    assert {r.progress.steps: r.names for r in training.disk.records.values()} == {3: ("best.ckpt", "last.ckpt")}


def test_an_abandoned_step_is_written_again() -> None:
    """The run went back and came here anew: the state is another one, and what is there does not hold it."""
    training = Training([rules(last(2)), newest()], abandoned={"a"})
    training.disk.put(on_disk("a", 10, "epoch=0-step=10.ckpt", scores={"loss": 0.5}))
    decided = training.save(10)
    assert [(s.names, s.scores) for s in decided.saves] == [(("epoch=0-step=10-v1.ckpt", "last.ckpt"), {})]
    assert not decided.evict
    training.save(11)
    assert training.disk.ids == ["#1", "#2"]


def test_a_new_run_does_not_take_anothers_step_for_its_own() -> None:
    """The same counters in another run are other weights."""
    training = Training([rules(last(1))], Disk({"a": on_disk("a", 10, run="other", run_ordinal=1)}))
    assert training.save(10).saves
    assert training.disk.records["#1"].run == RUN
