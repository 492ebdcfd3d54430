"""Where a run is in its data, with workers that read ahead: exact too, and what they draw hangs on the batch alone."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from holdfast.state import random as random_state
from holdfast.state.loaders import feed
from loader_cases import (
    OF_TORCH,
    OF_USERS,
    WORKERS,
    Augmented,
    Numbers,
    Run,
    in_both_ways,
    make,
    plain,
    resumed,
    seed_all,
    stateful,
    stored,
    uninterrupted,
)  # fmt: skip
from scale import sample

# torchdata calls a function that torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

KINDS = [*OF_TORCH, "a user's generators", "a list"]
EACH = [(kind, workers) for kind in KINDS for workers in ("2 workers", "2 that stay")]


@pytest.mark.torture
@pytest.mark.parametrize(("kind", "workers"), sample(EACH, 6))
def test_the_order_is_the_bare_loaders(kind, workers):
    """Three epochs, batch for batch; and the global generators stand where they would."""
    ours, bare = in_both_ways(kind, **WORKERS[workers])
    assert ours == bare


@pytest.mark.torture
@pytest.mark.parametrize("workers", ["2 workers", "2 that stay"])
@pytest.mark.parametrize("kind", sample([*OF_TORCH, *OF_USERS], 4))
def test_it_goes_on_with_workers_that_read_ahead(kind, workers):
    """What workers have fetched and nobody was given is fetched again; what training draws is the same too."""

    def loader():
        return make(kind, **WORKERS[workers])

    whole = uninterrupted(loader)
    for stop_at in ((0, 1), (1, 2)):
        rest = resumed(loader, stop_at)
        assert rest == whole[len(whole) - len(rest) :]
        assert rest[0][0] == stop_at[0]


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("after", [1, 2])
def test_what_workers_draw_hangs_on_the_batch_alone(before, after):
    """Augmentation from Python, NumPy and torch is exact at any batch, and the same with another number of workers."""

    def with_workers(count):
        return lambda: make("shuffled", Augmented(), num_workers=count, persistent_workers=True)

    whole = uninterrupted(with_workers(before))
    assert whole == uninterrupted(with_workers(after))
    rest = resumed(with_workers(before), (1, 2), make_other=with_workers(after))
    assert rest == whole[len(whole) - len(rest) :]
    drawn = [row[1:] for _, batch, *_ in whole for row in batch]
    assert len({tuple(row) for row in drawn}) == len(drawn)


def test_spawned_workers_draw_the_same():
    """Nothing of ours needs a fork."""

    def loader(context):
        return make("shuffled", Augmented(), num_workers=1, multiprocessing_context=context)

    seed_all(1)
    forked = [plain(batch) for batch in feed(loader("fork")).begin(3)]
    seed_all(1)
    assert [plain(batch) for batch in feed(loader("spawn")).begin(3)] == forked


class Watching(Numbers):
    """Notes what its methods are called with, in the worker."""

    def __getitems__(self, indices):
        info = torch.utils.data.get_worker_info()
        return [(type(indices).__name__, info.dataset is self, self.mark)]


def mark(worker):
    torch.utils.data.get_worker_info().dataset.mark = f"worker {worker}"


def test_workers_meet_nothing_of_ours():
    """The dataset gets plain lists, and what the worker_init_fn finds is the dataset itself."""
    loader = DataLoader(Watching(), 4, num_workers=1, worker_init_fn=mark, collate_fn=list)
    assert next(feed(loader).begin()) == [("list", True, "worker 0")]


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}])
@pytest.mark.parametrize("size", [5, 3])
def test_a_loader_with_a_state_loses_no_epoch(options, size):
    """Saved after each batch, the last one included, of epochs that are whole or cut off by a limit; and at an end."""
    whole = uninterrupted(lambda: stateful(**options), size)
    assert len(whole) == 3 * size
    for done in range(1, size + 1):
        for over in {False, done == size}:
            seed_all(1)
            run = Run(stateful(**options), size)
            run.epochs(3, (1, done))
            state, generators = stored(run.state(over)), stored(random_state.capture())
            seed_all(97)
            run = Run(stateful(**options), size)
            # As the trainer does: behind the last batch the next epoch begins.
            behind = done == size
            run.go_on({**state, "feed": {**state["feed"], "over": behind}})
            random_state.restore(generators)
            run.epoch, run.done = (2, 0) if behind else (1, done)
            assert run.epochs(3) == whole[size + done :], (done, over)


@pytest.mark.parametrize(("before", "now"), [(0, 2), (2, 0), (2, 1)])
def test_a_place_of_a_loaders_own_is_none_with_other_workers(before, now):
    """Within an epoch as many batches are passed over, which is said; so is another order after its end."""
    said = f"its place on 1 rank and in {before} workers, which is none on 1 rank and in {now} workers: its first 2"
    with pytest.warns(UserWarning, match=said):
        rest = resumed(lambda: stateful(num_workers=before), (1, 2), make_other=lambda: stateful(num_workers=now))
    assert [epoch for epoch, *_ in rest] == [1] * 3 + [2] * 5
    run = Run(stateful(num_workers=before))
    run.epochs(1)
    place = feed(stateful(num_workers=now))
    with pytest.warns(UserWarning, match="or with other workers: the epochs that follow come in another order"):
        place.load_state_dict(stored(run.feed.state_dict(5, over=True)))
    assert sorted(one for batch in place.begin() for one in batch.tolist()) == list(range(20))


def test_a_loader_that_keeps_its_place_in_another_way_orders_the_next_epochs_otherwise():
    """Which is said, of either after the other; not of rows in a row."""

    def after(first, second):
        run = Run(first())
        run.epochs(1)
        feed(second()).load_state_dict(stored(run.feed.state_dict(5, over=True)))

    def shuffled():
        return make("shuffled", Numbers(20))

    for first, second in ((stateful, shuffled), (shuffled, stateful)):
        with pytest.warns(UserWarning, match="the epochs that follow come in another order"):
            after(first, second)
    after(stateful, lambda: make("in a row", Numbers(20)))
