"""The store that is shipped for users' tests keeps the contract."""

from __future__ import annotations

import pytest

from holdfast.store import MemoryStore
from store.contract import StoreContract, names


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        return MemoryStore()


def test_each_memory_store_is_a_place_of_its_own():
    """Two of them share neither objects nor locks."""
    first, second = MemoryStore(), MemoryStore()
    first.put("a", b"a")
    assert names(second) == []
    assert first.lock("lock") is not None
    assert second.lock("lock") is not None
