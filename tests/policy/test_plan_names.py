"""The names that a plan gives, and saves by hand: one table or story for each rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.policy.plan import BY_HAND, Amend, Policy
from holdfast.policy.values import Event, Record
from holdfast.policy.what import full, weights_only
from holdfast.policy.when import at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import best, everything, last
from modelled_run import (
    BATCH,
    FIT,
    Training,
    by_hand,
    newest,
    on_disk,
    rules,
)


def test_a_name_moves_from_what_is_evicted_and_is_versioned_otherwise() -> None:
    """A fixed name stays the name of the best; what is kept, or not ours, keeps its own."""
    training = Training([rules(best(2, "loss"), template="best")])
    training.disk.foreign = {"best-v1.ckpt"}
    training.disk.put(on_disk("theirs", 1, "best-v2.ckpt", run="other"))
    assert training.save(1, loss=0.5).saves[0].names == ("best.ckpt",)
    assert training.save(2, loss=0.4).saves[0].names == ("best-v3.ckpt",)
    third = training.save(3, loss=0.3)
    assert (third.saves[0].names, third.saves[0].moves, list(third.evict)) == (("best.ckpt",),) * 2 + (["#1"],)


def test_two_saves_of_a_plan_never_share_a_name() -> None:
    """The name of what is evicted goes to the file that replaces it, not to one of other content."""
    weights = Policy("weights", every(steps=1), last(1), weights_only, Where("new"))
    training = Training([weights, rules(last(1), template="new")])
    training.disk.put(on_disk("a", 1, "new.ckpt"))
    decided = training.save(2)
    assert [(s.what, s.names, s.moves) for s in decided.saves] == [
        (weights_only, ("new-v1.ckpt",), ()),
        (full, ("new.ckpt",), ("new.ckpt",)),
    ]


def test_a_name_that_becomes_free_is_given_once() -> None:
    """Here the new file and an older one that is to lose its alias both ask for it."""
    training = Training([rules(last(1), template="{epoch}"), newest()])
    training.disk.put(on_disk("a", 1, "epoch=0.ckpt"), on_disk("b", 2, "last.ckpt", pinned=True))
    training.save(3)
    assert training.disk.names == {"epoch=0.ckpt": "#1", "last.ckpt": "#1", "epoch=0-v1.ckpt": "b"}


def test_a_template_that_spells_the_alias_gets_a_version() -> None:
    """The file has two names all the same, so that it keeps one when the alias moves on."""
    training = Training([Policy("rules", every(steps=1), last(1), full, Where("last", alias="last"))])
    assert training.save(1).saves[0].names == ("last-v1.ckpt", "last.ckpt")
    assert training.save(2).saves[0].names == ("last-v2.ckpt", "last.ckpt")
    assert training.disk.ids == ["#2"]


def test_a_policy_that_joins_asks_for_no_name_that_is_there() -> None:
    """The same template and alias as those of who wanted the step before."""
    where = Where("x-{step}", alias="a")
    one = Policy("one", every(steps=1), last(1), full, where)
    training = Training([one, Policy("two", at(FIT), last(1), full, where)])
    training.save(10)
    assert training.happen(FIT).amends == (Amend("#1", policies=("two",)),)


def test_two_saves_of_a_plan_never_share_an_alias() -> None:
    """The first registered policy has it; the other file gets a name of its own instead of none."""
    aliases = [
        Policy("full", every(steps=1), last(1), full, Where(None, alias="last")),
        Policy("weights", every(steps=1), last(1), weights_only, Where(None, alias="last")),
    ]
    decided = Training(aliases).save(2)
    assert [s.names for s in decided.saves] == [("last.ckpt",), ("epoch=0-step=2.ckpt",)]


@pytest.mark.parametrize(
    ("record", "template", "name"),
    [
        (on_disk("a", 5, "last.ckpt", policies=("last",), pinned=True), "{step}", "step=5.ckpt"),
        (on_disk("a", 5, "last.ckpt", policies=("forgotten",)), "{step}", "step=5.ckpt"),
        (on_disk("a", 5, "last.ckpt", run="other", run_ordinal=1), "{step}", "step=5.ckpt"),
        (on_disk("a", 5, "last.ckpt", policies=("last", "kept")), "{step}", "kept-step=5.ckpt"),
        (on_disk("a", 5, "last.ckpt", policies=("last",), pinned=True), "last", "last-v1.ckpt"),
        (
            on_disk("a", 5, "last.ckpt", policies=("last",), pinned=True),
            "{step}-{loss:.2f}",
            "step=5-loss=none.ckpt",
        ),
    ],
)
def test_what_stays_gets_a_name_before_its_alias_moves(record: Record, template: str, name: str) -> None:
    """By the template of who keeps it, else by the first there is; a metric it lacks cannot fail the save."""
    kept = Policy("kept", never(), everything(), full, Where("kept-{step}"))
    training = Training([newest(), rules(last(1), never(), template=template), kept])
    training.disk.put(record)
    decided = training.save(10)
    assert decided.amends == (Amend("a", names=(name,)),)
    assert training.disk.names == {name: "a", "last.ckpt": "#1"}


def test_what_goes_gets_no_name() -> None:
    """A checkpoint that only the alias held is evicted when the alias moves on."""
    training = Training([rules(best(1, "loss"), never()), newest()])
    training.save(5)
    decided = training.save(10)
    assert not decided.amends
    assert training.disk.names == {"last.ckpt": "#2"}


def test_a_metric_that_was_not_measured_is_none_in_the_name() -> None:
    """No save is lost for its name."""
    training = Training([rules(last(1), template="{epoch}-{loss:.2f}")])
    assert training.save(10).saves[0].names == ("epoch=0-loss=none.ckpt",)


def test_a_save_by_hand_is_kept_and_labelled() -> None:
    """Nobody's rule is asked; the label is in the name; the alias follows."""
    training = Training([rules(best(1, "loss"), never()), newest(never())]).at(10)
    decided = training.happen(Event.MANUAL, requests=[by_hand("before surgery: lr/10 é")])
    (save,) = decided.saves
    assert save.names == ("epoch=0-step=10-before-surgery--lr-10-é.ckpt", "last.ckpt")
    assert (save.policies, save.label, save.what) == (("last", BY_HAND), "before surgery: lr/10 é", full)
    assert save.reason == "by hand: before surgery: lr/10 é"
    assert not decided.declined
    training.policies = [rules(last(1))]
    training.save(11)
    assert "#1" in training.disk.ids


def test_a_save_by_hand_of_a_step_on_disk_is_a_line_and_a_name() -> None:
    """Nothing is written twice; asked again, there is nothing to do."""
    training = Training([rules(last(1)), newest()])
    training.save(10)
    again = Amend("#1", names=("epoch=0-step=10-x.ckpt",), policies=(BY_HAND,), label="x")
    assert training.happen(Event.MANUAL, requests=[by_hand("x")]).amends == (again,)
    training.disk.put(on_disk("leftover", 5))
    for request in (by_hand("x"), by_hand()):
        decided = training.happen(Event.MANUAL, requests=[request])
        assert not decided.acts
        assert not decided.evict
    training.save(11)
    assert training.disk.ids == ["#1", "#2"]


@pytest.mark.parametrize(
    ("policies", "names"),
    [
        ([rules(last(1)), newest()], ()),
        ([newest(), rules(last(1), never())], ("epoch=0-step=10.ckpt",)),
    ],
)
def test_a_save_by_hand_without_a_label_has_a_name_that_stays(policies: list[Policy], names: tuple[str, ...]) -> None:
    """Of a step that only the alias holds, the path that the user is told must not move on."""
    training = Training(policies)
    training.save(10)
    (amend,) = training.happen(Event.MANUAL, requests=[by_hand()]).amends
    assert amend == Amend("#1", names=names, policies=(BY_HAND,))


def test_a_save_by_hand_and_a_trigger_at_one_step_share_the_file() -> None:
    """The one save is the rules' and the user's, and bears both names."""
    training = Training([rules(last(1)), newest()]).at(10)
    (save,) = training.happen(BATCH, Event.MANUAL, requests=[by_hand("x")]).saves
    assert save.names == ("epoch=0-step=10.ckpt", "epoch=0-step=10-x.ckpt", "last.ckpt")
    assert (save.policies, save.label) == (("rules", "last", BY_HAND), "x")
    assert save.reason == "every step; last; by hand: x"


def test_a_save_by_hand_is_made_though_the_rules_decline_the_step() -> None:
    """And the rules' own verdict is still told."""
    training = Training([rules(best(1, "loss"))])
    training.save(5, loss=0.1)
    decided = training.at(10, loss=0.5).happen(BATCH, requests=[by_hand()])
    assert [s.policies for s in decided.saves] == [(BY_HAND,)]
    assert list(decided.declined) == ["rules"]


def test_rules_join_a_save_by_hand_of_the_same_step() -> None:
    """The alias moves to it, and who held only the alias goes, for its successor is durable."""
    training = Training(
        [rules(best(1, "loss"), never()), Policy("x", at(FIT), last(1), full, Where("x-{step}", alias="a"))]
    )
    training.at(9).happen(FIT)
    training.at(10).happen(Event.MANUAL, requests=[by_hand("kept")])
    decided = training.happen(FIT)
    assert decided.amends == (Amend("#2", names=("x-step=10.ckpt", "a.ckpt"), moves=("a.ckpt",), policies=("x",)),)
    assert training.disk.ids == ["#2"]


def test_a_save_by_hand_for_one_policy_is_not_lost() -> None:
    """A request of a user is served, whomever it names."""
    training = Training([rules(last(1), never())]).at(10)
    assert training.happen(Event.MANUAL, requests=[replace(by_hand(), policy="rules")]).saves


@pytest.mark.parametrize(
    ("extension", "label", "name"),
    [
        (".ckpt", "a.b", "loss=0.5-a-b.ckpt"),
        (".pt.zip", "x", "loss=0.5-x.pt.zip"),
        ("", "x", "loss=0.5-x"),
        (".ckpt", "é" * 200, f"loss=0.5-{'é' * 50}.ckpt"),
    ],
)
def test_a_label_goes_before_the_extension(extension: str, label: str, name: str) -> None:
    """Dots of the template are no extension, and no label makes a name too long for the file system."""
    policy = Policy("rules", never(), last(1), full, Where("{loss}", extension=extension))
    training = Training([policy]).at(10, loss=0.5)
    assert training.happen(Event.MANUAL, requests=[by_hand(label)]).saves[0].names == (name,)
