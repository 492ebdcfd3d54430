"""Measure what knowing the place in the data costs above a bare loader, and how long it takes to get there again.

    python benchmarks/loader_cost.py [--batches 100000] [--rounds 7] [--samples 16] [--json FILE]

The cost of a batch: an epoch of a bare ``DataLoader``, of another one like it, and of one like it as Holdfast reads it,
in turn; the median over the rounds of the differences, in processor time of the thread that trains, and for loaders
with workers by the wall's clock, of the whole process, and of its workers. What the two bare ones differ by is noise.
The dataset gives the indices back, so that nothing but loading is measured; one of small pictures, cropped and turned
at random, shows what that is beside some work. Asserts nothing.

The floor with workers: what each library takes to seed its generator, and what the way to the worker takes more.

The time to a batch: from the state of a run to the batch that comes next, in an epoch of more than a million batches.
"""

from __future__ import annotations

import argparse
import pickle
import random
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from statistics import median
from timeit import repeat as timed
from typing import Any

import measuring
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler

from holdfast.state.loaders import feed
from holdfast.state.samplers import GlobalSampler
from holdfast.state.workers import Task, tasks

MILLION = 1_000_000
CLOCKS = ("wall", "thread", "process", "workers")


class Indices(Dataset[Any]):
    """Samples that are their own index."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> int:
        return index


class Pictures(Indices):
    """Samples that are pictures of 64 by 64: cut out of larger ones and turned at random, then made floats."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.picture = torch.randint(256, (3, 72, 72), dtype=torch.uint8)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        top, left = random.randrange(8), np.random.randint(8)
        part = self.picture[:, top : top + 64, left : left + 64]
        return (part.flip(-1) if torch.rand(()) < 0.5 else part).float().div_(255)


class Users(Sampler[int]):
    """A sampler that Holdfast does not know."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.samples))

    def __len__(self) -> int:
        return self.samples


SAMPLERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "in a row": lambda data: {},
    "shuffled": lambda data: {"shuffle": True},
    "with replacement": lambda data: {"sampler": RandomSampler(data, replacement=True)},
    "DistributedSampler, 1 rank": lambda data: {"sampler": DistributedSampler(data, 1, 0)},
    "Holdfast's GlobalSampler": lambda data: {"sampler": GlobalSampler(data)},
    "a user's sampler": lambda data: {"sampler": Users(len(data))},
}


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=16, help="in a batch")
    parser.add_argument("--json", default="build/loader_cost.json", help="where the raw figures go")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    costs = {name: cost(name, asked.batches, asked.rounds, asked.samples) for name in SAMPLERS}
    worked = {
        f"{workers} workers, {kind.__name__.lower()}": cost(
            "shuffled", asked.batches // less, asked.rounds, asked.samples, workers, kind
        )
        for kind, less in ((Indices, 10), (Pictures, 100))
        for workers in (1, 2)
    }
    parts = seeding(asked.samples)
    print(f"a batch of {asked.samples}, microseconds of processor time: bare, again, with Holdfast")
    for name, one in costs.items():
        print(
            f"  {name:28} {one['bare']['thread']:7.2f}", *(f"{one[arm]['thread']:+7.2f}" for arm in ("noise", "ours"))
        )
    print("with workers, microseconds: wall's clock, then processor time of thread that trains, process, workers")
    for name, one in worked.items():
        for arm, form in (("bare", "8.1f"), ("noise", "+8.1f"), ("ours", "+8.1f")):
            print(f"  {name:22} {arm:5}", *(f"{one[arm][clock]:{form}}" for clock in CLOCKS))
    print("microseconds a batch of what workers cost, each by itself and hot")
    for name, one in parts.items():
        print(f"  {name:28} {one:7.2f}")
    print(f"seconds to the next batch of {asked.samples}, after 0 and after {MILLION:,} batches of an epoch")
    reached = {name: (to_batch(name, 0, asked.samples), to_batch(name, MILLION, asked.samples)) for name in SAMPLERS}
    for name, (first, late) in reached.items():
        print(f"  {name:28} {first:7.3f} {late:7.3f} {late - first:+7.3f}")
    figures = {"cost": costs, "workers": worked, "parts": parts, "reached": reached, "options": vars(asked)}
    measuring.write_json(asked.json, figures)


def loader(name: str, batches: int, samples: int, kind: type[Indices] = Indices, **options: Any) -> DataLoader[Any]:
    """A loader of so many batches, of so many samples each."""
    data = kind(batches * samples)
    collate = len if kind is Indices else None
    return DataLoader(data, samples, collate_fn=collate, **SAMPLERS[name](data), **options)


def seeding(samples: int) -> dict[str, float]:
    """Microseconds a batch of each thing that Holdfast does for workers, and of all of it as a worker meets it."""
    indices, seed = list(range(100_000, 100_000 + samples)), 12_345_678_901_234_567_890
    task, made = Task(seed, indices), tasks(repeat(indices), base=seed, epoch=3, first=0, rank=0)
    sent, bare = (bytes(ForkingPickler.dumps((7, one))) for one in (task, indices))
    parts = {
        "random.seed": lambda: random.seed(seed),
        "numpy.random.seed": lambda: np.random.seed(seed & 0xFFFFFFFF),
        "torch's generator": lambda: torch.default_generator.manual_seed(seed),
        "main: seed and task": lambda: next(made),
        "main: to pickle, bare": lambda: ForkingPickler.dumps((7, indices)),
        "main: to pickle": lambda: ForkingPickler.dumps((7, task)),
        "worker: to unpickle, bare": lambda: pickle.loads(bare),
        "worker: unpickle and seed": lambda: pickle.loads(sent),
    }
    return {name: min(timed(part, number=5_000, repeat=7)) / 5_000 * 1e6 for name, part in parts.items()}


def cost(
    name: str, batches: int, rounds: int, samples: int, workers: int = 0, kind: type[Indices] = Indices
) -> dict[str, dict[str, float]]:
    """Microseconds a batch by each clock: of the bare loader; above it, of the same once more and of ours."""
    options = {"num_workers": workers, "persistent_workers": workers > 0, "kind": kind}
    bare, again = (loader(name, batches, samples, **options) for _ in range(2))
    ours = feed(loader(name, batches, samples, **options))
    begin = {"bare": lambda: iter(bare), "noise": lambda: iter(again), "ours": lambda: ours.begin(batches)}
    taken: dict[str, list[dict[str, float]]] = {arm: [] for arm in begin}
    for number in range(rounds + 1):
        for arm in sorted(begin, reverse=number % 2 == 1):  # nobody always comes after the same other
            taken[arm].append(epoch(begin[arm](), batches))
    pairs = {arm: list(zip(taken["bare"][1:], taken[arm][1:], strict=True)) for arm in begin}  # the first one warms up
    found = {"bare": {clock: median(one[clock] for one in taken["bare"][1:]) for clock in CLOCKS}}
    # Medians of differences, not differences of medians: what slows both of a pair down is not ours.
    for arm in ("noise", "ours"):
        found[arm] = {clock: median(one[clock] - base[clock] for base, one in pairs[arm]) for clock in CLOCKS}
    return found


def epoch(source: Iterator[Any], batches: int) -> dict[str, float]:
    """Microseconds a batch by each clock, over all batches but the first, which draws the order."""
    next(source)
    began = clocks()
    for _ in source:
        pass
    return {clock: 1e6 * (now - began[clock]) / batches for clock, now in clocks().items()}


def clocks() -> dict[str, float]:
    """Seconds by the wall's clock, and of processor time: of this thread, of this process, of all its workers."""
    threads = [thread for one in active_children() for thread in Path(f"/proc/{one.pid}/task").iterdir()]
    of_workers = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    return dict(
        zip(CLOCKS, (time.perf_counter(), time.thread_time(), time.process_time(), of_workers / 1e9), strict=True)
    )


def to_batch(name: str, done: int, samples: int) -> float:
    """Seconds from the state after ``done`` batches to the next one."""
    batches = MILLION + 10
    before = feed(loader(name, batches, samples))
    next(before.begin(batches))
    state = before.state_dict(1, over=False)
    del before
    after = feed(loader(name, batches, samples))
    after.load_state_dict({**state, "done": done, "last": None})
    began = time.process_time()
    next(after.begin(batches))
    return time.process_time() - began


if __name__ == "__main__":
    main()
