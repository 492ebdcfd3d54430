"""Any strategy on any number of ranks reads what any other has written: bit for bit, by name."""

from __future__ import annotations

import pytest

from scale import sample

STRATEGIES = {1: ["single_device", "ddp", "fsdp"], 2: ["ddp", "fsdp"], 4: ["ddp", "fsdp"]}
KINDS = ["odd", "pair"]
WRITERS = [f"{kind}-{strategy}-{size}" for kind in KINDS for size, names in STRATEGIES.items() for strategy in names]


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory):
    """The folder of what each strategy has saved, and what each says that it was."""
    folder = tmp_path_factory.mktemp("written")
    said = {}
    for size, strategies in STRATEGIES.items():
        zero, *others = ranks.run("contract:write", str(folder), KINDS, strategies, size, size=size)
        said.update(zero.value)
        assert all(set(rank.value) == set(zero.value) for rank in others)
    return folder, said


@pytest.fixture(scope="module", params=list(STRATEGIES))
def read(request, ranks, written):
    """What the strategies of one world size have read of each file, and the files."""
    folder, _ = written
    names = sample(WRITERS, 6) if request.param == 4 else WRITERS  # four ranks share two cores
    size, strategies = request.param, STRATEGIES[request.param]
    zero, *_ = ranks.run("contract:read", str(folder), strategies, size, names, size=size)
    return zero.value, names, len(strategies)


def test_all_strategies_have_saved_what_is_there(written):
    """The fixture has what is hard: a tie, a frozen layer, tensors without dimensions, bf16, extra state."""
    _, said = written
    assert sorted(said) == sorted(WRITERS)
    for name, state in said.items():
        if name.startswith("odd"):
            assert state["tied"] == [["head.weight", "table.weight"]]
            assert state["model"]["scale"].startswith("torch.float32 ()")
            assert state["model"]["narrow"].startswith("torch.bfloat16 (5,)")
            assert state["model"]["table.weight"].startswith("torch.float32 (33, 7)")
            assert set(state["model"]["noted._extra_state"]) == {"seen", "name", "table"}
            assert "frozen.weight" not in state["optimizers"][0]["state"]
            assert len(state["optimizers"][0]["groups"]) == 2
        else:
            assert [len(one["groups"]) for one in state["optimizers"]] == [2, 1]


def test_pain_14_what_was_written_is_read_bit_for_bit(read, written):
    """Model, optimizers by parameter name, schedulers, position in the loop: as they were saved, whoever saved them."""
    _, said = written
    seen, names, strategies = read
    assert len(seen) == len(names) * strategies
    for name, state in seen.items():
        saved = said[name.split()[0]]
        assert {key: state[key] for key in saved} == saved, name


def test_runs_go_on_from_it(read):
    """Another epoch of the same length follows; a validation of the same weights measures the same."""
    seen, names, _ = read
    for name, state in seen.items():
        assert state["steps"] == 6 * (2 if name.startswith("pair") else 1), name
    for writer in names:
        assert len({round(state["val"], 4) for name, state in seen.items() if name.split()[0] == writer}) == 1


def test_a_single_process_loads_the_weights_without_a_trainer(ranks, written):
    """``load_from_checkpoint`` gives the very weights of each file."""
    folder, said = written
    (zero,) = ranks.run("contract:alone", str(folder), size=1)
    assert zero.value == {name: state["model"] for name, state in said.items()}
