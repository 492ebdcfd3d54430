"""A run of several ranks goes on exactly where it was, and on another number of ranks without losing a sample."""

from __future__ import annotations

import pytest

SAMPLES, STEPS = 48, 6  # of an epoch
INEXACT = "it was saved on 2 ranks and goes on on {}: the order that ranks share is kept, and what is drawn at random"


def seen_by_all(ranks, epoch=None, first=0):
    """The samples of each batch over all ranks, in the order of one global permutation, by epoch and batch."""
    batches = {}
    for rank in ranks:
        for at, batch, *samples in rank["seen"]:
            batches.setdefault((at, batch), []).append(samples)
    turns = {key: [one for turn in zip(*parts, strict=True) for one in turn] for key, parts in sorted(batches.items())}
    return {key: value for key, value in turns.items() if (epoch is None or key[0] == epoch) and key[1] >= first}


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def whole(request, ranks, tmp_path_factory):
    """An uninterrupted run of three epochs on two ranks, saved at each epoch's end; and one saved at every 4th step."""
    folder = tmp_path_factory.mktemp(request.param)
    calls = [
        [request.param, f"{folder}/epochs", {"max_epochs": 3}],
        [request.param, f"{folder}/steps", {"max_epochs": 3, "every": 4}],
    ]
    both = ranks.run("courses:several", calls, 2, size=2)
    return request.param, folder, [rank.value[0] for rank in both], [rank.value[1] for rank in both]


def test_each_sample_is_seen_once_an_epoch_and_ranks_draw_differently(whole):
    """Two ranks share one order; both see half of it."""
    _, _, epochs, _ = whole
    batches = seen_by_all(epochs)
    for epoch in range(3):
        assert sorted(one for (at, _), batch in batches.items() if at == epoch for one in batch) == list(range(48))
    assert batches[0, 0] != batches[1, 0]
    assert epochs[0]["names"] == [f"epoch={e}-step={(e + 1) * STEPS}.ckpt" for e in range(3)]


def test_the_same_world_goes_on_exactly(whole, ranks):
    """From an epoch's end and from the middle of one: weights, optimizer, samples and metrics as if never stopped."""
    strategy, folder, epochs, steps = whole
    calls = [
        [strategy, f"{folder}/again", f"{folder}/epochs/epoch=0-step=6.ckpt", {"max_epochs": 3}],
        [strategy, f"{folder}/again", f"{folder}/steps/epoch=1-step=8.ckpt", {"max_epochs": 3, "every": 4}],
    ]
    ended = ranks.run("courses:several", calls, 2, size=2)
    assert all("not exactly" not in rank.log for rank in ended)
    both = [rank.value for rank in ended]
    for number, (run, start) in enumerate(((epochs, (1, 0)), (steps, (1, 2)))):
        went_on = [rank[number] for rank in both]
        assert went_on[0]["state"] == run[0]["state"]
        for rank in range(2):
            assert went_on[rank]["seen"] == [one for one in run[rank]["seen"] if tuple(one[:2]) >= start]
            assert went_on[rank]["metrics"] == run[rank]["metrics"]


def test_loaders_that_are_asked_for_anew_keep_the_order_of_before(whole, ranks):
    """Also where the program has another seed now, from which a new loader's order would follow."""
    strategy, folder, _, steps = whole
    options = {"max_epochs": 3, "every": 4, "seed": 77, "reload_dataloaders_every_n_epochs": 1}
    calls = [[strategy, f"{folder}/reloaded", f"{folder}/steps/epoch=1-step=8.ckpt", options]]
    runs = [rank.value[0] for rank in ranks.run("courses:several", calls, 2, size=2)]
    assert seen_by_all(runs) == {at: batch for at, batch in seen_by_all(steps).items() if at >= (1, 2)}


@pytest.mark.parametrize("size", [1, 4])
def test_another_world_goes_on_with_the_same_samples_in_the_same_batches(whole, ranks, size):
    """The global batch is the same, so the order is: no sample is lost or seen twice. What is not exact is said."""
    strategy, folder, epochs, steps = whole
    ended, within = f"{folder}/epochs/epoch=0-step=6.ckpt", f"{folder}/steps/epoch=1-step=8.ckpt"
    other = "ddp" if strategy == "fsdp" else "fsdp"
    calls = [
        [name, f"{folder}/{size}", path, {"max_epochs": 2}]
        for name, path in ((strategy, ended), (strategy, within), (other, within))
    ]
    all_ended = ranks.run("courses:several", calls, size, size=size)
    assert all_ended[0].log.count(f"not exactly: {INEXACT.format(size)}") == len(calls)
    runs = [rank.value for rank in all_ended]
    assert seen_by_all([one[0] for one in runs]) == seen_by_all(epochs, epoch=1)
    assert seen_by_all([one[1] for one in runs]) == seen_by_all(steps, epoch=1, first=2)
    assert seen_by_all([one[2] for one in runs]) == seen_by_all(steps, epoch=1, first=2)
    assert runs[0][0]["state"]["progress"] == {**epochs[0]["state"]["progress"], "epoch": 1, "steps": 12, "batches": 12}


def test_data_that_ranks_did_not_share_goes_on_from_the_place_of_the_first(ranks, tmp_path):
    """On another number of ranks; nobody says then that the order is kept."""
    options = {"max_epochs": 1, "every": 2, "shards": True, "validates": False, "use_distributed_sampler": False}
    ranks.run("courses:several", [["ddp", f"{tmp_path}", None, options]], 2, size=2)
    calls = [["single_device", f"{tmp_path}/alone", f"{tmp_path}/epoch=0-step=2.ckpt", options]]
    (one,) = ranks.run("courses:several", calls, 1, size=1)
    assert "ranks did not share what they trained on, so that all go on from the place of rank 0" in one.log
    assert "is kept" not in one.log
    assert [index for _, _, *batch in one.value[0]["seen"] for index in batch] == list(range(16, SAMPLES, 2))


def test_one_process_goes_on_with_what_two_ranks_have_saved(whole, ranks):
    """Without any strategy for many ranks: the order of samples is theirs, of loaders that are asked for anew too."""
    _, folder, _, steps = whole
    calls = [
        ["single_device", f"{folder}/alone", f"{folder}/steps/epoch=1-step=8.ckpt", {"max_epochs": 3, **options}]
        for options in ({}, {"reload_dataloaders_every_n_epochs": 1, "seed": 77})
    ]
    (one,) = ranks.run("courses:several", calls, 1, size=1)
    assert one.log.count(f"not exactly: {INEXACT.format(1)}") == 2
    for run in one.value:
        assert seen_by_all([run]) == {at: batch for at, batch in seen_by_all(steps).items() if at >= (1, 2)}
