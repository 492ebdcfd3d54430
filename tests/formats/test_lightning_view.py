"""The parts of a state stand under the keys that other readers look for, and are found again by their places."""

from __future__ import annotations

import pytest

from holdfast.engine.statetree import at
from holdfast.errors import ConfigError
from holdfast.formats.lightning import arrange
from holdfast.policy.values import Progress

PROGRESS = Progress(epoch=3, batch=7, steps=42)


def test_the_counters_are_those_that_names_use():
    """``epoch`` and ``global_step`` are there without any part."""
    root, places = arrange({}, PROGRESS)
    assert (root["epoch"], root["global_step"]) == (3, 42)
    assert set(root) == {"epoch", "global_step", "pytorch-lightning_version", "loops"}
    assert places == {}


def test_models_optimizers_and_schedulers_have_keys_of_their_own():
    """Several optimizers are one list, in the order of the parts; everything else is Holdfast's own."""
    names = ["optimizer", "model", "scheduler", "ema", "optimizer2", "optimizer10", "scheduler2", "2", "models"]
    parts = {name: {"state of": name} for name in names}
    root, places = arrange(parts, PROGRESS)
    assert places == {
        "optimizer": ("optimizer_states", 0),
        "model": ("state_dict",),
        "scheduler": ("lr_schedulers", 0),
        "ema": ("holdfast", "ema"),
        "optimizer2": ("optimizer_states", 1),
        "optimizer10": ("optimizer_states", 2),
        "scheduler2": ("lr_schedulers", 1),
        "2": ("holdfast", "2"),
        "models": ("holdfast", "models"),
    }
    assert all(at(root, places[name]) is parts[name] for name in names)
    assert len(root["optimizer_states"]) == 3


def test_a_part_called_like_a_key_is_in_nobodys_way():
    """``epoch`` as a part does not take the place of the counter."""
    root, places = arrange({"epoch": 99, "state_dict": 1, "holdfast": 2}, PROGRESS)
    assert root["epoch"] == 3
    assert [at(root, places[name]) for name in ("epoch", "state_dict", "holdfast")] == [99, 1, 2]


def test_a_part_needs_a_name():
    """An empty name is refused."""
    with pytest.raises(ConfigError, match="needs a name"):
        arrange({"": 1}, PROGRESS)
