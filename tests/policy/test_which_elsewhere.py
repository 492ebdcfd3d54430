"""Scores of older checkpoints that no record tells of take places in a ranking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.callbacks.elsewhere import Elsewhere
from holdfast.errors import ConfigError
from holdfast.policy.values import Record
from holdfast.policy.which import Best, Which, best


def records(*scores):
    """One record a score, oldest first."""
    return [Record(str(i), sequence=i, scores={"loss": score}) for i, score in enumerate(scores, start=1)]


def ranking(k, mode, *elsewhere):
    return Which((Best(k, "loss", mode, elsewhere),))


CASES = [
    (1, "min", (0.1,), (0.2, 0.3), []),
    (1, "min", (0.1,), (0.05, 0.3), ["1"]),
    (1, "min", (0.1,), (0.1,), []),  # of equal scores the older is first
    (2, "min", (0.1, 0.4), (0.5, 0.2, 0.3), ["2"]),
    (2, "min", (0.1,), (0.5, 0.2, 0.3), ["2"]),
    (2, "max", (0.9,), (0.5, 0.95, 0.9), ["2"]),
    (3, "max", (), (0.5, 0.95, 0.9), ["1", "2", "3"]),
]


@pytest.mark.parametrize(("k", "mode", "elsewhere", "scores", "kept"), CASES)
def test_places_that_are_taken_are_not_given_again(k, mode, elsewhere, scores, kept):
    """The k best of both together, as far as they are ours."""
    assert sorted(ranking(k, mode, *elsewhere).keep(records(*scores))) == kept


def test_a_reason_names_the_place_among_all():
    """The second of both together is the second."""
    assert list(ranking(2, "min", 0.1).keep(records(0.2)).values()) == ["2nd of 2 best by loss (min): 0.2"]


def test_rules_with_such_scores_are_written_and_read():
    """They are there only where there are any: other rules are written as ever."""
    rules = ranking(2, "min", 0.1, 0.5)
    assert Which.from_json(rules.to_json()) == rules
    assert "elsewhere" not in best(2, "loss").to_json()[0]
    with pytest.raises(ConfigError):
        Which.from_json([{**rules.to_json()[0], "elsewhere": ["0.1"]}])


@pytest.mark.parametrize(
    ("own", "first"),
    [(("o", 0.2), ("a", 0.1)), (("o", 0.1), ("a", 0.1)), (("o", 0.05), ("o", 0.05)), (("", None), ("a", 0.1))],
)
def test_the_best_is_the_best_of_both(own, first):
    """The older of equal ones; theirs where there is none of ours."""
    assert Elsewhere({"b": 0.3, "a": 0.1}).first(*own, "min") == first


def test_without_scores_the_newest_stands_in_until_there_is_one():
    """That is what a callback without a metric has."""
    assert Elsewhere(newest="a").first("", None, "min") == ("a", None)
    assert Elsewhere(newest="a").first("o", None, "min") == ("o", None)


def test_the_ranked_ones_are_the_best_of_both():
    """As many as are kept; all of them where all are."""
    both = Elsewhere({"a": 0.1, "b": 0.3})
    assert both.among({"o": 0.2, "p": 0.4}, 2, "min") == {"a": 0.1, "o": 0.2}
    assert both.among({"o": 0.2}, 1, "max") == {"b": 0.3}
    assert list(both.among({"o": 0.2}, -1, "min")) == ["a", "o", "b"]


def test_a_state_brings_back_what_is_still_there():
    """A path whose file is gone counts no more."""
    both = Elsewhere({"a": 0.1, "b": 0.3}, "")
    assert Elsewhere.from_state(both.to_state(), there=lambda path: path == "b") == replace(both, scores={"b": 0.3})
    assert Elsewhere.from_state(Elsewhere(newest="a").to_state(), there=lambda path: False) == Elsewhere()
    assert Elsewhere().to_state() == {}
