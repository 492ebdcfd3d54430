"""A state is taken apart without a loss, with no more memory than it refers to, or refused by name."""

from __future__ import annotations

import argparse
import datetime
import pathlib
from collections import Counter, OrderedDict, defaultdict, namedtuple
from fractions import Fraction

import numpy as np
import pytest
import torch

from holdfast.engine import snapshot
from holdfast.engine.statetree import (
    MAX_DEPTH,
    TensorRef,
    at,
    dotted,
    put_together,
    references,
    spelled,
    take_apart,
)
from holdfast.errors import ConfigError
from saving import bits, difference


def rebuilt(state):
    """The state put together again over the storages of its tree."""
    tree = take_apart(state)
    return put_together(tree.root, lambda ref: ref.over(tree.storages[ref.storage]))


def stored_bytes(state):
    """Bytes of all storages that a checkpoint of the state would hold."""
    return sum(s.nbytes() for s in take_apart(state).storages.values())


def share(a, b):
    """Whether two tensors lie in one memory."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


# Containers


def test_containers_are_copied_and_tensors_are_lent():
    """What happens to the state's own dictionaries afterwards does not show; tensors are not copied here."""
    state = {"a": [1, {"b": torch.ones(3)}], "c": Counter("aab"), "d": {1, 2}}
    tree = take_apart(state)
    state["a"][1]["b2"] = state["a"].append(2)
    state["c"]["a"] = 7
    state["d"].add(3)
    again = put_together(tree.root, lambda ref: ref.over(tree.storages[ref.storage]))
    assert difference(again, {"a": [1, {"b": torch.ones(3)}], "c": Counter("aab"), "d": {1, 2}}) is None
    assert share(again["a"][1]["b"], state["a"][1]["b"])


def test_paths_are_known_of_every_tensor():
    """References stand in the order of the tree, each with its dotted path."""
    tree = take_apart({"b": [torch.ones(1), {"x": torch.ones(2)}], "a": torch.ones(3), 7: (torch.ones(4),)})
    assert [r.path for r in tree.tensors] == ["b.0", "b.1.x", "a", "7.0"]
    assert list(references(tree.root)) == tree.tensors
    assert at(tree.root, ("b", 1, "x")) is tree.tensors[1]


def test_tensors_of_metadata_are_references_too():
    """What hangs on an OrderedDict as its metadata is walked like the rest."""
    state = OrderedDict(a=torch.ones(1))
    state._metadata = OrderedDict(x={"version": 2, "t": torch.zeros(2)})
    tree = take_apart(state)
    assert {r.path for r in references(tree.root)} == {"a", "_metadata.x.t"}
    assert difference(rebuilt(state), state) is None


def test_names_are_given_by_the_caller():
    """A tensor is called by what ``name`` makes of its path, in ``keep`` as in the tree."""
    asked = []
    tree = take_apart(
        {"state_dict": {"w": torch.ones(1)}},
        name=lambda path: dotted(("model", *path[1:])),
        keep=lambda name, tensor: asked.append(name) or True,
    )
    assert asked == [r.path for r in tree.tensors] == ["model.w"]


def test_a_tensor_that_is_not_kept_leaves_no_trace():
    """It goes from its dictionary with its key; in a list, where places count, None stands for it."""
    state = {"keep": torch.ones(1), "drop": torch.ones(9), "list": [torch.ones(1), torch.ones(9), 3]}
    tree = take_apart(state, keep=lambda name, tensor: tensor.numel() == 1)
    assert list(tree.root) == ["keep", "list"]
    assert tree.root["list"][1:] == [None, 3]
    assert [r.path for r in tree.tensors] == ["keep", "list.0"]
    assert sum(s.nbytes() for s in tree.storages.values()) == 8


# Storages


def test_tied_tensors_are_one_storage():
    """The same tensor in two places, and two views of all of it, are stored once and stay one memory."""
    w = torch.randn(4, 5)
    state = {"a": w, "b": w, "c": w.view(20), "d": w.t(), "e": torch.nn.Parameter(w)}
    assert stored_bytes(state) == 80
    again = rebuilt(state)
    assert all(share(again["a"], t) for t in again.values())
    assert difference(again, state) is None
    assert again["d"].stride() == (1, 5)


def test_overlapping_views_still_overlap():
    """A write through one shows in the other, as it did before."""
    base = torch.arange(100.0)
    again = rebuilt({"a": base[:60], "b": base[40:]})
    again["a"][50] = -1.0
    assert again["b"][10] == -1.0


def test_of_a_storage_of_which_less_than_half_is_referenced_only_that_is_kept():
    """A row of a large matrix costs a row, in whatever way it is cut out."""
    big = torch.arange(10_000.0).reshape(100, 100)
    for state, size in (
        ({"row": big[7]}, 400),
        ({"column": big[:, 7]}, 400),
        ({"block": big[10:20, 10:20]}, 400),
        ({"last": big[99, 99]}, 4),
        ({"some": big[:49]}, 19_600),
        ({"half": big[:50]}, 40_000),
        ({"rows": [big[i] for i in range(40)]}, 16_000),
        ({"none": big[:0]}, 0),
        ({"repeated": big[3, 3].expand(1_000_000)}, 4),
        ({"repeated rows": big[3].expand(1000, 100)}, 400),
    ):
        assert stored_bytes(state) == size, state.keys()
        assert difference(rebuilt(state), state) is None


def test_what_is_compacted_stays_tied():
    """Views of one small part of a memory, equal or overlapping, still share after most of it is left out."""
    big = torch.arange(1000.0)
    part = big[100:110]
    state = {"a": part, "b": big[100:110], "c": part.view(2, 5), "d": big[105:115], "e": big[500:501]}
    assert stored_bytes(state) == (15 + 1) * 4
    again = rebuilt(state)
    assert difference(again, state) is None
    again["a"][7] = -1.0
    assert [again["b"][7], again["c"][1, 2], again["d"][2]] == [-1.0, -1.0, -1.0]
    assert not share(again["a"], again["e"])


def test_many_views_of_one_small_part_do_not_make_it_look_large():
    """What is referenced twenty times is referenced once."""
    big = torch.arange(100.0)
    state = {"views": [big[:10].view(10, *([1] * n)) for n in range(20)]}
    assert stored_bytes(state) == 40


def test_one_memory_seen_as_two_data_types_is_two_storages():
    """Both come back with their own bits; a file's storage has one data type."""
    raw = torch.arange(16, dtype=torch.uint8)
    state = {"raw": raw, "floats": raw.view(torch.float32), "odd": raw[:7]}
    tree = take_apart(state)
    assert [r.storage for r in tree.tensors] == ["0", "1", "0"]
    assert difference(rebuilt(state), state) is None


def test_views_keep_their_strides():
    """Transposed, stepped and expanded tensors come back as the same views."""
    base = torch.randn(6, 8)
    for view in (base.t(), base[::2, ::3], base[:1].expand(5, 8), base.unfold(1, 4, 2), base.unsqueeze(0)):
        again = rebuilt({"v": view, "whole": base})["v"]
        assert (again.shape, again.stride(), again.storage_offset()) == (
            view.shape,
            view.stride(),
            view.storage_offset(),
        )
        assert bits(again) == bits(view)


def test_lazy_conjugates_and_negatives_are_made_real():
    """A view whose values exist only when it is read is stored as those values."""
    z = torch.randn(3, dtype=torch.complex64)
    state = {"conj": z.conj(), "neg": torch._neg_view(torch.ones(3)), "imag": z.conj().imag}
    assert state["conj"].is_conj()
    assert state["neg"].is_neg()
    again = rebuilt(state)
    assert again["conj"].tolist() == state["conj"].tolist()
    assert again["neg"].tolist() == [-1.0, -1.0, -1.0]
    assert again["imag"].tolist() == state["imag"].tolist()
    assert not any(t.is_conj() or t.is_neg() for t in again.values())


def test_gradients_are_not_followed_but_remembered_as_wanted():
    """A parameter and a tensor inside a graph come back as leaves that ask for a gradient."""
    w = torch.nn.Parameter(torch.ones(2))
    again = rebuilt({"w": w, "y": w * 2, "n": torch.ones(1)})
    assert [t.requires_grad for t in again.values()] == [True, True, False]
    assert all(t.is_leaf for t in again.values())


def test_a_snapshot_is_safe_from_what_happens_to_the_state():
    """After the copy, neither a write nor a resize of the tensors changes it."""
    w, b = torch.arange(4.0), torch.arange(3)
    tree = take_apart({"w": w, "b": b, "v": w[1:]})
    taken = snapshot.take(tree)
    w.fill_(9)
    b.resize_(0)
    again = put_together(taken.tree.root, lambda ref: ref.over(taken.tree.storages[ref.storage]))
    assert [t.tolist() for t in again.values()] == [[0, 1, 2, 3], [0, 1, 2], [1, 2, 3]]
    assert taken.bytes == 16 + 24
    assert share(again["w"], again["v"])


# Plain and opaque

Pair = namedtuple("Pair", "a b")


class Thing:
    """A user's own class."""

    def __init__(self) -> None:
        self.inside = 5


class Stubborn:
    """A user's class that refuses to be pickled, in its own way."""

    def __reduce__(self):
        raise ZeroDivisionError("no")


PLAIN = {
    "none": None,
    "true": True,
    "ints": [0, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63, -(2**64), 2**2039 - 1],
    "floats": [0.0, -0.0, 1e-320, 1.5, float("inf"), float("-inf"), float("nan")],
    "text": ["", "a", "\x00", "\n", "é", "\U0001f642", "\ud800", "x" * 300],
    "bytes": [b"a", bytes(range(256)), b"x" * 300],
    "complex": [1 + 2j, complex("nan+infj"), complex(-0.0, 0.0)],
    "nested": ((), [], {}, [[]], ((),), {"a": {}}),
    "size": torch.Size([1, 2, 3]),
    "no size": torch.Size([]),
    "dtypes": [torch.float32, torch.bfloat16, torch.qint8, torch.bits8],
    "devices": [torch.device("cpu"), torch.device("cuda", 3), torch.device("meta")],
    "set": {1, "a", None, 2.5},
    "empty set": set(),
    "counter": Counter({5: 1, 10: 2, "x": 0.5}),
    "ordered": OrderedDict([("b", 1), ("a", OrderedDict())]),
    "keys": {1: 1, 2.5: 2, None: 3, "": 4, (1, "a"): 5, (): 6, -(2**70): 7},
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_stay_what_they_are(name):
    """They are in the tree themselves, neither encoded nor opaque."""
    tree = take_apart({"value": PLAIN[name]})
    assert difference(tree.root["value"], PLAIN[name]) is None
    assert (tree.types, tree.opaque, tree.tensors) == ({}, {}, [])


NEAREST = {
    "empty bytes": (b"", "", "bytes"),
    "path": (pathlib.Path("/a/b"), "/a/b", "pathlib.Path"),
    "timedelta": (datetime.timedelta(days=3, microseconds=7), 259200.000007, "datetime.timedelta"),
    "datetime": (datetime.datetime(2024, 2, 29, 1, 2, 3, 4), "2024-02-29T01:02:03.000004", "datetime.datetime"),
    "date": (datetime.date(2024, 2, 29), "2024-02-29", "datetime.date"),
    "namespace": (argparse.Namespace(a=1, b="x"), {"a": 1, "b": "x"}, "argparse.Namespace"),
    "defaultdict": (defaultdict(list, a=[1]), {"a": [1]}, "collections.defaultdict"),
    "numpy bool": (np.bool_(True), True, f"numpy.{np.bool_.__name__}"),
    "numpy float": (np.float32(1.5), 1.5, "numpy.float32"),
    "numpy double": (np.float64(1.5), 1.5, "numpy.float64"),
    "numpy int": (np.uint64(2**64 - 1), 2**64 - 1, "numpy.uint64"),
    "numpy complex": (np.complex64(1j), 1j, "numpy.complex64"),
}


@pytest.mark.parametrize("name", NEAREST)
def test_a_value_of_the_closed_list_is_held_as_its_nearest_plain_one(name):
    """The tree has the plain value, ``types`` the exact type by path."""
    value, nearest, kind = NEAREST[name]
    tree = take_apart({"a": [value]})
    assert difference(tree.root["a"][0], nearest) is None
    assert tree.types == {"a.0": kind}


ONLY_OPAQUE = {
    "a function": len,
    "a lambda": lambda: 1,
    "an object": Thing(),
    "a named tuple": Pair(1, 2),
    "a huge int": 2**2039,
    "a negative huge int": -(2**2040),
    "a frozen set": frozenset({1}),
    "a set of tuples": {(1, 2)},
    "a set of huge ints": {2**3000},
    "a dictionary with a key that is bytes": {b"k": torch.ones(1)},
    "a dictionary with a key that is huge": {"first": torch.ones(1), 2**3000: 1},
    "a dictionary with a key that is an object": {Thing: 1},
    "a dictionary with a nested tuple for a key": {((1,),): 1},
    "a fraction": Fraction(1, 3),
    "a long time": datetime.timedelta.max,
    "a time of microseconds over centuries": datetime.timedelta(days=-200_000, microseconds=1),
    "an array of objects": np.array([Thing()], dtype=object),
    "an array of text": np.array(["a"]),
    "an array of dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
    "an array of another byte order": np.arange(3, dtype=np.dtype("int32").newbyteorder()),
    "an array of long doubles": np.zeros(2, dtype=np.longdouble),
    "a structured array": np.zeros(2, dtype=[("a", "i4")]),
    "a long double": np.longdouble(1),
    "a subclass of dict": type("Sub", (dict,), {})(a=1),
    "a bytearray": bytearray(b"x"),
}


@pytest.mark.parametrize("name", ONLY_OPAQUE)
def test_what_is_not_plain_is_set_aside_whole(name):
    """The tree holds None for it, and nothing of its inside is told of twice."""
    tree = take_apart({"a": {"b": ONLY_OPAQUE[name]}})
    assert tree.root == {"a": {"b": None}}
    assert list(tree.opaque) == ["a.b"]
    assert tree.opaque["a.b"] is ONLY_OPAQUE[name]
    assert (tree.types, tree.tensors, tree.storages) == ({}, [], {})


def test_an_opaque_value_is_pickled_or_lost_and_never_stops_a_save():
    """A lambda cannot be pickled, nor can what raises anything at all; an object can."""
    taken = snapshot.take(take_apart({"f": lambda: 1, "s": Stubborn(), "t": Thing(), "n": 1}))
    assert list(taken.opaque) == ["t"]
    assert taken.lost == ("f", "s")


def test_no_two_paths_are_spelled_alike():
    """Keys with dots, numbers as text and as numbers, and nested keys each have a path of their own."""
    paths = [
        ("a", "b"), ("a.b",), ("a", "'b'"), ("a", 1), ("a", "1"), ("a", 1.0), ("a", True), ("a", "True"), ("a", None),
        ("a", (1, 2)), ("a", 1, 2), ("a", "1.2"), ("a", ""), ("a",), ("a", "[1.0]"), ("a", ("b",)), ("", "a"), (0.5,),
        (0, 5),
    ]  # fmt: skip
    assert len({spelled(p) for p in paths}) == len(paths)
    assert spelled(("hyper", "path", 0)) == "hyper.path.0"


# What is refused


class Wrapper(torch.Tensor):
    """A tensor that holds others."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError


REFUSED = {
    "sparse": (lambda: torch.ones(2, 2).to_sparse(), "layout is torch.sparse_coo"),
    "compressed": (
        lambda: torch.sparse_csr_tensor([0, 1], [0], [1.0], size=(1, 1), check_invariants=True),
        "layout is torch.sparse_csr",
    ),
    "quantised": (lambda: torch._empty_affine_quantized([2], scale=1.0, zero_point=0, dtype=torch.qint8), "quantised"),
    "meta": (lambda: torch.ones(2, device="meta"), "meta device"),
    "wrapper": (lambda: Wrapper(torch.ones(2)), "Wrapper, which wraps other tensors"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "it is nested"),
    "bits": (lambda: torch.ones(4, dtype=torch.uint8).view(torch.bits8), "data type is torch.bits8"),
    "four bits": (lambda: torch.ones(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "data type is torch.float4"),
}


@pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support", "ignore:The PyTorch API of nested", "ignore:torch.quantize_per_tensor"
)
@pytest.mark.parametrize("name", REFUSED)
def test_a_tensor_that_a_checkpoint_cannot_hold_is_refused_by_its_path(name):
    """The error names the tensor and what is the matter with it, before anything is written."""
    make, why = REFUSED[name]
    with pytest.raises(ConfigError, match=why) as caught:
        take_apart({"model": {"layer": [make()]}})
    assert "'model.layer.0'" in str(caught.value)


def test_what_is_left_out_is_not_refused():
    """A tensor that no checkpoint can hold is in nobody's way where it is not wanted."""
    state = {"a": torch.ones(1), "b": torch.ones(2, device="meta")}
    assert list(take_apart(state, keep=lambda name, tensor: name == "a").root) == ["a"]


def deep(levels, wrap):
    state = 1
    for _ in range(levels):
        state = wrap(state)
    return state


WRAPS = {
    "lists": lambda s: [s],
    "tuples": lambda s: (s,),
    "dictionaries": lambda s: {"k": s},
    "ordered dictionaries": lambda s: OrderedDict(k=s),
    "counters": lambda s: Counter(k=s),
    "namespaces": lambda s: argparse.Namespace(k=s),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_a_state_that_is_too_deep_is_refused_by_its_path(wrap):
    """At the limit it is taken apart, one level deeper it is not."""
    levels = MAX_DEPTH if wrap is not WRAPS["namespaces"] else MAX_DEPTH // 2
    take_apart(deep(levels, wrap))
    with pytest.raises(ConfigError, match=f"deeper than {MAX_DEPTH}"):
        take_apart(deep(levels + 1, wrap))


def test_a_state_that_contains_itself_is_refused():
    """It has no end, and the walk has one."""
    state = {"a": [1]}
    state["a"].append(state)
    with pytest.raises(ConfigError, match=r"contains itself, at 'a\.1\.a\.1"):
        take_apart(state)


def test_a_reference_says_how_its_data_type_is_called():
    """By the name in the manifest, without PyTorch's prefix."""
    assert TensorRef("", "0", "cpu", torch.bfloat16, (), (), 0).dtype_name == "bfloat16"
