"""What one rank alone knows, all do at the same step: stop, answer a signal, keep time."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("strategy", "name", "code"), [("ddp", "SIGTERM", 143), ("fsdp", "SIGTERM", 143), ("ddp", "SIGINT", 1)]
)
def test_a_signal_to_one_rank_leads_all_to_save_the_same_step(ranks, tmp_path, strategy, name, code):
    """Within two polls, and each process ends as the signal ends one."""
    ended = ranks.run("agreeing:signalled", strategy, name, str(tmp_path), 2, size=2, ok=False)
    assert [rank.code for rank in ended] == [code, code], ended[0].log + ended[1].log
    (zero,), (one, polls) = ((tmp_path / f"rank-{rank}").read_text().split() for rank in range(2))
    assert zero == one
    assert int(zero) >= 7
    assert 1 <= int(polls) <= 2
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    assert f"saved at step {zero}, stopping" in ended[0].log


@pytest.fixture(scope="module")
def wished(ranks, tmp_path_factory):
    """What each of two ranks did."""
    return [rank.value for rank in ranks.run("agreeing:wishes", str(tmp_path_factory.mktemp("timed")), 2, size=2)]


@pytest.mark.parametrize("name", ["stop", "early", "time", "validated", "saved"])
def test_all_ranks_end_at_the_same_step(wished, name):
    """Whoever wanted it; and what they did meanwhile they did at the same steps."""
    zero, one = (rank[name] for rank in wished)
    assert (zero["step"], zero["validated"]) == (one["step"], one["validated"])
    assert zero["step"] > 0


def test_a_wish_of_one_rank_is_heard(wished):
    """``should_stop`` on rank 1, and an EarlyStopping that only sees rank 1's metric get worse."""
    zero = wished[0]
    assert zero["stop"]["step"] >= 7
    assert zero["early"]["validated"] == [3, 6]
    assert zero["early"]["step"] == 6


def test_time_is_rank_0s(wished):
    """``max_time`` ends both, a validation by time runs on both, and a save by time is one file."""
    zero, one = wished
    assert zero["time"]["seconds"] >= 1.0
    assert len(zero["validated"]["validated"]) >= 2
    assert zero["saved"]["names"]
    assert zero["saved"]["best"] == one["saved"]["best"] != ""
