"""Where torch is told to make new tensors elsewhere, on a GPU, saves and loads make theirs in host memory still."""

from __future__ import annotations

import pytest
import torch

import lent
from holdfast.engine.health import is_finite
from holdfast.engine.shards import copy
from holdfast.store import MemoryStore
from saving import difference, there_and_back

ELSEWHERE = torch.device("meta")
"""No tensor made there has any data: it cannot be taken for one in host memory."""


@pytest.fixture
def elsewhere():
    """New tensors are made elsewhere, on this thread."""
    with ELSEWHERE:
        yield


def test_a_run_saves_and_resumes():
    """By the writer's thread, and by the one that trains."""
    store, net = MemoryStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    lent.train(net, optimizer)
    state, other = lent.state_of(net, optimizer), lent.model(seed=1)
    another = torch.optim.AdamW(other.parameters())
    with ELSEWHERE:
        with lent.checkpointer(store) as ckpt:
            ckpt.resume("fresh", model=net, optimizer=optimizer)
            ckpt.step()
        with lent.checkpointer(store) as ckpt:
            ckpt.resume(model=other, optimizer=another)
    assert difference(lent.state_of(other, another), state) is None


def test_a_file_is_written_and_read_on_the_very_thread(elsewhere):
    """As a save to a path does."""
    state = {"w": torch.arange(1000, device="cpu"), "part": torch.ones(9, 7, device="cpu").t()[2:]}
    assert difference(there_and_back(state), state) is None


def test_copies_and_looks_are_taken_in_host_memory(elsewhere):
    """Of what ranks divide among them, and of weights that are to be finite."""
    weight = torch.tensor([1.0, float("nan")], device="cpu")
    assert copy("w", weight).device.type == "cpu"
    assert not is_finite(weight)
