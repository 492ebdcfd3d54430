"""What is pickled comes back the same from our own reader, and PyTorch's; whatever else is read is refused."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import tracemalloc
from collections import Counter, OrderedDict

import pytest
import torch
from hypothesis import given, settings
from torch import _weights_only_unpickler

import trees
from holdfast.engine import pickling, unpickling
from holdfast.engine.statetree import MAX_DEPTH, TensorRef
from holdfast.engine.unpickling import PickleError
from holdfast.errors import ConfigError
from pickles import SAMPLE, dumped, readable
from saving import difference

DTYPES = sorted({str(d).removeprefix("torch.") for d in vars(torch).values() if isinstance(d, torch.dtype)})


def nameless(root):
    """A tree whose references have no paths: a pickle does not hold them."""
    if isinstance(root, TensorRef):
        return repr(root).replace(repr(root.path), "''", 1)
    if isinstance(root, dict):
        return [(repr(k), nameless(v)) for k, v in root.items()]
    if isinstance(root, set):
        return sorted(map(repr, root))
    return [nameless(v) for v in root] if type(root) in (list, tuple) else repr(root)


@settings(max_examples=300)
@given(trees.PLAIN)
def test_every_plain_tree_comes_back_the_same(state):
    """In value, exact type, order of keys and every bit of every number."""
    root, raw = dumped(state)
    assert difference(unpickling.loads(raw), root) is None


@settings(max_examples=200)
@given(trees.PLAIN)
def test_pytorchs_safe_unpickler_reads_every_plain_tree(state):
    """The same bytes mean the same to the loader that everybody else uses."""
    root, raw = dumped(state)
    assert difference(_weights_only_unpickler.load(io.BytesIO(raw), encoding="utf-8"), root) is None


@given(trees.STATES)
def test_every_tree_with_tensors_comes_back_with_the_same_references(state):
    """Storage, place, shape, stride, data type and the wish for a gradient survive."""
    root, raw = dumped(state)
    assert nameless(unpickling.loads(raw)) == nameless(root)


@pytest.mark.parametrize("name", DTYPES)
def test_every_data_type_of_torch_is_a_plain_value(name):
    """Also those of which there can be no tensors in a checkpoint."""
    dtype = getattr(torch, name)
    assert unpickling.loads(dumped([dtype, dtype])[1]) == [dtype, dtype]


def test_the_same_values_met_twice_are_pickled_once_and_read_twice():
    """Strings, names, sizes and bytes are shared in the pickle, containers never."""
    text, raw, size, key, number = "text" * 10, b"bytes" * 10, torch.Size([1]), ("k", 1), 1 + 2j
    state = [text, raw, size, number, {key: text}, {key: raw}, OrderedDict(), OrderedDict(), {1}, {1}, Counter(), size]
    root, data = dumped([state, state])
    assert data.count(b"texttext") == 1 + 4
    assert difference(unpickling.loads(data), root) is None
    again = unpickling.loads(data)
    assert again[0] is not again[1]
    assert again[0][4] is not again[1][4]


def test_the_deepest_state_that_is_taken_apart_is_read_back():
    """Whatever it is deep in: what is saved can be loaded."""
    for wrap in (lambda s: [s], lambda s: (s,), lambda s: {"k": s}, lambda s: OrderedDict(k=s), lambda s: Counter(k=s)):
        state = torch.nn.Parameter(torch.ones(2))
        for _ in range(MAX_DEPTH):
            state = wrap(state)
        root, raw = dumped(state)
        assert nameless(unpickling.loads(raw)) == nameless(root)


def test_one_level_more_than_any_save_writes_is_refused():
    """Depth has an end, so that no walk of what was read runs out of stack."""
    most = next(
        n for n in range(MAX_DEPTH, 10 * MAX_DEPTH) if not readable(b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b".")
    )
    assert MAX_DEPTH < most < MAX_DEPTH + 30
    for raw in (b"]" * 100_000 + b"a" * 99_999, b")" + b"\x85" * 100_000, b"}" + b"K\x01}" * 200 + b"s" * 200):
        with pytest.raises(PickleError, match="deep"):
            unpickling.loads(b"\x80\x02" + raw + b".")


def test_a_pickle_longer_than_a_reader_accepts_is_not_written(monkeypatch):
    """The bound of 256 MiB holds on both sides, and the error says what to do."""
    assert pickling.MAX_BYTES == 256 * 2**20
    root, raw = dumped(["x" * 100])
    monkeypatch.setattr(pickling, "MAX_BYTES", len(raw))
    monkeypatch.setattr(unpickling, "MAX_BYTES", len(raw))
    assert unpickling.loads(pickling.dumps(root, len)) == root
    monkeypatch.setattr(pickling, "MAX_BYTES", len(raw) - 1)
    monkeypatch.setattr(unpickling, "MAX_BYTES", len(raw) - 1)
    with pytest.raises(ConfigError, match="Keep long lists of numbers as tensors"):
        pickling.dumps(root, len)
    with pytest.raises(PickleError, match="more than"):
        unpickling.loads(raw)


def test_the_sample_that_is_cut_and_changed_below_is_read():
    """What the next tests refuse was right before."""
    assert readable(SAMPLE)


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda o: o.name)
def test_only_the_opcodes_that_writing_uses_are_known(opcode):
    """The list is closed: the sample uses all that there are."""
    used = {o.name for o, _, _ in pickletools.genops(SAMPLE)}
    code = opcode.code.encode("latin-1")
    known = code in unpickling._STEPS or code == b"."
    assert known is (opcode.name in used)


def test_no_beginning_of_a_pickle_is_a_pickle():
    """Cut anywhere it is refused, and so is anything after its end."""
    assert [n for n in range(len(SAMPLE)) if readable(SAMPLE[:n])] == []
    assert not readable(SAMPLE + b".")
    assert not readable(SAMPLE + SAMPLE)


GREEDY = {
    "dictionaries": b"}",
    "lists": b"]",
    "tuples": b")\x85",
    "deep tuples": b")" + b"\x85" * 100,
    "sets": b"h\x00]\x85R",
    "ordered dictionaries": b"h\x01)R",
    "counters": b"h\x02}\x85R",
    "memo": b"K\x01r\x00\x00\x00\x00",
}


@pytest.mark.parametrize("name", GREEDY)
def test_memory_is_in_proportion_to_the_pickle(name):
    """However small the opcodes that make the largest objects: at most 100 bytes for each byte read."""
    start = (
        b"\x80\x02](c__builtin__\nset\nq\x00]\x85Rccollections\nOrderedDict\nq\x01)Rccollections\nCounter\nq\x02}\x85R"
    )
    one = GREEDY[name]
    pieces = [one] * (40_000 // len(one))
    if name == "memo":
        pieces = [b"K\x01r" + struct.pack("<I", 2**32 - 1 - at) for at in range(len(pieces))]
    raw = start + b"".join(pieces) + b"e."
    tracemalloc.start()
    try:
        value = unpickling.loads(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(value) == 3 + len(pieces)
    assert peak < 100 * len(raw)


def test_a_length_that_lies_takes_no_memory():
    """Four bytes that claim 4 GiB are refused before anything is made of them."""
    tracemalloc.start()
    try:
        for raw in (
            b"X\xff\xff\xff\xff",
            b"X\xff\xff\xff\x7fabc",
            b"\x8a\xff1",
            b"Nr\xff\xff\xff\xff.",
            b"\x8b\xff\xff\xff\x7f",
        ):
            readable(b"\x80\x02" + raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    assert pickle.loads(b"\x80\x02Nr\xff\xff\x00\x00.") is None


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (
            b"c_codecs\nencode\nq\x01X\x40\x42\x0f\x00" + b"a" * 10**6 + b"q\x02X\x06\0\0\0latin1q\x03\x86R",
            b"h\x01h\x02h\x03\x86R",
        ),
        (b"ctorch\nSize\nq\x01(" + b"K\x01" * 10**5 + b"tq\x02\x85R", b"h\x01h\x02\x85R"),
        (b"(" + b"K\x01" * 10**5 + b"tq\x02", b"h\x02"),
    ],
    ids=["bytes", "a size", "a tuple"],
)
def test_a_pickle_that_unfolds_is_refused(once, again):
    """A megabyte does not become gigabytes by being named over and over."""
    with pytest.raises(unpickling.PickleError, match="unfolds"):
        unpickling.loads(b"\x80\x02](" + once + again * 3000 + b"e.")
