"""Where ranks are in an order that they share, and how another number of them, or one process, goes on in it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from holdfast.state.samplers import GlobalSampler
from holdfast.strategies.sharing import shared_out
from holdfast.training.combined import combined
from holdfast.training.data import Batches
from loader_cases import Backwards, Numbers, Run, seed_all, seeded, stored

pytestmark = pytest.mark.filterwarnings("ignore:.set_vital. is deprecated")
SAMPLES, BATCH = 24, 8  # the batch is that of all ranks together: 3 an epoch
SAMPLERS = {
    "in a row": SequentialSampler,
    "shuffled": RandomSampler,
    "shuffled by a generator": lambda data: RandomSampler(data, generator=seeded()),
    "with replacement": lambda data: RandomSampler(data, replacement=True),
    "weighted": lambda data: WeightedRandomSampler(torch.linspace(0.1, 1, SAMPLES), SAMPLES),
    "weighted by a generator": lambda data: WeightedRandomSampler([1.0] * SAMPLES, SAMPLES, generator=seeded()),
    "a subset": lambda data: SubsetRandomSampler(range(SAMPLES)),
    "a user's order": lambda data: Backwards(SAMPLES),
}
EXACT_ALONE = ("in a row", "shuffled")  # of which one process draws an order that ranks can have too


def one_process(kind, size=1, loader=DataLoader):
    data = Numbers(SAMPLES)
    return loader(data, BATCH // size, sampler=SAMPLERS[kind](data))


def ranks(kind, size, seed, loader=DataLoader):
    """Each rank's run over the loader that the trainer makes for it."""
    made = [one_process(kind, size, loader) for _ in range(size)]
    return [Run(shared_out(one, rank=r, size=size, training=True, seed=seed)) for r, one in enumerate(made)]


def together(runs):
    """The samples of each batch over all ranks, in the order of their numbers."""
    each = [run.epochs(3) for run in runs]
    return [sorted(index for _, part, *_ in parts for index in part) for parts in zip(*each, strict=True)]


def gone_on(runs, states):
    for run, state in zip(runs, states, strict=True):
        run.go_on(stored(state))
    return together(runs)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_another_number_of_ranks_goes_on_in_the_order_that_was_shared(kind):
    """The rest of the epoch, and those after it, from the seed that was saved; one process by its own sampler too."""
    seed_all(1)
    whole = together(ranks(kind, 2, 5))
    stopped = ranks(kind, 2, 5)[0]
    stopped.epochs(3, (1, 1))
    for runs in [*(ranks(kind, size, 77) for size in (1, 2, 4)), [Run(one_process(kind))]]:
        seed_all(99)
        assert gone_on(runs, [stopped.state()] * len(runs)) == whole[4:]


def test_one_process_that_went_on_from_ranks_is_gone_on_from():
    """By itself and by ranks again: the order is still theirs."""
    whole = together(ranks("weighted", 2, 5))
    stopped, alone = ranks("weighted", 2, 5)[0], Run(one_process("weighted"))
    stopped.epochs(3, (0, 1))
    alone.go_on(stored(stopped.state()))
    alone.epochs(3, (1, 2))
    for runs in ([Run(one_process("weighted"))], ranks("weighted", 4, 77)):
        assert gone_on(runs, [alone.state()] * len(runs)) == whole[5:]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_ranks_that_go_on_within_an_epoch_of_one_process_keep_its_order_or_say_so(kind, recwarn):
    """Only a plain shuffle is drawn from a number that ranks can draw from too."""
    seed_all(1)
    whole = together([Run(one_process(kind))])
    seed_all(1)
    stopped = Run(one_process(kind))
    stopped.epochs(3, (1, 1))
    rest = gone_on(ranks(kind, 2, 77), [stopped.state()] * 2)
    said = [str(one.message) for one in recwarn if "one process had drawn the order" in str(one.message)]
    if kind in EXACT_ALONE:
        assert rest[:2] == whole[4:6]
    else:
        assert said
    assert bool(said) == (rest[:2] != whole[4:6])


class Subclass(DataLoader):
    """One that iterates in a way of its own."""

    def __iter__(self):
        return super().__iter__()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("loader", [DataLoader, StatefulDataLoader, Subclass])
def test_ranks_that_go_on_from_one_process_say_that_later_epochs_have_another_order(loader, size):
    """From an epoch's end, and within one; one process with a strategy for ranks does too. Not of rows in a row."""

    def after(kind, stop_at):
        seed_all(1)
        stopped = Run(one_process(kind, loader=loader))
        seen = len(stopped.epochs(3, stop_at))
        state = {"epoch": 2, "done": 0, "feed": stopped.feed.state_dict(3, over=True)}
        seed_all(1)
        whole = together([Run(one_process(kind, loader=loader))])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rest = gone_on(ranks(kind, size, 77, loader), [state if stop_at[1] == 3 else stopped.state()] * size)
        said = [str(one.message) for one in caught if "Going on" in str(one.message)]
        return rest == whole[seen:], said

    for stop_at in ((1, 1), (1, 3)):
        same, said = after("shuffled", stop_at)
        assert not same
        assert len(said) == size
    assert "the epochs that follow come in another order" in said[0]
    same, said = after("in a row", (1, 3))
    assert same
    assert bool(said) == (loader is StatefulDataLoader)  # whose order is not asked for: it is said too often


@pytest.mark.parametrize("loader", [StatefulDataLoader, Subclass])
@pytest.mark.parametrize("stop_at", [(1, 1), (1, 3)])
@pytest.mark.filterwarnings("ignore:Going on is not exact. a Subclass")
def test_loaders_with_a_place_of_their_own_keep_the_order_that_was_shared(loader, stop_at):
    """Whatever seed the ranks are given when they go on."""
    whole = [run.epochs(3) for run in ranks("shuffled", 2, 5, loader)]
    stopped, others = ranks("shuffled", 2, 5, loader), ranks("shuffled", 2, 77, loader)
    for run, other, expected in zip(stopped, others, whole, strict=True):
        run.epochs(3, stop_at)
        over = stop_at[1] == 3
        state = run.state(over)
        other.go_on(stored({**state, "epoch": 2, "done": 0} if over else state))
        left = expected[-3:] if over else expected[4:]
        assert [samples for _, samples, *_ in other.epochs(3)] == [samples for _, samples, *_ in left]


@pytest.mark.parametrize("size", [1, 4])
def test_a_place_of_a_loaders_own_is_none_among_other_ranks(size):
    """It is not taken for one: what is done is passed over, and the order of all ranks goes on; that is said."""
    whole = together(ranks("shuffled", 2, 5, StatefulDataLoader))
    stopped = ranks("shuffled", 2, 5, StatefulDataLoader)[0]
    stopped.epochs(3, (1, 1))
    with pytest.warns(UserWarning, match=f"kept its place on 2 ranks.*, which is none on {size} rank.*thrown away"):
        assert gone_on(ranks("shuffled", size, 77, StatefulDataLoader), [stopped.state()] * size) == whole[4:]


@pytest.mark.parametrize("loader", [StatefulDataLoader, Subclass])
@pytest.mark.parametrize("kind", ["shuffled", "weighted"])
def test_one_process_goes_on_for_ranks_by_loaders_with_a_place_of_their_own(kind, loader, recwarn):
    """Without a strategy for ranks: from within an epoch, which is said, and its end; and so does what goes on then."""
    whole = together(ranks(kind, 2, 5, loader))
    stopped = ranks(kind, 2, 5, loader)[0]
    stopped.epochs(3, (1, 3))
    state = stored({"epoch": 2, "done": 0, "feed": stopped.feed.state_dict(3, over=True)})
    assert gone_on([Run(one_process(kind, loader=loader))], [state]) == whole[6:]
    assert not [one for one in recwarn if "Going on" in str(one.message)]
    stopped = ranks(kind, 2, 5, loader)[0]
    stopped.epochs(3, (0, 2))
    alone, again = (Run(one_process(kind, loader=loader)) for _ in range(2))
    alone.go_on(stored(stopped.state()))
    alone.epochs(3, (1, 1))
    assert gone_on([again], [alone.state()]) == whole[4:]
    assert [one for one in recwarn if "thrown away" in str(one.message)]


def test_one_process_goes_on_for_ranks_by_loaders_side_by_side():
    """The shorter one begins again in the order that it has in that epoch."""

    def both(size, rank=None):
        each = {name: DataLoader(range(count), BATCH // size, shuffle=True) for name, count in (("a", 24), ("b", 16))}
        if rank is not None:
            each = shared_out(each, rank=rank, size=size, training=True, seed=5)
        return Batches(combined(each, "train"), 3)

    def epochs(runs, first):
        for epoch in range(first, 3):
            for run in runs:
                run.set_epoch(epoch)
            for parts in zip(*(run.iterate() for run in runs), strict=True):
                yield {name: sorted(one for part in parts for one in part[name].tolist()) for name in "ab"}

    whole = list(epochs([both(2, 0), both(2, 1)], 0))
    stopped, alone = both(2, 0), both(1)
    list(stopped.iterate())
    alone.feed.load_state_dict(stored(stopped.feed.state_dict(3, over=True)))
    assert list(epochs([alone], 1)) == whole[3:]


@pytest.mark.parametrize("loader", [DataLoader, StatefulDataLoader])
@pytest.mark.filterwarnings("ignore:Going on is not exact. the StatefulDataLoader has kept its place on 2 ranks")
def test_an_order_that_ranks_share_by_torchs_own_sampler_goes_on_in_one_process_and_by_ours(loader):
    """It is the same as ours."""

    def shared(rank):
        data = Numbers(SAMPLES)
        return Run(loader(data, BATCH // 2, sampler=DistributedSampler(data, 2, rank, seed=5)))

    whole = together([shared(0), shared(1)])
    stopped = shared(0)
    stopped.epochs(3, (1, 1))
    for runs in ([Run(one_process("shuffled", loader=loader))], ranks("shuffled", 4, 77, loader)):
        assert gone_on(runs, [stopped.state()] * len(runs)) == whole[4:]


def test_an_order_that_ranks_share_is_the_same_whatever_their_number_by_a_sampler_of_ours():
    """A loop of somebody's own gives each rank one."""

    def shared(rank, size, seed):
        sampler = GlobalSampler(Numbers(SAMPLES), rank=rank, size=size, seed=seed)
        return Run(DataLoader(Numbers(SAMPLES), BATCH // size, sampler=sampler))

    whole = together([shared(rank, 2, 5) for rank in range(2)])
    stopped = shared(0, 2, 5)
    stopped.epochs(3, (1, 1))
    assert gone_on([shared(rank, 4, 77) for rank in range(4)], [stopped.state()] * 4) == whole[4:]
