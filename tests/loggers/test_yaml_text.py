"""What the file of hyperparameters promises: a safe YAML reader reads back the nearest plain values."""

from __future__ import annotations

import datetime
import logging
import math
from argparse import Namespace
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.loggers.yaml_text import yaml_text

yaml = pytest.importorskip("yaml")

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text(), _TREES, max_size=4))
def test_any_plain_values_come_back_as_they_were(values):
    """Whatever letters, sizes of numbers and depth: what PyYAML reads equals what was written, types included."""
    read = yaml.safe_load(yaml_text(values))

    assert repr(read) == repr(values)


class Colour(Enum):
    RED = "red"


@dataclass
class Size:
    width: int
    height: int


def test_everyday_types_are_their_nearest_plain_value():
    """Paths, enums, dataclasses, namespaces, NumPy's numbers, times, sets and tuples."""
    values = {
        "path": Path("data/mnist"),
        "colour": Colour.RED,
        "size": Size(3, 4),
        "extra": Namespace(lr=1e-05, nested={"deep": [1, (2, Path("x"))]}),
        "numpy": np.float32(0.5),
        "time": datetime.timedelta(minutes=2),
        "some": {3, 1, 2},
        "infinite": math.inf,
        "none": {},
        "yes": "no",
    }

    assert yaml.safe_load(yaml_text(values)) == {
        "path": "data/mnist",
        "colour": "red",
        "size": {"width": 3, "height": 4},
        "extra": {"lr": 1e-05, "nested": {"deep": [1, [2, "x"]]}},
        "numpy": 0.5,
        "time": 120.0,
        "some": [1, 2, 3],
        "infinite": math.inf,
        "none": {},
        "yes": "no",
    }


def test_it_reads_as_a_person_would_write_it():
    """One line each, nested mappings indented, names without quotes where none are needed."""
    assert yaml_text({"lr": 0.1, "opt": {"name": "adam", "betas": (0.9, 0.999)}, "n": 3}).splitlines() == [
        "lr: 0.1",
        "opt:",
        '  name: "adam"',
        "  betas: [0.9, 0.999]",
        '"n": 3',
    ]


def test_what_has_no_plain_value_is_left_out_and_named(caplog):
    """A function, a tensor or bytes do not keep the others from being written."""
    caplog.set_level(logging.INFO, "holdfast")
    values = {"lr": 0.1, "act": torch.relu, "inner": {"table": torch.ones(2)}, "raw": b"x", "model": torch.nn.ReLU()}

    assert yaml_text(values) == "lr: 0.1\n"

    [line] = [r.getMessage() for r in caplog.records]
    assert all(name in line for name in ("act", "inner", "raw"))


def test_nothing_is_an_empty_mapping():
    """A reader gets a dict, not None."""
    assert yaml.safe_load(yaml_text({})) == {}
