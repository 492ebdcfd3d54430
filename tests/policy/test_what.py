"""What goes into a checkpoint: tables for modes and patterns, and two properties of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigError
from holdfast.policy.what import What, full, trainable_only, weights_only

PARTS = ("model", "progress", "optimizer", "schedulers", "random", "loaders", "callbacks")

paths = st.lists(st.sampled_from(["model", "optimizer", "backbone", "head", "0", "weight"]), min_size=1).map(".".join)
patterns = st.sampled_from(["*", "model.*", "*.weight", "model.head.*", "*.0.*", "optimizer.*", "[hm]*"])
whats = st.builds(
    What,
    mode=st.sampled_from(["full", "weights only", "trainable only"]),
    include=st.lists(patterns, max_size=2).map(tuple),
    exclude=st.lists(patterns, max_size=2).map(tuple),
)


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        (full, PARTS),
        (weights_only, ("model", "progress")),
        (trainable_only, ("model", "progress")),
        (full.excluding("optimizer.*"), PARTS),
        (weights_only.including("optimizer.*"), ("model", "progress")),
    ],
)
def test_the_mode_decides_which_parts_are_saved(what: What, parts: tuple[str, ...]) -> None:
    """Weights are the model and how far it had come; patterns neither add nor remove a part."""
    assert tuple(part for part in PARTS if what.wants_part(part)) == parts


@pytest.mark.parametrize(
    ("what", "path", "trainable", "wanted"),
    [
        (full, "model.head.weight", True, True),
        (full, "model.norm.running_mean", False, True),
        (full, "optimizer.0.state.exp_avg", False, True),
        (weights_only, "model.norm.running_mean", False, True),
        (weights_only, "optimizer.0.state.exp_avg", True, False),
        (trainable_only, "model.head.weight", True, True),
        (trainable_only, "model.backbone.0.weight", False, False),
        (trainable_only, "optimizer.0.state.exp_avg", True, False),
        (full.including("model.head.*"), "model.head.weight", True, True),
        (full.including("model.head.*"), "model.backbone.0.weight", True, False),
        (full.including("model.head.*"), "optimizer.0.state.exp_avg", True, False),
        (full.including("model.head"), "model.head.weight", True, False),  # the whole path must match
        (full.including("model.*"), "model.backbone.0.weight", True, True),  # a star crosses dots
        (full.including("model.head.*", "model.neck.*"), "model.neck.bias", True, True),
        (full.including("model.head.*").including("model.neck.*"), "model.head.bias", True, True),
        (full.excluding("model.backbone.*"), "model.backbone.0.weight", True, False),
        (full.excluding("model.backbone.*"), "model.head.weight", True, True),
        (full.including("model.*").excluding("*.bias"), "model.head.bias", True, False),
        (full.excluding("*.bias").including("model.head.bias"), "model.head.bias", True, False),
        (full.excluding("model.Head.*"), "model.head.weight", True, True),
        (full.excluding("model.layer?.*"), "model.layer1.weight", True, False),
        (full.excluding("model.layer[12].*"), "model.layer3.weight", True, True),
        (trainable_only.including("model.*"), "model.head.weight", False, False),
    ],
)
def test_tensors_are_chosen_by_mode_then_include_then_exclude(
    what: What, path: str, trainable: bool, wanted: bool
) -> None:
    """Patterns are over whole dotted paths with case, and excluding wins in whichever order it was said."""
    assert what.wants(path, trainable=trainable) is wanted


@given(whats, patterns, paths, st.booleans())
def test_excluding_only_takes_away(what: What, pattern: str, path: str, trainable: bool) -> None:
    """Another excluded pattern never lets a tensor in."""
    if what.excluding(pattern).wants(path, trainable=trainable):
        assert what.wants(path, trainable=trainable)


@given(whats, paths, st.booleans())
def test_no_tensor_of_an_unwanted_part_is_wanted(what: What, path: str, trainable: bool) -> None:
    """The two questions agree, so that nobody has to ask them in a certain order."""
    if what.wants(path, trainable=trainable):
        assert what.wants_part(path.split(".")[0])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (full, "full"),
        (weights_only, "weights only"),
        (trainable_only, "trainable only"),
        (full.excluding("model.head.*"), "full (without model.head.*)"),
        (weights_only.including("model.a.*", "model.b.*"), "weights only (only model.a.*, model.b.*)"),
        (full.including("model.*").excluding("*.bias"), "full (only model.*; without *.bias)"),
    ],
)
def test_a_what_reads_as_words(what: What, words: str) -> None:
    """A record says in these words what it holds."""
    assert str(what) == words


def test_the_constants_stay_as_they_are() -> None:
    """Narrowing one gives a new value; whats compare and hash by what they say."""
    narrowed = full.excluding("model.head.*")
    assert full == What()
    assert narrowed == What("full", exclude=("model.head.*",))
    assert len({full, narrowed, What(), full.excluding("model.head.*")}) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: full.including(""),
        lambda: full.excluding(None),
        lambda: full.excluding("model.*", 3),
        lambda: full.including(["model.*"]),
        lambda: What(include="model.*"),
        lambda: What(exclude=["model.*"]),
        lambda: What(mode="weights"),
        lambda: What(mode=None),
    ],
)
def test_what_cannot_select_is_refused(make) -> None:
    """A pattern that is empty or no text, and a mode that does not exist, are mistakes at once."""
    with pytest.raises(ConfigError, match="What: "):
        make()


def test_a_what_names_all_problems_at_once() -> None:
    """Nobody has to fix one mistake to hear of the next."""
    with pytest.raises(ConfigError) as caught:
        What(mode="half", include=("",), exclude=(1,))
    for complaint in ("mode= is one of", "include= holds ''", "exclude= holds 1"):
        assert complaint in str(caught.value)
