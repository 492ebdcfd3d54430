"""Draw states for Hypothesis: nested plain values of every kind that a checkpoint holds, tensors among them."""

from __future__ import annotations

import argparse
import datetime
import pathlib
from collections import Counter, OrderedDict

import numpy as np
import torch
from hypothesis import strategies as st

KEYS = st.one_of(
    st.text(max_size=8),
    st.integers(-(2**80), 2**80),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.tuples(st.text(max_size=3), st.integers()),
)
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**2000), 2**2000),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.binary(min_size=1, max_size=20),
    st.sampled_from([torch.Size([]), torch.Size([2, 3]), torch.float16, torch.device("cpu"), torch.device("cuda:1")]),
    st.sets(st.one_of(st.text(max_size=3), st.integers(), st.none()), max_size=3),
)
NEAREST = st.one_of(
    st.just(b""),
    st.timedeltas(datetime.timedelta(days=-9_999), datetime.timedelta(days=9_999)),
    st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc)),
    st.dates(),
    st.builds(pathlib.Path, st.text("abc/.", max_size=8)),
    st.builds(np.int16, st.integers(-(2**15), 2**15 - 1)),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.float64, st.floats()),
    st.builds(np.bool_, st.booleans()),
    st.builds(lambda n: np.arange(n, dtype=np.int32).reshape(-1, 1), st.integers(0, 4)),
)


@st.composite
def tensors(draw):
    """A small tensor of some common data type, sometimes a view, sometimes asking for a gradient."""
    dtype = draw(
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64])
    )
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    made = torch.arange(int(np.prod(shape)) + 2).to(dtype)[1:-1].reshape(shape)
    if draw(st.booleans()) and made.dim() > 1:
        made = made.transpose(0, 1)
    if draw(st.booleans()) and dtype.is_floating_point:
        made = made.clone().requires_grad_()
    return made


def _ordered(items, metadata):
    made = OrderedDict(items)
    if metadata:
        made._metadata = OrderedDict({"": {"version": 1}})
    return made


def _containers(inner):
    items = st.dictionaries(KEYS, inner, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        items,
        st.builds(_ordered, items, st.booleans()),
        st.builds(Counter, st.dictionaries(KEYS, st.integers(), max_size=3)),
    )


def _any_containers(inner):
    return st.one_of(_containers(inner), st.dictionaries(KEYS, inner, max_size=4).map(_namespace))


def _namespace(items):
    made = argparse.Namespace()
    vars(made).update({str(key): value for key, value in items.items()})
    return made


PLAIN = st.recursive(ATOMS, _containers, max_leaves=12)
STATES = st.recursive(st.one_of(ATOMS, NEAREST, tensors()), _any_containers, max_leaves=12)
