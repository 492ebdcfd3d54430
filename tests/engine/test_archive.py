"""A saved state comes back bit for bit, from our own reader and from everybody else's."""

from __future__ import annotations

import argparse
import datetime
import io
import pathlib
import shutil
import subprocess
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.optim import lr_scheduler

import trees
from holdfast.catalog import layout
from holdfast.catalog import manifest as manifests
from holdfast.catalog.manifest import ITEM_BYTES, Manifest
from holdfast.catalog.verify import Verdict, verify
from holdfast.engine import archive, snapshot, statetree
from holdfast.engine.reader import CheckpointFile
from holdfast.errors import ConfigError, Corrupt, Foreign, Incompatible, NotFound
from holdfast.formats import lightning
from holdfast.policy.values import Progress
from holdfast.store import LocalStore, MemoryStore
from saving import NAME, difference, file_of, load, save, there_and_back

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def of_dtype(name):
    """Forty-eight bytes of every pattern as elements of one data type."""
    dtype = getattr(torch, name)
    if dtype is torch.bool:
        return torch.arange(48) % 3 == 0
    return torch.arange(48, dtype=torch.uint8).mul(5).view(dtype)


def stock(raw, tmp_path=None):
    """What PyTorch's own safe loader makes of a file; memory-mapped where there is a path for it."""
    if tmp_path is None:
        return torch.load(io.BytesIO(raw), weights_only=True)
    path = tmp_path / "stock.ckpt"
    path.write_bytes(raw)
    return torch.load(path, weights_only=True, mmap=True)


def moment():
    """A state with something of everything."""
    w = torch.randn(20, 30)
    z = torch.randn(3, dtype=torch.complex64)
    metadata = OrderedDict({"": {"version": 1}, "bn": {"version": 2}})
    model = OrderedDict(
        {
            "layer.weight": w,
            "tied.weight": w,
            "layer.bias": torch.nn.Parameter(torch.randn(20)),
            "bn.count": torch.tensor(7),
            "empty": torch.empty(0, 3),
            "view": w[2:4],
            "transposed": w.t(),
            "expanded": torch.randn(1).expand(1000),
            "conj": z.conj(),
            **{f"as {name}": of_dtype(name) for name in ITEM_BYTES},
        }
    )
    model._metadata = metadata
    return {
        "model": model,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "avg": torch.randn(4)}}, "param_groups": [{"lr": 0.1}]},
        "scheduler": {"milestones": Counter([5, 10]), "base_lrs": [0.1]},
        "history": [0.5, (1, 2), {"a": None}, {1, "x"}, b"bytes", 2**100, 1 + 2j],
    }


# Our own reader


@pytest.mark.parametrize("name", sorted(ITEM_BYTES))
def test_every_data_type_comes_back_bit_for_bit(name):
    """Full, empty, of no dimension, stepped, transposed, and asking for a gradient where it can."""
    t = of_dtype(name)
    state = {"all": t, "empty": t[:0], "scalar": t[1].clone(), "step": t[::3], "two": t[:2].view(2, 1).t()}
    if t.dtype.is_floating_point or t.dtype.is_complex:
        state["trained"] = t.clone().requires_grad_()
    assert t.element_size() == ITEM_BYTES[name]
    assert difference(there_and_back(state), state) is None


@settings(max_examples=150)
@given(trees.STATES)
def test_every_state_comes_back_the_same(state):
    """In value, exact type, order of keys and every bit of every number."""
    assert difference(there_and_back(state), state) is None


def test_a_whole_checkpoint_comes_back_the_same():
    """All parts of it, and the file verifies."""
    parts = moment()
    raw = file_of(parts)
    store = MemoryStore()
    store.put(NAME, raw)
    assert difference(load(store), dict(sorted(parts.items()))) is None
    with store.open(NAME) as reader:
        assert verify(reader).verdict is Verdict.WHOLE


def test_the_same_state_makes_the_same_file():
    """No time, no address and no chance is in it but what the manifest says."""
    torch.manual_seed(0)
    first = file_of(moment())
    torch.manual_seed(0)
    assert file_of(moment()) == first


def test_exact_types_come_back():
    """Paths, times, namespaces, numpy's scalars and arrays are what they were; a defaultdict is a dictionary."""
    state = {
        "path": pathlib.Path("runs") / "a.b",
        "times": [datetime.timedelta(days=2, microseconds=1), datetime.date(2024, 2, 29)],
        "zone": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.timezone(datetime.timedelta(hours=-5))),
        "hyper": argparse.Namespace(lr=np.float32(0.1), nested=argparse.Namespace(path=pathlib.Path("/")), t=b""),
        "scalars": [t(1) for t in (np.bool_, np.int8, np.uint64, np.float16, np.float64, np.complex128)],
        "arrays": (np.arange(6, dtype=np.uint16).reshape(2, 3).T, np.array(1.5), np.zeros((0, 2), dtype=bool)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "frozen": np.broadcast_to(np.float32(3), (4,)),
    }
    again = there_and_back(state)
    assert difference(again, state) is None
    assert again["frozen"].flags.writeable
    counts = there_and_back(defaultdict(int, a=1))
    assert (type(counts), counts) == (dict, {"a": 1})


def test_a_namespace_comes_back_whatever_its_names_are():
    """Also those that its own constructor would take for something else."""
    value = argparse.Namespace()
    vars(value).update({"self": 1, "__dict__": None, "not a word": 2})
    assert vars(there_and_back({"hyper": value})["hyper"]) == vars(value)


def test_exact_types_are_not_mixed_up_by_keys_that_look_alike():
    """A key with a dot, and a number beside its text, keep their own values' types."""
    path = pathlib.Path("x")
    state = {"a": {"b": path, 1: path, "1": "x"}, "a.b": "x", "a.1": "x", "'a.b'": path}
    assert difference(there_and_back(state), state) is None


def test_a_long_history_of_exact_types_is_read_in_time_that_grows_with_it():
    """Twenty thousand numpy numbers are no matter of minutes."""
    state = {"history": [np.float64(n) for n in range(20_000)]}
    assert difference(there_and_back(state), state) is None


def test_memory_that_is_shared_is_shared_again():
    """Tied within a part and across parts, and what overlaps overlaps."""
    w = torch.randn(10, 10)
    again = load_of({"model": {"a": w, "b": w, "v": w[3:]}, "ema": {"a": w, "own": w.clone()}})
    again["model"]["a"].fill_(7)
    assert all((t == 7).all() for t in (again["model"]["b"], again["model"]["v"], again["ema"]["a"]))
    assert not (again["ema"]["own"] == 7).any()


def load_of(parts):
    store = MemoryStore()
    save(store, parts)
    return load(store)


def test_parts_are_read_alone_and_only_their_bytes():
    """Damage in one part keeps nobody from another."""
    raw = bytearray(file_of({"model": {"w": torch.ones(100)}, "ema": {"w": torch.zeros(100)}}))
    store = MemoryStore()
    store.put(NAME, bytes(raw))
    with store.open(NAME) as reader:
        manifest = CheckpointFile(reader, name=NAME).manifest
    raw[next(e.offset for e in manifest.entries if e.name.endswith("data/1"))] ^= 1
    store.put(NAME, bytes(raw))
    with store.open(NAME) as reader:
        file = CheckpointFile(reader, name=NAME, good="'b.ckpt' is the newest other one.")
        assert file.part("model")["w"].sum() == 100
        with pytest.raises(Corrupt, match=r"tensor ema\.w") as caught:
            file.parts(["model", "ema"])
        assert "'b.ckpt' is the newest other one." in str(caught.value)
        with pytest.raises(NotFound, match="It holds: ema, model"):
            file.part("optimizer")


def test_a_part_goes_to_a_device_as_a_whole():
    """On another device too, what was tied is tied, and what asks for a gradient is a leaf."""
    w = torch.nn.Parameter(torch.randn(3))
    store = MemoryStore()
    save(store, {"model": {"a": w, "b": w, "n": 1}})
    with store.open(NAME) as reader:
        again = CheckpointFile(reader, name=NAME).part("model", location="meta")
    assert again["a"].device.type == "meta"
    assert again["a"].untyped_storage()._cdata == again["b"].untyped_storage()._cdata
    assert again["a"].is_leaf
    assert again["a"].requires_grad


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without the device")
@pytest.mark.parametrize("location", ["cuda:7", "nonsense", "xla:0"])
def test_a_device_that_this_machine_lacks_is_named(location):
    """The error says which, and how to read the file all the same."""
    store = MemoryStore()
    save(store, {"model": {"a": torch.ones(1)}})
    with store.open(NAME) as reader, pytest.raises(Incompatible, match=f"'{location}'.*location='cpu'"):
        CheckpointFile(reader, name=NAME).part("model", location=location)


class Thing:
    """A user's own class."""

    def __init__(self, inside: int) -> None:
        self.inside = inside


def test_opaque_values_come_back_only_when_they_are_asked_for():
    """The safe load has None in their place; the trusting one gives them by path, those that could be pickled."""
    store = MemoryStore()
    save(store, {"hooks": {"thing": Thing(3), "lambda": lambda: 1, "huge": 2**5000, "n": 1}})
    with store.open(NAME) as reader:
        file = CheckpointFile(reader, name=NAME)
        assert file.part("hooks") == {"thing": None, "lambda": None, "huge": None, "n": 1}
        opaque = file.opaque()
    assert list(opaque) == ["hooks.thing", "hooks.huge"] == list(file.manifest.opaque)
    assert (opaque["hooks.thing"].inside, opaque["hooks.huge"]) == (3, 2**5000)
    assert stock(file_of({"hooks": {"thing": Thing(3)}}))["holdfast"]["hooks"] == {"thing": None}


def test_a_file_without_opaque_values_has_none():
    """No entry, no list, no pickle to open."""
    store = MemoryStore()
    save(store, {"model": {"w": torch.ones(1)}})
    with store.open(NAME) as reader:
        file = CheckpointFile(reader, name=NAME)
        assert file.opaque() == {}
        assert layout.OPAQUE_ENTRY not in [e.name for e in file.manifest.entries]


def test_a_file_of_others_is_foreign():
    """A stock torch file, and an empty one."""
    store = MemoryStore()
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    for raw in (buffer.getvalue(), b""):
        store.put(NAME, raw)
        with store.open(NAME) as reader, pytest.raises(Foreign, match="not written by Holdfast"):
            CheckpointFile(reader, name=NAME)


def test_more_tensors_than_a_manifest_can_list_are_refused_before_anything_is_written(monkeypatch):
    """The error says what to do; a file that nobody could read is never made."""
    taken = snapshot.take(statetree.take_apart({"a": [torch.ones(1) for _ in range(100)]}))
    bare = Manifest(id="0" * 32, run=manifests.RunRef("1" * 32), sequence=1, progress=Progress())
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="100 tensors"):
        archive.lay_out(taken, bare)


# Other people's readers


def test_stock_torch_reads_the_same_values(tmp_path):
    """With ``weights_only=True``, copied and memory-mapped: equal bits, equal structure, our own entries unseen."""
    parts = moment()
    raw = file_of(parts)
    root, _ = lightning.arrange(parts, Progress(epoch=1, steps=2))
    for state in (stock(raw), stock(raw, tmp_path)):
        assert difference(state, root) is None


@settings(max_examples=75)
@given(trees.PLAIN)
def test_stock_torch_reads_every_plain_state(state):
    """Whatever plain values there are, ``weights_only=True`` accepts them and agrees."""
    again = stock(file_of({"state": state}))["holdfast"]["state"]
    assert difference(again, state) is None


@pytest.mark.parametrize("mapped", [False, True])
def test_stock_torch_keeps_what_is_tied(tmp_path, mapped):
    """Tensors of one memory are of one memory for stock readers too."""
    w = torch.randn(100, 100)
    again = stock(file_of({"model": {"a": w, "b": w, "v": w[50:]}}), tmp_path if mapped else None)["state_dict"]
    assert len({t.untyped_storage().data_ptr() for t in again.values()}) == 1
    again["a"].fill_(3)
    assert (again["v"] == 3).all()


@pytest.mark.parametrize("name", sorted(ITEM_BYTES))
def test_stock_torch_reads_every_data_type(tmp_path, name):
    """Also of storages whose length is no multiple of the element, and empty ones."""
    t = of_dtype(name)
    raw = torch.arange(3 * t.element_size() + 1, dtype=torch.uint8)
    state = {"all": t, "empty": t[:0], "own empty": t[:0].clone(), "scalar": t[1].clone()}
    if t.dtype is not torch.bool:
        state["odd"] = raw[: 3 * t.element_size()].view(t.dtype)
    data = file_of({"model": state})
    for again in (stock(data), stock(data, tmp_path)):
        assert difference(again["state_dict"], state) is None


def test_mapped_tensors_begin_where_a_page_or_a_cache_line_does(tmp_path):
    """Large ones at a page, small ones at 64 bytes, in the file and so in the mapping."""
    large, small = stock(file_of({"model": {"a": torch.ones(4096), "b": torch.ones(3)}}), tmp_path)[
        "state_dict"
    ].values()
    assert large.data_ptr() % 4096 == 0
    assert small.data_ptr() % 64 == 0


def test_zipfile_finds_every_checksum_right():
    """``testzip`` reads all entries; their names are PyTorch's and ours, in the order of the format."""
    with zipfile.ZipFile(io.BytesIO(file_of(moment()))) as file:
        assert file.testzip() is None
        names = file.namelist()
    assert names[:4] == [layout.FORMAT_ENTRY, layout.PICKLE_ENTRY, "archive/byteorder", "archive/version"]
    assert names[-1] == layout.MANIFEST_ENTRY
    assert names[4:-1] == [f"archive/data/{n}" for n in range(len(names) - 5)]


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip")
def test_unzip_finds_no_fault(tmp_path):
    """Info-ZIP tests the whole file without an error or a warning."""
    (tmp_path / "a.ckpt").write_bytes(file_of(moment()))
    done = subprocess.run(["unzip", "-t", "a.ckpt"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No errors detected" in done.stdout
    assert "warning" not in (done.stdout + done.stderr).lower()


def test_the_manifest_in_the_file_is_the_one_that_was_written(tmp_path):
    """``write`` returns what stands in the file, checksums included; so does any zip reader."""
    store = LocalStore(tmp_path)
    written = save(store, moment())
    with store.open(NAME) as reader:
        assert CheckpointFile(reader, name=NAME).manifest == written
    with zipfile.ZipFile(tmp_path / NAME) as file:
        assert Manifest.from_bytes(file.read(layout.MANIFEST_ENTRY)) == written
        assert {i.filename: i.CRC for i in file.infolist()[:-1]} == {e.name: e.crc for e in written.entries}


# Real optimizers and schedulers


def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-2),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, torch.tensor(1e-2), amsgrad=True),
    "SGD momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-2, centered=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 1e-2),
}


def trained(make, schedule=None, steps=4):
    """A model, optimizer and scheduler after a few steps."""
    torch.manual_seed(0)
    network = model()
    optimizer = make(network.parameters())
    scheduler = schedule(optimizer) if schedule else None
    for step in range(steps):
        go(network, optimizer, scheduler, step)
    return network, optimizer, scheduler


def go(network, optimizer, scheduler, step):
    torch.manual_seed(step)
    x = torch.randn(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = network(x).pow(2).mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss.item())
    elif scheduler is not None:
        scheduler.step()


def require_resumes(make, schedule=None):
    """Saved, loaded into fresh objects and trained on, they do what the ones that never stopped do."""
    network, optimizer, scheduler = trained(make, schedule)
    objects = {"model": network, "optimizer": optimizer} | ({"scheduler": scheduler} if scheduler else {})
    parts = {name: o.state_dict() for name, o in objects.items()}
    again = load_of(parts)
    assert difference(again, dict(sorted(parts.items()))) is None
    stocked = stock(file_of(parts))
    assert difference(stocked["state_dict"], again["model"]) is None
    assert difference(stocked["optimizer_states"], [again["optimizer"]]) is None
    fresh = dict(zip(objects, trained(make, schedule, steps=0), strict=False))
    for name, o in fresh.items():
        o.load_state_dict(again[name])
    for step in range(4, 8):
        go(network, optimizer, scheduler, step)
        go(fresh["model"], fresh["optimizer"], fresh.get("scheduler"), step)
    for name, o in fresh.items():
        assert difference(o.state_dict(), objects[name].state_dict()) is None


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_real_optimizers_go_on_where_they_were(make):
    """Their state is saved as it is, stock torch agrees, and four more steps give the same bits."""
    require_resumes(make)


def sequential(optimizer):
    first = lr_scheduler.LinearLR(optimizer, total_iters=3)
    return lr_scheduler.SequentialLR(optimizer, [first, lr_scheduler.ExponentialLR(optimizer, 0.9)], milestones=[3])


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 3, 3, 6]),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "SequentialLR": sequential,
}


@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step", "ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_real_schedulers_go_on_where_they_were(schedule):
    """Their state is saved as it is, and four more steps give the same rates and the same bits."""
    require_resumes(OPTIMIZERS["SGD momentum"], schedule)
