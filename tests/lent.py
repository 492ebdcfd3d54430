"""Real runs whose saves can be held before they read, or at any of their writes; states large enough to be lent."""

from __future__ import annotations

import threading

import torch

from holdfast import Checkpointer, every, everything
from holdfast.store import MemoryStore
from saving import load

WIDTH = 160
"""A weight of that width is lent, its bias is not."""


class HeldStore(MemoryStore):
    """A store that holds whoever writes a checkpoint, on whichever thread, from one of the calls on, until let go.

    Args:
        at: The call, counted from 0: making the sink, each write, the sync.
        error: What the call raises when he is let go.
    """

    def __init__(self, at=0, error=None):
        super().__init__()
        self.at, self.error = at, error
        self.reached, self.go = threading.Event(), threading.Event()
        self.armed = False
        self._calls, self._guard_calls = 0, threading.Lock()

    def hold(self):
        """Hold the next save; none is under way."""
        self.reached.clear()
        self.go.clear()
        self._calls, self.armed = 0, True

    def pass_by(self):
        """A call comes here; one that is to be held waits."""
        with self._guard_calls:
            mine, self._calls = self._calls >= self.at and self.armed, self._calls + 1
        if mine:
            self.reached.set()
            assert self.go.wait(60), "whoever holds lets go"
            self.armed = False
            if self.error is not None:
                raise self.error

    def create(self, name, *, owner, size):
        """A sink that may be held."""
        self.pass_by()
        return HeldSink(super().create(name, owner=owner, size=size), self)


class HeldSink:
    """A sink whose calls come by its store."""

    def __init__(self, sink, store):
        self._sink, self._store = sink, store

    def write_at(self, offset, data):
        """Write."""
        self._store.pass_by()
        self._sink.write_at(offset, data)

    def sync(self):
        """Make durable."""
        self._store.pass_by()
        self._sink.sync()

    def __getattr__(self, name):
        return getattr(self._sink, name)


def model(*, seed=0):
    """Two layers with large weights and small biases, and a buffer that forward changes."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, WIDTH), torch.nn.BatchNorm1d(WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    )


def backward(net):
    """A forward and a backward pass."""
    net(torch.randn(4, WIDTH)).square().mean().backward()


def train(net, *optimizers):
    """One step of each."""
    for optimizer in optimizers:
        optimizer.zero_grad()
        backward(net)
        optimizer.step()


def copied(state):
    """A state that nothing changes any more."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def state_of(net, optimizer):
    """What a checkpoint of them holds."""
    return copied({"model": dict(net.state_dict()), "optimizer": optimizer.state_dict()})


def checkpointer(store, **options):
    """A run that saves every step and keeps all."""
    return Checkpointer(store, when=every(steps=1), which=everything(), **options)


def on_disk(store):
    """Each checkpoint's model and optimizer, by its step."""
    names = {entry.name for entry in store.list() if entry.name.endswith(".ckpt")} - {"last.ckpt"}
    found = {}
    for name in names:
        loaded = load(store, name=name)
        found[int(name.partition("step=")[2].removesuffix(".ckpt"))] = {
            "model": dict(loaded["model"]),
            "optimizer": loaded["optimizer"],
        }
    return found
