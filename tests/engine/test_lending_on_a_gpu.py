"""What a GPU lends is read through pinned memory beside the training; its step waits, and no file is ever torn."""

from __future__ import annotations

import pytest
import torch

import lent
from holdfast.catalog.folder import Folder
from holdfast.engine import snapshot, statetree
from holdfast.engine.lending import LEAST, lendable
from holdfast.store import MemoryStore
from saving import difference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

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
