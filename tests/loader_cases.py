"""Loaders of every kind, and what they give: for tests of the place in the data."""

from __future__ import annotations

import io
import random

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from holdfast.state import random as random_state
from holdfast.state.loaders import feed, tell_epoch
from holdfast.state.samplers import GlobalSampler

SAMPLES = 23


class Numbers(Dataset):
    """The index of each sample."""

    def __init__(self, samples=SAMPLES):
        self.samples = samples
        self.read = []

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        self.read.append(index)
        return index


class Augmented(Numbers):
    """With each sample, what Python, NumPy and torch draw."""

    def __getitem__(self, index):
        drawn = [index, random.random(), np.random.rand(), torch.rand(()).item()]
        return torch.tensor(drawn, dtype=torch.float64)


class Stream(IterableDataset):
    """Numbers in a row; workers take turns."""

    def __init__(self, samples=SAMPLES):
        self.samples = samples

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        yield from range(self.samples) if info is None else range(info.id, self.samples, info.num_workers)


class Backwards(Sampler):
    """A sampler of a user's that draws its order when it begins."""

    def __init__(self, samples=SAMPLES):
        self.samples = samples

    def __iter__(self):
        return iter(torch.randperm(self.samples).tolist()[::-1])

    def __len__(self):
        return self.samples


class Drawing(Backwards):
    """A sampler of a user's that draws each index from the global generator when it is asked for it."""

    def __iter__(self):
        for _ in range(self.samples):
            yield int(torch.randint(self.samples, ()))


class Own(Backwards):
    """A sampler of a user's with generators of its own, from which it draws as it goes."""

    def __init__(self, samples=SAMPLES):
        super().__init__(samples)
        self.generator = torch.Generator().manual_seed(8)
        self.numpy, self.python = np.random.default_rng(8), random.Random(8)

    def __iter__(self):
        for _ in range(self.samples):
            drawn = (torch.randint(9, (), generator=self.generator), self.numpy.integers(9), self.python.randrange(9))
            yield int(sum(drawn)) % self.samples


class Pairs:
    """A batch sampler of a user's."""

    def __init__(self, samples=SAMPLES):
        self.samples = samples

    def __iter__(self):
        order = torch.randperm(self.samples).tolist()
        return iter([order[i : i + 2] for i in range(0, self.samples, 2)])

    def __len__(self):
        return -(-self.samples // 2)


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def weights():
    return torch.linspace(0.1, 1, SAMPLES)


OF_TORCH = {
    "in a row": lambda d: {"batch_size": 4},
    "shuffled": lambda d: {"batch_size": 4, "shuffle": True},
    "shuffled by a generator": lambda d: {"batch_size": 4, "shuffle": True, "generator": seeded()},
    "full batches only": lambda d: {"batch_size": 4, "shuffle": True, "drop_last": True},
    "one by one": lambda d: {"batch_size": None, "shuffle": True},
    "with replacement": lambda d: {"batch_size": 4, "sampler": RandomSampler(d, True, 70, generator=seeded())},
    "with replacement, unseeded": lambda d: {"batch_size": 4, "sampler": RandomSampler(d, replacement=True)},
    "more than once": lambda d: {"batch_size": 4, "sampler": RandomSampler(d, num_samples=60, generator=seeded())},
    "exactly twice": lambda d: {"batch_size": 4, "sampler": RandomSampler(d, num_samples=46, generator=seeded())},
    "fewer": lambda d: {"batch_size": 4, "sampler": RandomSampler(d, num_samples=17)},
    "weighted": lambda d: {"batch_size": 4, "sampler": WeightedRandomSampler(weights(), 40)},
    "weighted by a generator": lambda d: {
        "batch_size": 4, "sampler": WeightedRandomSampler(weights(), 40, generator=seeded()),
    },
    "a subset": lambda d: {"batch_size": 2, "sampler": SubsetRandomSampler([3, 5, 7, 9, 11, 1, 2])},
    "batches sampled": lambda d: {"batch_sampler": BatchSampler(RandomSampler(d), 5, drop_last=False)},
    "batches in a row": lambda d: {"batch_sampler": BatchSampler(SequentialSampler(d), 5, drop_last=True)},
    "distributed": lambda d: {"batch_size": 4, "sampler": DistributedSampler(d, 2, 1)},
    "ours": lambda d: {"batch_size": 4, "sampler": GlobalSampler(d, rank=1, size=2, seed=3)},
}  # fmt: skip

OF_USERS = {
    "a user's order": lambda d: {"batch_size": 4, "sampler": Backwards()},
    "a user's generators": lambda d: {"batch_size": 4, "sampler": Own()},
    "a user's batches": lambda d: {"batch_sampler": Pairs()},
    "a list": lambda d: {"batch_size": 4, "sampler": list(range(0, SAMPLES, 2))},
}  # fmt: skip

WORKERS = {
    "no workers": {},
    "2 workers": {"num_workers": 2},
    "2 that stay": {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
}


def make(kind, dataset=None, **options):
    """A loader of a kind."""
    dataset = Numbers() if dataset is None else dataset
    return DataLoader(dataset, **{**OF_TORCH, **OF_USERS}[kind](dataset), **options)


def plain(batch):
    """A batch as numbers that can be compared."""
    return batch.tolist() if isinstance(batch, torch.Tensor) else batch


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Run:
    """Epochs over a loader as a trainer reads them: of a known size, with draws of its own between the batches."""

    def __init__(self, loader, size=None):
        self.loader, self.feed = loader, feed(loader)
        self.size = len(loader) if size is None else size
        self.epoch, self.done = 0, 0

    def epochs(self, count, stop_at=None):
        """What comes, up to ``count`` epochs or to (epoch, batches); (epoch, batch, what training drew) each."""
        seen = []
        while self.epoch < count:
            tell_epoch(self.feed.loader, self.epoch)
            for batch in self.feed.begin(self.size):
                seen.append((self.epoch, plain(batch), torch.rand(()).item(), random.random()))
                self.done += 1
                if (self.epoch, self.done) == stop_at:
                    return seen
            self.epoch, self.done = self.epoch + 1, 0
        return seen

    def state(self, over=False):
        return {"epoch": self.epoch, "done": self.done, "feed": self.feed.state_dict(self.done, over=over)}

    def go_on(self, state):
        self.epoch, self.done = state["epoch"], state["done"]
        self.feed.load_state_dict(state["feed"])


def in_both_ways(kind, **options):
    """Three epochs, and what is drawn then, read through us and from the bare loader."""

    def read(begin):
        return [[plain(batch) for batch in begin()] for _ in range(3)], torch.rand(()).item(), random.random()

    seed_all(1)
    ours = read(feed(make(kind, **options)).begin)
    seed_all(1)
    return ours, read(make(kind, **options).__iter__)


def stored(state):
    """Through a file, as the safe loader reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(make_loader, stop_at, *, size=None, make_other=None, over=False):
    """What comes after ``stop_at`` in a run that goes on there, in a process that was seeded otherwise."""
    seed_all(1)
    run = Run(make_loader(), size)
    run.epochs(3, stop_at)
    state, generators = stored(run.state(over)), stored(random_state.capture())
    del run
    seed_all(99)
    run = Run((make_other or make_loader)(), size)
    run.go_on(state)
    random_state.restore(generators)
    return run.epochs(3)


def uninterrupted(make_loader, size=None):
    seed_all(1)
    return Run(make_loader(), size).epochs(3)


def stateful(**options):
    return StatefulDataLoader(Numbers(20), batch_size=4, shuffle=True, generator=seeded(), **options)
