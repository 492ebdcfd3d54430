"""Pains of users with many ranks, as they meet them; those of whole tables have their names where the tables are."""

from __future__ import annotations

import pytest

from holdfast.catalog.verify import Verdict, verify
from holdfast.store import LocalStore

SOON = 60.0  # seconds; a tenth of what these ranks would wait for each other

FAILS = [("ddp", 0, True), ("ddp", 1, True), ("ddp", 1, False), ("fsdp", 0, True), ("fsdp", 1, True)]


@pytest.fixture(scope="module")
def failed(ranks, tmp_path_factory):
    """The folder of each, and how its ranks have ended."""
    folders = {case: tmp_path_factory.mktemp("-".join(map(str, case))) for case in FAILS}
    running = {
        (strategy, rank, asked): ranks.begin(
            "pains:one_fails", strategy, str(folder), rank, asked, 2, size=2, patience=SOON
        )
        for (strategy, rank, asked), folder in folders.items()
    }
    return {case: (folders[case], group.end(ok=False)) for case, group in running.items()}


@pytest.mark.parametrize("case", FAILS, ids=lambda case: f"{case[0]}-rank {case[1]}-{'asked' if case[2] else 'not'}")
def test_pain_12_one_failing_rank_ends_the_job_with_its_error_and_a_save_of_it_hangs_nobody(failed, case):
    """Asked to save on an exception or not: its own traceback is what it says first, and the other names it."""
    strategy, rank, asked = case
    folder, ended = failed[case]
    assert [one.code for one in ended] == [1, 1]
    own, other = ended[rank].log, ended[1 - rank].log
    assert "ValueError: on purpose" in own
    assert "failed first" not in own
    if rank:
        assert f"rank {rank} failed first: ValueError: on purpose" in other
    else:  # it has taken away what the others ask for who failed
        assert "rank 0, failed: the key-value store of torch.distributed does not answer" in other
    names = sorted(path.name for path in folder.glob("*.ckpt"))
    assert "epoch=0-step=2.ckpt" in names
    assert ("on_exception.ckpt" in names) == (asked and strategy == "ddp"), "rank 0 holds the whole state, or nobody"
    for name in names:
        with LocalStore(folder).open(name) as reader:
            assert verify(reader).verdict is Verdict.WHOLE


def test_pain_43_ranks_that_see_other_metrics_clocks_and_folders_take_one_decision(ranks, tmp_path):
    """What is saved, when, under which names, and when to stop: nothing hangs, and both ranks know the same."""
    zero, one = (rank.value for rank in ranks.run("pains:own_ways", str(tmp_path), 2, size=2))
    assert zero == one
    assert zero["folder"].endswith("-0")
    assert zero["step"] == 18, "rank 0's metric got worse twice"
    assert {"epoch=0-step=6.ckpt", "last.ckpt"} <= set(zero["names"])
    assert any(name.startswith("timed-") for name in zero["names"])


@pytest.fixture(scope="module")
def loaded(ranks, tmp_path_factory):
    """What was saved on 2 ranks, and what 1, 2 and 4 say of it."""
    folder = str(tmp_path_factory.mktemp("loaded"))
    (scale, _) = (rank.value for rank in ranks.run("pains:save", folder, 2, size=2))
    return scale, {size: [r.value for r in ranks.run("pains:load", folder, size, size=size)] for size in (1, 2, 4)}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pain_14_optimizer_state_that_is_not_there_is_an_error_on_any_number_of_ranks(loaded, size):
    """And never silently empty; that it is read by name on any number of ranks, ``test_contract.py`` shows."""
    for said in loaded[1][size]:
        assert said["weights"].startswith("Incompatible: ")
        assert "it holds no optimizer state" in said["weights"]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pain_45_what_is_missing_and_what_is_too_much_is_told_of_a_sharded_checkpoint(loaded, size):
    """Both by name, on every rank, before anything is loaded; without strictness the rest is taken."""
    scale, told = loaded
    for said in told[size]:
        assert said["larger"].startswith("Incompatible: ")
        assert "other.weight" in said["larger"]
        assert "net.3.weight" in said["larger"]
        assert said["loose"] == scale
