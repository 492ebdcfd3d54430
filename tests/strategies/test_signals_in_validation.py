"""A signal that comes in a long validation is answered in it, on all ranks, with the state from before it."""

from __future__ import annotations

import pytest

from holdfast.catalog.folder import Folder
from holdfast.catalog.resolve import last
from holdfast.store import LocalStore


@pytest.mark.parametrize(("sanity", "step"), [(False, 3), (True, 0)], ids=["validation", "sanity check"])
def test_all_ranks_stop_within_it_at_the_same_batch(ranks, tmp_path, sanity, step):
    """One rank alone was sent it; they have stopped long before the end, and one checkpoint holds that step."""
    ended = ranks.run("validating:signalled", sanity, str(tmp_path), 2, size=2, ok=False)
    assert [rank.code for rank in ended] == [143, 143], ended[0].log + ended[1].log
    zero, one = ((tmp_path / f"rank-{rank}").read_text().split() for rank in range(2))
    assert zero == one
    assert int(zero[0]) == step
    assert 3 <= int(zero[1]) < 400
    record = last(Folder(LocalStore(tmp_path)).scan())
    assert record.progress.steps == step
