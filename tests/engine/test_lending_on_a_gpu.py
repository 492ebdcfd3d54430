"""What a GPU lends is read through pinned memory beside the training; its step waits, and no file is ever torn."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
import torch

import lent
from holdfast.catalog.folder import Folder
from holdfast.engine import snapshot, statetree
from holdfast.engine.device import PIECE, Beside, There
from holdfast.engine.health import not_finite
from holdfast.engine.lending import LEAST, lendable
from holdfast.store import MemoryStore
from saving import difference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # torch says so of steps that no graph captures, and of a backward that is the first of its thread to multiply.
    pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True:UserWarning"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
KINDS = {
    "foreach": {"foreach": True},
    "one by one": {"foreach": False},
    "fused": {"fused": True},
    "in a graph": {"capturable": True},
}


def on_gpu(**options):
    """A network there, and its optimizer."""
    net = lent.model().cuda()
    return net, torch.optim.AdamW(net.parameters(), **options)


def train(net, optimizer):
    """One step, which the GPU may still be at when it returns."""
    optimizer.zero_grad()
    net(torch.randn(4, lent.WIDTH, device="cuda")).square().mean().backward()
    optimizer.step()


def on_host(state):
    """A state in host memory."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: on_host(value) for key, value in state.items()}
    return [on_host(value) for value in state] if isinstance(state, list) else state


def looked_at(tensor):
    """What is found to be not finite in a state of this one tensor."""
    return not_finite(statetree.take_apart({"w": tensor}), {"w"}, Beside([tensor.device]))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_file_is_the_state_at_its_save(options):
    """Two hundred steps, each saved while the next is under way: equal to a copy that was taken before."""
    store = MemoryStore()
    net, optimizer = on_gpu(**options)
    states = {}
    with lent.checkpointer(store) as ckpt:
        ckpt.resume("fresh", model=net, optimizer=optimizer)
        for step in range(1, 201):
            train(net, optimizer)
            states[step] = lent.state_of(net, optimizer)
            ckpt.step()
    found = lent.on_disk(store)
    assert found.keys() == states.keys()
    for step, state in states.items():
        assert difference(on_host(state), on_host(found[step])) is None


def test_a_save_takes_no_memory_of_the_gpu():
    """Large tensors are read where they are."""
    net, optimizer = on_gpu()
    train(net, optimizer)
    tree = statetree.take_apart({"model": net.state_dict(), "optimizer": optimizer.state_dict()})
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    taken = snapshot.take(tree, lendable([optimizer], [net]))
    large = {key for key, storage in tree.storages.items() if storage.nbytes() >= LEAST}
    in_place = {key for key, s in taken.tree.storages.items() if s.device.type == "cuda"}
    assert in_place == large
    assert torch.cuda.max_memory_allocated() == before
    taken.window.release()


def test_a_graph_that_steps_is_copied():
    """What a replayed graph changes, no hook announces: an optimizer that may be captured lends nothing."""
    net, optimizer = on_gpu(capturable=True)
    train(net, optimizer)
    assert lendable([optimizer], [net]) == ()


def test_weights_that_are_not_finite_are_found_there():
    """One NaN among many, on the GPU."""
    store = MemoryStore()
    net, optimizer = on_gpu()
    with lent.checkpointer(store) as ckpt:
        ckpt.resume("fresh", model=net, optimizer=optimizer)
        train(net, optimizer)
        ckpt.step()
        ckpt.fence()
        with torch.no_grad():
            net[0].weight[-1, -1] = float("nan")
        train(net, optimizer)
        ckpt.step()
    healthy = [record.healthy for record in sorted(Folder(store).scan().records, key=lambda record: record.order)]
    assert healthy == [True, False]


def test_a_step_that_a_graph_replays_tears_no_file():
    """Of an optimizer that never heard of graphs, too: nothing announces the step, and no version counts it."""
    store, net = MemoryStore(), lent.model().cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    batch = torch.randn(4, lent.WIDTH, device="cuda")

    def step():
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    states = {}
    with lent.checkpointer(store) as ckpt:
        ckpt.resume("fresh", model=net, optimizer=optimizer)
        for number in range(1, 51):
            graph.replay()
            states[number] = lent.state_of(net, optimizer)
            ckpt.step()
    found = lent.on_disk(store)
    assert found.keys() == states.keys()
    for number, state in states.items():
        assert difference(on_host(state), on_host(found[number])) is None


def test_an_optimizer_that_is_said_to_be_in_no_graph_lends():
    """Those that do not say so themselves are told to."""
    net = lent.model().cuda()
    optimizer = torch.optim.SGD(net.parameters())
    assert lendable([optimizer], [net]) == ()
    optimizer.param_groups[0]["capturable"] = False
    assert [id(one.parameter) for one in lendable([optimizer], [net])] == [id(net[0].weight), id(net[2].weight)]


def test_a_run_that_makes_its_tensors_there_saves():
    """Where a GPU is the default device, what a save makes for itself is in host memory still."""
    store = MemoryStore()
    with torch.device("cuda"):
        net, optimizer = on_gpu()
        with lent.checkpointer(store) as ckpt:
            ckpt.resume("fresh", model=net, optimizer=optimizer)
            train(net, optimizer)
            state = lent.state_of(net, optimizer)
            ckpt.step()
    assert difference(on_host(state), on_host(lent.on_disk(store)[1])) is None


def test_memory_of_any_length_comes_in_pieces():
    """Many, and a last one that is no whole one."""
    there = torch.randint(256, (3 * PIECE + 5,), dtype=torch.uint8, device="cuda")
    content = There(there.untyped_storage(), Beside([there.device]))
    pieces = [content[at : at + PIECE].tobytes() for at in range(0, content.nbytes(), PIECE)]
    assert b"".join(pieces) == there.cpu().numpy().tobytes()


def test_what_was_asked_before_is_waited_for():
    """On the stream that is the training's own, and though the GPU has not come to it yet."""
    there = torch.zeros(PIECE, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**9)  # clock ticks of the GPU
        there.fill_(1)
        content = There(there.untyped_storage(), Beside([there.device]))
    assert content[0:PIECE].all()


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_one_value_among_many_is_found_there(kind):
    """As in host memory; and the largest number is one still."""
    tensor = torch.ones(300_007, dtype=kind, device="cuda")
    numbers = torch.view_as_real(tensor).view(-1) if kind.is_complex else tensor
    numbers[:] = torch.finfo(kind).max
    assert looked_at(tensor) == ()
    for place in (0, 300_000, -1):
        for value in (float("nan"), float("inf"), float("-inf")):
            numbers[place] = value
            assert looked_at(tensor) == ("w",)
            numbers[place] = 0.0


def test_looking_keeps_no_memory_of_the_gpu():
    """A look takes next to none, and however often, torch's allocator sets aside as much as for the first."""
    tensor = torch.ones(2**24, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    reserved, before = [], torch.cuda.memory_allocated()
    for _ in range(40):
        assert looked_at(tensor) == ()
        reserved.append(torch.cuda.memory_reserved())
    assert all(one == other for one, other in pairwise(reserved))
    assert torch.cuda.max_memory_allocated() - before < tensor.nbytes // 64


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_reading_the_second_gpu_leaves_the_first_alone():
    """A context there would take some hundred megabytes of a GPU that is another's."""
    program = """
import threading, torch
from holdfast.engine.device import PIECE, Beside, There
there = torch.ones(PIECE, dtype=torch.uint8, device="cuda:1")
content = There(there.untyped_storage(), Beside([there.device]))
reader = threading.Thread(target=lambda: content[0:PIECE])
reader.start()
reader.join()
assert not torch._C._cuda_hasPrimaryContext(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
