"""Where a run is in its data: a loader goes on at any batch, and gives what it would have given."""

from __future__ import annotations

import random
import warnings

import pytest
from torch.utils.data import DataLoader

from holdfast.state import random as random_state
from holdfast.state.feeds import Keeping, Rereading
from holdfast.state.indexed import Indexed, Streaming
from holdfast.state.loaders import feed
from loader_cases import (
    OF_TORCH,
    OF_USERS,
    SAMPLES,
    Augmented,
    Backwards,
    Drawing,
    Numbers,
    Run,
    Stream,
    in_both_ways,
    make,
    plain,
    resumed,
    seed_all,
    stateful,
    stored,
    uninterrupted,
)

# torchdata calls a function that torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


@pytest.mark.parametrize("kind", [*OF_TORCH, "a user's generators", "a list"])
def test_the_order_is_the_bare_loaders(kind):
    """Three epochs, batch for batch; and the global generators stand where they would."""
    ours, bare = in_both_ways(kind)
    assert ours == bare


@pytest.mark.parametrize("kind", [*OF_TORCH, *OF_USERS])
def test_it_goes_on_at_any_batch(kind):
    """From each batch of the second epoch to the end of the third: samples, and what training draws between them."""
    whole = uninterrupted(lambda: make(kind))
    second = sum(epoch == 1 for epoch, *_ in whole)
    for done in range(1, second + 1):
        rest = resumed(lambda: make(kind), (1, done))
        assert rest == whole[len(whole) - len(rest) :]
        assert len(rest) == len(whole) - sum(epoch == 0 for epoch, *_ in whole) - done


@pytest.mark.parametrize("kind", ["shuffled", "shuffled by a generator", "with replacement", "a user's generators"])
def test_a_limit_of_batches_cuts_each_epoch(kind):
    """Of a limited epoch the sampler draws what was asked of it and no more, as under islice; and it goes on so."""

    def bare():
        seed_all(1)
        loader, seen = make(kind), []
        for _ in range(3):
            for number, batch in enumerate(loader):
                if number == 3:
                    break
                seen.append(plain(batch))
        return seen

    seed_all(1)
    place = feed(make(kind))
    if kind == "a user's generators":  # islice asks this one for indices of the batch that nobody gets
        assert len([*place.begin(3)]) == 3
    else:
        assert [plain(batch) for _ in range(3) for batch in place.begin(3)] == bare()
    whole = uninterrupted(lambda: make(kind), 3)
    for stop_at in ((0, 2), (1, 1), (1, 3), (2, 1)):
        rest = resumed(lambda: make(kind), stop_at, size=3)
        assert rest == whole[len(whole) - len(rest) :]


def test_an_epochs_end_goes_on_in_the_next():
    """Saved as over, with a generator of its own and with workers that stay."""
    for options in ({}, {"num_workers": 1, "persistent_workers": True}):

        def loader(options=options):
            return make("shuffled by a generator", **options)

        whole = uninterrupted(loader)
        batches = len(loader())
        seed_all(1)
        run = Run(loader())
        run.epochs(1)
        state, generators = stored(run.state(over=True)), stored(random_state.capture())
        seed_all(98)
        run = Run(loader())
        run.go_on(state)
        random_state.restore(generators)
        assert run.epochs(3) == whole[batches:]


def test_what_is_done_is_never_read():
    """Neither its data nor, for torch's own samplers, its indices one by one: the first read is the first wanted."""
    seed_all(1)
    run = Run(make("shuffled", Numbers(10_000)))
    run.epochs(1, (0, 2_000))
    state = run.state()
    dataset = Numbers(10_000)
    run = Run(make("shuffled", dataset))
    run.go_on(state)
    assert dataset.read == []
    next(run.feed.begin(2_500))
    assert len(dataset.read) == 4


def test_a_users_sampler_is_gone_through_and_that_is_said(caplog):
    """Its indices, without any data; torch's own are not spoken of."""
    for kind, said in (("a user's order", True), ("shuffled", False)):
        caplog.clear()
        seed_all(1)
        run = Run(make(kind))
        run.epochs(1, (0, 3))
        dataset = Numbers()
        other = Run(make(kind, dataset))
        with caplog.at_level("INFO", "holdfast"):
            other.go_on(run.state())
            iterator = other.feed.begin()
        assert dataset.read == []
        next(iterator)
        assert len(dataset.read) == 4
        messages = [r.getMessage() for r in caplog.records]
        assert any("its first 3 batches are gone through" in m and "Backwards" in m for m in messages) is said


def test_an_order_that_cannot_be_had_again_is_noticed():
    """A sampler that draws from the global generator as it goes, between what training draws."""
    seed_all(1)
    run = Run(DataLoader(Numbers(), 4, sampler=Drawing()))
    run.epochs(1, (0, 3))
    other = Run(DataLoader(Numbers(), 4, sampler=Drawing()))
    other.go_on(run.state())
    with pytest.warns(UserWarning, match="gives other samples than before.*Drawing.*set_epoch"):
        other.feed.begin(6)


def test_another_sampler_is_noticed():
    """Shuffled before, in a row now."""
    seed_all(1)
    run = Run(make("shuffled"))
    run.epochs(1, (0, 3))
    other = Run(make("in a row"))
    other.go_on(run.state())
    with pytest.warns(UserWarning, match="its sampler was a RandomSampler and is a SequentialSampler"):
        other.feed.begin(6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": Numbers(30)}, "had 23 samples and has 30"),
        ({"batch_size": 8}, "had 4 samples and has 8"),
        ({"num_workers": 2}, "had 0 workers and has 2"),
        ({"num_workers": 2, "in_order": False}, "in_order=False"),
    ],
)
def test_what_differs_is_said(change, said):
    """Each thing that keeps the rest of an epoch from being what it would have been."""
    run = Run(DataLoader(Numbers(), 4, shuffle=True))
    run.epochs(1, (0, 3))
    other = feed(DataLoader(**{"dataset": Numbers(), "batch_size": 4, "shuffle": True, **change}))
    state = run.state()["feed"]
    assert any(said in sentence for sentence in other.inexact(state))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other.load_state_dict(state)
    assert any(said in str(one.message) for one in caught)


def test_without_workers_the_main_process_draws_as_ever():
    """Augmentation there comes from the global generators, which are restored: exact, and not reseeded."""

    def loader():
        return make("shuffled", Augmented())

    seed_all(1)
    bare = [plain(batch) for batch in loader()]
    seed_all(1)
    assert [plain(batch) for batch in feed(loader()).begin()] == bare
    whole = uninterrupted(loader)
    assert resumed(loader, (1, 2)) == whole[8:]


def test_a_subclass_keeps_its_class_and_what_is_assigned_later():
    """A loader is copied below its __init__; what was set on it meanwhile counts from the next epoch on."""

    class Mine(DataLoader):
        def __init__(self, *, rows):
            super().__init__(Numbers(rows), batch_size=4, shuffle=True)

    loader = Mine(rows=8)
    place = feed(loader)
    assert isinstance(place, Indexed)
    assert len([*place.begin()]) == 2
    loader.collate_fn = sum
    assert sum(place.begin()) == sum(range(8))
    assert loader._iterator is None


def test_a_loader_that_iterates_in_its_own_way_is_read_again():
    """Exact where all follows from the random state at the epoch's beginning; said in any case."""

    class Doubled(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield batch * 2

    def loader():
        return Doubled(Numbers(), batch_size=4, shuffle=True)

    whole = uninterrupted(loader)
    assert isinstance(feed(loader()), Rereading)
    with pytest.warns(UserWarning, match="a Doubled can only be read from its beginning: its first 2 batches"):
        rest = resumed(loader, (1, 2))
    assert rest == whole[8:]


def test_a_list_of_batches_is_exact_and_nothing_is_said():
    """It can be asked for any of them."""
    place, other = feed([1, 2, 3, 4]), feed([1, 2, 3, 4])
    assert [*place.begin(3)] == [1, 2, 3]
    other.load_state_dict(place.state_dict(2, over=False))
    assert [*other.begin(3)] == [3]
    assert [*other.begin(3)] == [1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_without_state_is_said_to_be_inexact(workers):
    """With what to do; what it gives again is thrown away."""

    def loader():
        return DataLoader(Stream(), 4, num_workers=workers)

    assert isinstance(feed(loader()), Streaming)
    whole = [plain(batch) for batch in feed(loader()).begin()]
    assert whole == [plain(batch) for batch in loader()]
    run = feed(loader())
    source = run.begin()
    for _ in range(2):
        next(source)
    other = feed(loader())
    with pytest.warns(UserWarning, match="Stream is an iterable dataset without state.*StatefulDataLoader"):
        other.load_state_dict(run.state_dict(2, over=False))
    assert [plain(batch) for batch in other.begin()] == whole[2:]
    other.load_state_dict(run.state_dict(len(whole), over=True))  # nothing to warn of between epochs
    assert [plain(batch) for batch in other.begin(3)] == whole[:3]


class Counting(Stream):
    """A stream with a state, which it keeps when it ends."""

    def __init__(self, samples=SAMPLES):
        super().__init__(samples)
        self.at = 0

    def __iter__(self):
        while self.at < self.samples:
            self.at += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_dataset_with_a_state_goes_on_without_reading_again():
    """In this process; the batch that was read ahead is read once more, for it was not trained on."""
    loader = DataLoader(Counting(), 4)
    place = feed(loader)
    assert isinstance(place, Keeping)
    source = place.begin(ahead=True)
    assert [next(source).tolist() for _ in range(3)][-1] == [8, 9, 10, 11]
    other = feed(DataLoader(Counting(), 4))
    other.load_state_dict(place.state_dict(2, over=False))
    assert [batch.tolist()[0] for batch in other.begin(ahead=True)] == [8, 12, 16, 20]
    assert len([*other.begin(ahead=True)]) == 6


def test_a_loader_with_a_state_that_was_read_to_its_end_goes_on_in_the_next_epoch():
    """Where nobody knows the length, the end is seen."""
    place = feed(stateful())
    first = [plain(batch) for batch in place.begin()]
    state = stored(place.state_dict(5, over=True))
    second = [plain(batch) for batch in place.begin()]
    other = feed(stateful())
    other.load_state_dict(state)
    assert [plain(batch) for batch in other.begin()] == second != first


def test_a_loader_is_not_asked_for_its_state_before_it_was_read():
    """That would start its workers."""
    loader = stateful()
    assert feed(loader).state_dict(0, over=True) == {"kind": "kept", "over": True}
    assert loader._iterator is None


def test_a_state_of_another_kind_of_loader_is_no_crash():
    """A loader with a state where there was none, and the other way round: as many batches are skipped, and said."""
    run = Run(make("shuffled", Numbers(20)))
    run.epochs(1, (0, 2))
    place = feed(stateful())
    with pytest.warns(UserWarning, match="holds no state of the StatefulDataLoader"):
        place.load_state_dict(run.state()["feed"])
    assert len([*place.begin(5)]) == 3
    kept = feed(stateful())
    source = kept.begin(5)
    next(source)
    plain_one = feed(make("shuffled", Numbers(20)))
    with pytest.warns(UserWarning, match="does not hold the place of this DataLoader"):
        plain_one.load_state_dict(kept.state_dict(1, over=False))
    assert len([*plain_one.begin(5)]) == 4
    again = feed(iter([1, 2, 3]))
    with pytest.warns(UserWarning, match="can only be read from its beginning"):
        again.load_state_dict(run.state()["feed"])
    assert [*again.begin()] == [3]


def test_a_batch_read_ahead_draws_again_what_it_drew():
    """Where the length is unknown one batch is fetched before the one before it is trained on."""

    class Endless(Backwards):
        __len__ = None

    def loader():
        return DataLoader(Augmented(), 4, sampler=Endless())

    def train(place, seen, stop=None, done=0):
        source = place.begin(ahead=True)
        upcoming = next(source, None)
        while upcoming is not None:
            batch, upcoming = upcoming, next(source, None)
            seen.append((plain(batch), random.random()))
            done += 1
            if done == stop:
                return stored(place.state_dict(done, over=False)), stored(random_state.capture())
        return None

    seed_all(1)
    whole = []
    train(feed(loader()), whole)
    for stop in (1, 3, 6):
        seed_all(1)
        state, generators = train(feed(loader()), [], stop)
        seed_all(96)
        other, rest = feed(loader()), []
        other.load_state_dict(state)
        random_state.restore(generators)
        train(other, rest)
        assert rest == whole[stop:]
