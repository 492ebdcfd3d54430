"""Whatever is done to both, the store in a folder and the one in memory give the same answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.errors import StoreError
from holdfast.store import Entry, LocalStore, MemoryStore, Store
from store.contract import read

# Few enough to meet often, and some of them folders of others.
NAMES = st.sampled_from(["a", "b.ckpt", "folder", "folder/a", "folder/b.ckpt", "folder/deep/a", "a/b"])
OWNERS = st.sampled_from(["run", "other"])
DATA = st.binary(max_size=20)
LINES = st.sampled_from([b"one\n", b"two\nthree\n", b"no newline", b""])


def outcome(operation: Callable[[], Any]) -> Any:
    """What came of it, in terms that two stores can share: times and inodes are each store's own."""
    try:
        answer = operation()
    except StoreError as error:
        return ("failed", error.errno)
    return (answer.name, answer.bytes) if isinstance(answer, Entry) else answer


class StoresAgree(RuleBasedStateMachine):
    """Both stores are given the same operations; ``sinks`` holds the open sinks in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.stores: tuple[Store, Store] = (LocalStore(self.root), MemoryStore())
        self.sinks: list[tuple[Any, Any]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def on_both(self, operation: Callable[[Store], Any]) -> Any:
        local, memory = (outcome(lambda store=store: operation(store)) for store in self.stores)
        assert local == memory
        return local

    def on_pair(self, number: int, operation: Callable[[Any], Any]) -> Any:
        local, memory = (outcome(lambda sink=sink: operation(sink)) for sink in self.sinks[number])
        assert local == memory
        return local

    @rule(name=NAMES, data=DATA)
    def put(self, name, data):
        self.on_both(lambda store: store.put(name, data))

    @rule(name=NAMES, data=LINES)
    def append(self, name, data):
        self.on_both(lambda store: store.append(name, data))

    @rule(source=NAMES, name=NAMES, replace=st.booleans())
    def link(self, source, name, replace):
        self.on_both(lambda store: store.link(source, name, replace=replace))

    @rule(name=NAMES)
    def remove(self, name):
        self.on_both(lambda store: store.remove(name))

    @rule(name=NAMES, owner=OWNERS, size=st.integers(0, 20))
    def create(self, name, owner, size):
        pair = []
        self.on_both(lambda store: pair.append(store.create(name, owner=owner, size=size)))
        if pair:
            self.sinks.append(tuple(pair))

    @precondition(lambda self: self.sinks)
    @rule(draw=st.data(), offset=st.integers(-1, 25), data=DATA)
    def write(self, draw, offset, data):
        number = draw.draw(st.integers(0, len(self.sinks) - 1))
        self.on_pair(number, lambda sink: sink.write_at(offset, data))

    @precondition(lambda self: self.sinks)
    @rule(draw=st.data())
    def sync(self, draw):
        number = draw.draw(st.integers(0, len(self.sinks) - 1))
        self.on_pair(number, lambda sink: sink.sync())

    @precondition(lambda self: self.sinks)
    @rule(draw=st.data(), name=NAMES, replace=st.booleans())
    def publish(self, draw, name, replace):
        number = draw.draw(st.integers(0, len(self.sinks) - 1))
        answer = self.on_pair(number, lambda sink: sink.publish(name, replace=replace))
        if answer[0] != "failed":
            self.on_pair(number, lambda sink: sink.discard())
            del self.sinks[number]

    @precondition(lambda self: self.sinks)
    @rule(draw=st.data())
    def discard(self, draw):
        number = draw.draw(st.integers(0, len(self.sinks) - 1))
        self.on_pair(number, lambda sink: sink.discard())
        del self.sinks[number]

    @precondition(lambda self: self.sinks)
    @rule(draw=st.data())
    def sweep(self, draw):
        number = draw.draw(st.integers(0, len(self.sinks) - 1))
        temporary = self.sinks[number][0].temporary
        self.on_both(lambda store: store.remove(temporary))

    @rule(name=NAMES)
    def ask(self, name):
        self.on_both(lambda store: store.stat(name))

    @rule(name=NAMES, offset=st.integers(-1, 20), length=st.integers(0, 20))
    def read(self, name, offset, length):
        def read_range(store: Store) -> bytes:
            with store.open(name) as reader:
                return reader.read_at(offset, length)

        self.on_both(read_range)

    @invariant()
    def hold_the_same(self):
        local, memory = (
            {entry.name: (entry.bytes, read(store, entry.name)) for entry in store.list()} for store in self.stores
        )
        assert local == memory

    @invariant()
    def share_the_same(self):
        local, memory = ({entry.name: entry.inode for entry in store.list()} for store in self.stores)
        names = sorted(local)
        assert [[local[a] == local[b] for a in names] for b in names] == [
            [memory[a] == memory[b] for a in names] for b in names
        ]


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
