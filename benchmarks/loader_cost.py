"""Measure what knowing the place in the data costs above a bare loader, and how long it takes to get there again.

    python benchmarks/loader_cost.py [--batches 100000] [--rounds 7] [--samples 16] [--json FILE]

The cost of a batch: an epoch of a bare ``DataLoader`` and of the same loader as Holdfast reads it, in turn; the median
over the rounds of the difference, in processor time of the thread that trains, and by the wall's clock for loaders
with workers. The dataset gives the indices back, so that nothing but loading is measured. Asserts nothing.

The time to a batch: from the state of a run to the batch that comes next, in an epoch of more than a million batches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import measuring
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler

from holdfast.state.loaders import feed
from holdfast.state.samplers import GlobalSampler

MILLION = 1_000_000


class Indices(Dataset[Any]):
    """Samples that are their own index."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> int:
        return index


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
        workers: cost("shuffled", asked.batches // 20, asked.rounds, asked.samples, workers) for workers in (1, 2)
    }
    print(f"a batch of {asked.samples}, microseconds of processor time: bare, with Holdfast, difference")
    for name, (bare, ours, _, _) in costs.items():
        print(f"  {name:28} {bare:7.2f} {ours:7.2f} {ours - bare:+7.2f}")
    print("with workers, microseconds by the wall's clock, then of the thread that trains")
    for workers, (bare, ours, bare_wall, ours_wall) in worked.items():
        print(f"  {workers} workers: {bare_wall:7.1f} {ours_wall:7.1f} {ours_wall - bare_wall:+7.1f}", end="")
        print(f"  | {bare:7.1f} {ours:7.1f} {ours - bare:+7.1f}")
    print(f"seconds to the next batch of {asked.samples}, after 0 and after {MILLION:,} batches of an epoch")
    reached = {name: (to_batch(name, 0, asked.samples), to_batch(name, MILLION, asked.samples)) for name in SAMPLERS}
    for name, (first, late) in reached.items():
        print(f"  {name:28} {first:7.3f} {late:7.3f} {late - first:+7.3f}")
    figures = {"cost": costs, "workers": worked, "reached": reached, "options": vars(asked)}
    measuring.write_json(asked.json, figures)


def loader(name: str, batches: int, samples: int, **options: Any) -> DataLoader[Any]:
    """A loader of so many batches, of so many samples each."""
    data = Indices(batches * samples)
    return DataLoader(data, samples, collate_fn=len, **SAMPLERS[name](data), **options)


def cost(name: str, batches: int, rounds: int, samples: int, workers: int = 0) -> tuple[float, float, float, float]:
    """Microseconds a batch: processor time of the bare loader and of ours, then by the wall's clock."""
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    bare = loader(name, batches, samples, **options)
    ours = feed(loader(name, batches, samples, **options))
    both: list[list[tuple[float, float]]] = [[], []]
    for _ in range(rounds + 1):
        for taken, begin in zip(both, (lambda: iter(bare), lambda: ours.begin(batches)), strict=True):
            taken.append(epoch(begin(), batches))
    pairs = list(zip(*(taken[1:] for taken in both), strict=True))  # the first one warms up
    figures = [median(1e6 * one[clock] / batches for one in taken[1:]) for clock in (0, 1) for taken in both]
    # Medians of differences, not differences of medians: what slows both of a pair down is not ours.
    differences = [median(1e6 * (o[clock] - b[clock]) / batches for b, o in pairs) for clock in (0, 1)]
    return figures[0], figures[0] + differences[0], figures[2], figures[2] + differences[1]


def epoch(source: Iterator[Any], batches: int) -> tuple[float, float]:
    """Seconds for all batches but the first, which draws the order: processor time of this thread, and the wall's."""
    next(source)
    began, clock = time.thread_time(), time.perf_counter()
    for _ in source:
        pass
    return time.thread_time() - began, time.perf_counter() - clock


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
