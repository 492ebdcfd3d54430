"""Which checkpoints are kept: tables for each rule, and properties that hold for every union of rules."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigError
from holdfast.policy.values import Progress, Record
from holdfast.policy.which import Which, best, every, everything, last, nothing, pinned


def run_of(*steps: int, **scores: Sequence[float | None]) -> list[Record]:
    """One run's checkpoints, oldest first: ids a, b, c ... at these steps, with the scores given."""
    return [
        Record(
            id=chr(ord("a") + place),
            run="r",
            sequence=place + 1,
            progress=Progress(steps=step),
            scores={name: values[place] for name, values in scores.items() if values[place] is not None},
        )
        for place, step in enumerate(steps)
    ]


def losses(*values: float | None) -> list[Record]:
    """One run whose checkpoints have these losses."""
    return run_of(*range(1, len(values) + 1), loss=values)


def kept(which: Which, records: Sequence[Record]) -> str:
    """The ids that are kept, as one string."""
    return "".join(which.keep(records))


number = st.one_of(st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf]), st.floats(), st.integers(-9, 9))
records = st.lists(
    st.tuples(st.integers(0, 60), st.dictionaries(st.sampled_from(["loss", "score"]), number), st.booleans()),
    max_size=12,
).map(
    lambda many: [
        Record(id=f"{i:02d}", run="r", sequence=i + 1, progress=Progress(steps=s), scores=m, pinned=p)
        for i, (s, m, p) in enumerate(many)
    ]
)
small = st.integers(1, 5)
rules = st.one_of(
    st.builds(best, small, st.just("loss"), st.sampled_from(["min", "max", None])),
    st.builds(best, small, st.just("score"), st.sampled_from(["min", "max"])),
    st.builds(last, small),
    st.builds(every, st.integers(1, 20)),
    st.builds(everything),
    st.builds(nothing),
    st.builds(pinned),
)
whiches = st.lists(rules, max_size=4).map(lambda many: Which(tuple(r for w in many for r in w.rules)))


@pytest.mark.parametrize(
    ("which", "values", "ids"),
    [
        (best(1, "loss"), [3, 1, 2], "b"),
        (best(2, "loss"), [3, 1, 2], "bc"),
        (best(2, "loss", "max"), [3, 1, 2], "ac"),
        (best(9, "loss"), [3, 1, 2], "abc"),
        (best(1, "loss"), [1, 1, 1], "a"),
        (best(2, "loss", "max"), [1, 1, 1], "ab"),
        (best(2, "loss"), [math.nan, 1, 1, math.nan, 1], "bc"),
        (best(2, "loss", "max"), [math.nan, 1, 1, math.nan, 1], "bc"),
        (best(3, "loss"), [math.nan, math.nan], ""),
        (best(2, "loss"), [None, 5, None], "b"),
        (best(1, "loss"), [math.inf, 5, -math.inf], "c"),
        (best(1, "loss", "max"), [math.inf, 5, -math.inf], "a"),
        (best(3, "loss"), [math.inf, 5, -math.inf], "abc"),
        (best(1, "loss"), [0.0, -0.0], "a"),
        (best(1, "other"), [1, 2], ""),
    ],
)
def test_best_keeps_the_first_k_of_a_ranking(which: Which, values: list[float | None], ids: str) -> None:
    """Ties go to the older, NaN and missing never rank, infinities do."""
    assert kept(which, losses(*values)) == ids


@pytest.mark.parametrize(
    ("which", "steps", "ids"),
    [
        (last(1), [1, 2, 3], "c"),
        (last(2), [1, 2, 3], "bc"),
        (last(5), [1, 2, 3], "abc"),
        (every(10), [5, 10, 15, 20], "bd"),
        (every(10), [9, 11, 12, 21, 29, 30], "bdf"),
        (every(10), [0, 3, 7], ""),
        (every(10), [0, 35, 39, 40], "bd"),
        (every(10), [10, 10, 20], "ac"),
        (every(10), [10, 20, 11, 21, 30], "abe"),  # taken up again from an older one
        (every(1), [0, 1, 2], "bc"),
        (everything(), [0, 1, 2], "abc"),
        (nothing(), [0, 1, 2], ""),
        (pinned(), [0, 1, 2], ""),
    ],
)
def test_rules_that_need_no_score(which: Which, steps: list[int], ids: str) -> None:
    """The newest, the first at or past each multiple of the steps, all, none."""
    assert kept(which, run_of(*steps)) == ids


def test_pinned_keeps_what_a_user_pinned() -> None:
    """A pin is one more reason, whatever the other rules say."""
    records = [
        Record(id="a", sequence=1, pinned=True),
        Record(id="b", sequence=2),
        Record(id="c", sequence=3),
    ]
    assert pinned().keep(records) == {"a": "pinned"}
    assert (last(1) | pinned()).keep(records) == {"a": "pinned", "c": "last"}


def test_newest_is_by_commit_and_not_by_steps_or_name() -> None:
    """In a run taken up from an older checkpoint, the newer commit has fewer steps and is still the last."""
    assert kept(last(1), run_of(100, 200, 150)) == "c"
    older = Record(id="z", run="b", run_ordinal=0, sequence=9)
    newer = Record(id="a", run="a", run_ordinal=1, sequence=1)
    assert kept(last(1), [newer, older]) == "a"


@pytest.mark.parametrize(
    ("which", "reasons"),
    [
        (
            best(3, "loss"),
            {
                "a": "2nd of 3 best by loss (min): 0.32",
                "c": "3rd of 3 best by loss (min): 0.5",
                "d": "1st of 3 best by loss (min): -2",
            },
        ),
        (best(1, "loss", "max"), {"b": "best by loss (max): inf"}),
        (last(2), {"c": "last 2", "d": "last 2"}),
        (every(10_000), {"b": "every 10,000 steps", "d": "every 10,000 steps"}),
        (
            last(1) | best(1, "loss") | every(20_000),
            {"d": "last; best by loss (min): -2; every 20,000 steps"},
        ),
    ],
)
def test_reasons_are_words(which: Which, reasons: dict[str, str]) -> None:
    """A plan and a log line can say why something is kept; a union says every reason, in its rules' order."""
    records = run_of(5_000, 10_000, 15_000, 20_000, loss=[0.32, math.inf, 0.5, -2.0])
    assert which.keep(records) == reasons


def test_places_are_written_as_people_say_them() -> None:
    """11th, 12th and 13th are not 11st, 12nd and 13rd, and 21st is not 21th."""
    records = [Record(id=f"{i:03d}", sequence=i, scores={"loss": i}) for i in range(1, 114)]
    reasons = best(113, "loss").keep(records)
    written = [reasons[f"{i:03d}"].split(" ")[0] for i in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111)]
    assert " ".join(written) == "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th"


def test_scores_that_count_something_are_written_in_full() -> None:
    """A logged step of seven digits is not blurred to six."""
    records = run_of(1_234_567, global_step=[1234567.0])
    assert best(1, "global_step", "max").keep(records) == {"a": "best by global_step (max): 1234567"}


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (best(3, "val_loss"), "3 best by val_loss (min)"),
        (best(1, "val_acc", "max"), "best by val_acc (max)"),
        (last(1), "last"),
        (every(1), "every step"),
        (everything(), "everything"),
        (nothing(), "nothing"),
        (pinned(), "pinned"),
        (
            best(3, "val_loss") | last(2) | every(10_000),
            "3 best by val_loss (min), last 2, every 10,000 steps",
        ),
    ],
)
def test_a_which_reads_as_words(which: Which, words: str) -> None:
    """``str`` is what a plan prints."""
    assert str(which) == words


@given(whiches, records, st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(which: Which, records: list[Record], rng: random.Random) -> None:
    """Any listing of a folder gives the same answer, reasons and order included."""
    shuffled = rng.sample(records, len(records))
    assert list(which.keep(shuffled).items()) == list(which.keep(records).items())
    assert which.best_of(shuffled) == which.best_of(records)


@given(whiches, whiches, records)
def test_a_union_keeps_exactly_what_either_keeps(one: Which, other: Which, records: list[Record]) -> None:
    """Joining a rule never lets anything go that was kept before, and keeps nothing for no reason."""
    assert set((one | other).keep(records)) == set(one.keep(records)) | set(other.keep(records))


@given(whiches, records)
def test_evicting_what_nobody_keeps_changes_nothing(which: Which, records: list[Record]) -> None:
    """What is left after an eviction is kept again, for the same reasons: a second look evicts no more."""
    first = which.keep(records)
    assert which.keep([record for record in records if record.id in first]) == first


@given(whiches, records)
def test_evicting_at_every_step_ends_where_evicting_once_would(which: Which, records: list[Record]) -> None:
    """A policy that prunes after each save holds what it would have chosen with the whole run before it."""
    held: list[Record] = []
    for record in records:
        answer = which.keep([*held, record])
        held = [r for r in [*held, record] if r.id in answer]
    assert [r.id for r in held] == list(which.keep(records))


@given(whiches, whiches, whiches)
def test_unions_are_associative_and_hold_no_rule_twice(a: Which, b: Which, c: Which) -> None:
    """``|`` can be written in any grouping, ``nothing()`` is its zero, and equal values hash equal."""
    assert (a | b) | c == a | (b | c)
    assert (a | b) | b == a | b == (a | b) | nothing()
    assert hash(a | b) == hash(Which(a.rules) | Which(b.rules))


@given(small, records)
def test_nan_never_ranks_and_never_displaces(k: int, records: list[Record]) -> None:
    """Taking the NaN scores away changes nothing about what is kept."""
    without = [r for r in records if not math.isnan(r.scores.get("loss", math.nan))]
    assert best(k, "loss").keep(records) == best(k, "loss").keep(without)


def test_metrics_and_the_rules_that_need_them() -> None:
    """The planner can see which scores to wait for, and what is left to keep without them."""
    which = best(2, "loss") | last(1) | best(1, "loss", "max") | best(1, "acc", "max") | every(5)
    assert which.metrics == ("loss", "acc")
    assert which.ranks()
    assert which.without_score() == last(1) | every(5)
    assert not which.without_score().ranks()
    assert best(1, "loss").without_score() == nothing()
    assert (last(1) | pinned() | everything()).metrics == ()


@pytest.mark.parametrize(
    ("which", "values", "id"),
    [
        (best(2, "loss"), [3, 1, 2], "b"),
        (last(2) | best(2, "loss", "max"), [3, 1, 2], "a"),
        (best(1, "loss") | best(1, "loss", "max"), [3, 1, 2], "b"),
        (best(1, "loss"), [1, 1], "a"),
        (last(2), [3, 1, 2], "c"),
        (everything(), [3, 1, 2], "c"),
        (best(1, "other") | last(1), [3, 1, 2], "c"),
        (best(1, "other"), [3, 1, 2], None),
        (nothing(), [3, 1, 2], None),
        (last(1), [], None),
    ],
)
def test_best_of_is_first_in_the_first_ranking_else_the_newest(
    which: Which, values: list[float], id: str | None
) -> None:
    """``best`` means something for every policy that keeps anything."""
    record = which.best_of(losses(*values))
    assert (record and record.id) == id


@given(whiches, records)
def test_the_best_is_one_that_is_kept(which: Which, records: list[Record]) -> None:
    """What is called the best is never among what may go."""
    record = which.best_of(records)
    assert (record is None) == (not which.keep(records))
    assert record is None or record.id in which.keep(records)


@pytest.mark.parametrize(
    "metric",
    ["acc", "val_acc", "val/acc", "Accuracy", "val-AUROC", "mAP", "test_f1", "r2", "eval.reward", "top acc"],
)
def test_a_metric_that_should_rise_needs_a_mode(metric: str) -> None:
    """The default would keep the worst; the error says what to write."""
    with pytest.raises(ConfigError, match="say mode='max' or mode='min'"):
        best(1, metric)
    assert best(1, metric, "max").metrics == best(1, metric, "min").metrics == (metric,)


@pytest.mark.parametrize("metric", ["loss", "val_loss", "face_loss", "mapping_loss", "accel", "perplexity", "wer"])
def test_other_metrics_default_to_min(metric: str) -> None:
    """Only whole words count: ``face`` and ``mapping`` say nothing about more being better."""
    assert best(1, metric) == best(1, metric, "min")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: best(0, "loss"), "k is a whole number of at least 1, not 0"),
        (lambda: best(-1, "loss"), "k is"),
        (lambda: best(True, "loss"), "k is"),
        (lambda: best(1.0, "loss"), "k is"),
        (lambda: best(1, ""), "metric is the name"),
        (lambda: best(1, None), "metric is the name"),
        (lambda: best(1, "loss", "avg"), "mode is 'min' or 'max', not 'avg'"),
        (lambda: last(0), "last(): k is"),
        (lambda: every(0), "every(): n is"),
        (lambda: every("10"), "every(): n is"),
    ],
)
def test_rules_refuse_what_cannot_work(make, complaint: str) -> None:
    """A rule that would keep nothing or rank by nothing is a mistake at once."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert complaint in str(caught.value)


def test_best_names_all_problems_at_once() -> None:
    """Nobody has to fix one mistake to hear of the next."""
    with pytest.raises(ConfigError) as caught:
        best(0, "", "avg")
    for complaint in ("k is", "metric is", "mode is"):
        assert complaint in str(caught.value)


def test_a_which_joins_only_a_which() -> None:
    """Joining with something else is a TypeError of Python's own."""
    with pytest.raises(TypeError):
        last(1) | 2


def test_rules_are_plain_values_in_a_ledger() -> None:
    """The keys that are written are these; a reader of another language can rely on them."""
    which = best(3, "val_loss") | best(1, "acc", "max") | last(2) | every(500) | everything() | pinned()
    assert which.to_json() == [
        {"rule": "best", "k": 3, "metric": "val_loss", "mode": "min"},
        {"rule": "best", "k": 1, "metric": "acc", "mode": "max"},
        {"rule": "last", "k": 2},
        {"rule": "every", "n": 500},
        {"rule": "everything"},
        {"rule": "pinned"},
    ]
    assert nothing().to_json() == []


@given(whiches)
def test_rules_come_back_from_json_as_they_were(which: Which) -> None:
    """Through real JSON text, every union is read back equal, so it keeps the same."""
    rules = json.loads(json.dumps(which.to_json()))
    assert Which.from_json(rules) == Which(tuple(dict.fromkeys(which.rules)))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("last", "rules are a list"),
        ({"rule": "last", "k": 1}, "rules are a list"),
        (["last"], "no rule that this version"),
        ([{}], "no rule that this version"),
        ([{"rule": ["last"]}], "no rule that this version"),
        ([{"rule": "newest", "k": 1}], "{'rule': 'newest', 'k': 1} is no rule that this version"),
        ([{"rule": "last"}], "the rule 'last' has the arguments ['k']"),
        ([{"rule": "last", "k": 1, "of": "day"}], "the rule 'last' has the arguments ['k']"),
        ([{"rule": "last", "k": 0}], "k is a whole number"),
        ([{"rule": "best", "k": 1, "metric": "loss"}], "the rule 'best' has the arguments"),
        ([{"rule": "best", "k": 1, "metric": "loss", "mode": None}], "mode is 'min' or 'max'"),
        ([{"rule": "best", "k": 1, "metric": ["loss"], "mode": "min"}], "metric is the name"),
        ([{"rule": "last", "k": 1}, {"rule": "every", "n": "10"}], "n is a whole number"),
    ],
)
def test_rules_that_are_not_known_are_not_guessed(data: object, complaint: str) -> None:
    """A rule of a later version, or nonsense, is an error: half-read rules would let the wrong ones go."""
    with pytest.raises(ConfigError) as caught:
        Which.from_json(data)
    assert complaint in str(caught.value)
