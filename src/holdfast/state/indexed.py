"""Go on at any batch of a torch loader. Iterates a copy of the loader, with a sampler that gives the same indices.

The loader is left alone: what its sampler would draw is drawn here, from the same generators, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from holdfast.log import logger
from holdfast.state import generators, order, random
from holdfast.state.feeds import (
    Ahead,
    Keeping,
    another_order,
    as_before,
    drawn_before,
    generators_of,
    keeps_state,
    length_of,
    name_of,
    order_of_ranks,
    passing,
    say,
    started,
)
from holdfast.state.samplers import GlobalSampler, go_on_sharing, in_a_row, replaced, shared_order
from holdfast.state.workers import tasks


class Indexed:
    """A torch loader of a dataset with indices: what is done is skipped as indices.

    Args:
        loader: The loader.

    Attributes:
        loader: As that of ``Keeping``.
    """

    kind = "indices"

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self._indices = _Indices(loader)
        self._seeding = torch.Generator()
        self._twin = replaced(loader)
        self._base: int | None = None
        self._pass = -1
        self._begun: dict[str, Any] | None = None
        self._order: order.Drawn | order.Followed | None = None
        self._ahead = Ahead()
        self._saved: Mapping[str, Any] | None = None

    def begin(self, stop: int | None = None, *, ahead: bool = False) -> Iterator[Any]:
        """See ``Feed``."""
        saved, self._saved = self._saved, None
        if saved is not None and saved["kind"] == self.kind:
            return self._ahead.watch(self._go_on(saved, stop), ahead)
        self._pass += 1
        loader = self.loader
        if self._base is None or not (loader.persistent_workers and loader.num_workers):
            self._base = _number(loader.generator)  # as the loader would, for its workers
        self._begun = self._remember()
        first = 0 if saved is None else saved["done"]
        return self._ahead.watch(self._iterate(first, self._begun, stop), ahead)

    def state_dict(self, done: int, *, over: bool) -> dict[str, Any]:
        """See ``Feed``."""
        if self._saved is not None:
            return dict(self._saved)
        state: dict[str, Any] = {
            "kind": self.kind,
            "over": over or self._begun is None,
            "base": self._base,
            "pass": self._pass,
            "shared": shared_order(self.loader),
            "now": generators.capture(generators_of(self.loader)),
            "facts": _facts(self.loader),
        }
        dataset = self.loader.dataset
        if keeps_state(dataset):
            state["dataset"] = dataset.state_dict()  # type: ignore[attr-defined]
        if not state["over"]:
            last = self._order.mark(done - 1) if self._order is not None and done else None
            state |= {"done": done, "begun": self._begun, "last": last, "random": self._ahead.random}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Feed``."""
        say(self.inexact(state))
        self.loader = go_on_sharing(self.loader, state)
        self._saved = None if state.get("over", True) else state
        if state.get("kind") != self.kind:
            return
        self._base, self._pass = state["base"], state["pass"]
        left = generators.restore(generators_of(self.loader), state["now"])
        say(() if state["over"] else left)
        if "dataset" in state and keeps_state(self.loader.dataset):
            self.loader.dataset.load_state_dict(state["dataset"])  # type: ignore[attr-defined]

    def inexact(self, state: Mapping[str, Any]) -> list[str]:
        """See ``Feed``."""
        row, shared_now = in_a_row(_sampler(self.loader)), order_of_ranks(self.loader, state)
        if state.get("over", True):
            kept = state.get("kind") == Keeping.kind and state.get("shared") is None
            return [another_order(self.loader)] if kept and not row else shared_now
        if state["kind"] == self.kind:
            said = [*_differences(state["facts"], self.loader), *shared_now]
            return said if _drawn_again(state, _sampler(self.loader)) else [*said, self._other_order(state)]
        if row:
            return []  # the order of before follows from nothing that a checkpoint could hold
        return [
            f"the checkpoint does not hold the place of this {name_of(self.loader)} in its data: its first "
            f"{state['done']:,} batches are skipped, in an order that is not the one of before"
        ]

    def _other_order(self, state: Mapping[str, Any]) -> str:
        return (
            f"one process had drawn the order of the {name_of(self.loader)} by its {state['facts']['sampler']}, which "
            "ranks cannot do together: as many batches are skipped, and the others come in another order"
        )

    def close(self) -> None:
        """See ``Feed``."""
        # Left to the garbage collector, which ends a worker's queue before its loader can use it, they take 5 s each.
        vars(self._twin)["_iterator"] = None

    def _go_on(self, saved: Mapping[str, Any], stop: int | None) -> Iterator[Any]:
        """The rest of a pass."""
        done, begun = saved["done"], dict(saved["begun"])
        self._begun, held = begun, generators_of(self.loader)
        with as_before():
            generators.restore(held, begun["generators"])
            if begun["random"] is not None:
                random.restore(begun["random"])
            batches = self._iterate(done, begun, stop)
            if isinstance(self._order, order.Drawn):
                # This pass draws no more from them; what others have drawn from them meanwhile stays drawn.
                generators.restore(held, saved["now"])
            batches = drawn_before(batches, saved["random"])
        self._compare(saved)
        return batches

    def _compare(self, saved: Mapping[str, Any]) -> None:
        """Say so if the last batch that was done has not the samples that it had."""
        done, before, now = saved["done"], saved["facts"], _facts(self.loader)
        last = self._order.mark(done - 1) if self._order is not None and saved["last"] else None
        if last == saved["last"] or any(before[name] != now[name] for name in ("samples", "batch", "rank", "ranks")):
            return
        name, was, here = name_of(self.loader), before["sampler"], now["sampler"]
        why = (
            f"its sampler was a {was} and is a {here}"
            if was != here
            else f"what its {here} gives does not follow from what it was at the epoch's beginning: let it follow from "
            "a seed, and from the epoch that set_epoch() tells it"
        )
        say([f"the {name} gives other samples than before, and as many batches are skipped; {why}"])

    def _remember(self) -> dict[str, Any]:
        """What the order of the pass that begins follows from; no more than it needs."""
        sampler = _sampler(self.loader)
        begun: dict[str, Any] = {
            "generators": generators.capture(generators_of(self.loader)), "seed": None, "random": None,
        }  # fmt: skip
        if isinstance(sampler, GlobalSampler):
            begun["seed"] = sampler.seed + sampler.epoch
        elif sampler is None or not order.is_known(sampler):
            begun["random"] = random.capture()
        elif order.takes_seed(sampler):
            begun["seed"] = _number(None)
        elif order.takes_torch(sampler):
            begun["random"] = {"torch": torch.get_rng_state()}
        return begun

    def _iterate(self, first: int, begun: Mapping[str, Any], stop: int | None) -> Iterator[Any]:
        """The batches of a pass from ``first`` on; what its order needs is drawn now."""
        loader, base = self.loader, self._base
        assert base is not None, "a pass has begun"
        self._order = self._draw(first, begun, stop)
        source = self._order.batches(first, stop)
        if loader.num_workers:
            source = tasks(source, base=base, epoch=self._pass, first=first, rank=_turn(loader)[0])
        self._indices.of, self._indices.source = _sampling(loader), source
        self._seeding.manual_seed(base)
        # Renewed with each pass, for what was assigned to the loader meanwhile.
        kept = vars(self._twin)["_iterator"]
        vars(self._twin).update(vars(loader), _iterator=kept, generator=self._seeding, **self._indices.places(loader))
        return started(self._twin)

    def _draw(self, first: int, begun: Mapping[str, Any], stop: int | None) -> order.Drawn | order.Followed:
        loader, parts, sampler = self.loader, order.batching(self.loader), _sampler(self.loader)
        if parts is None or not order.is_known(sampler):
            if first:
                logger.info(
                    "%s: the indices of its first %s batches are gone through, for only its %s knows the order; "
                    "no data is read",
                    name_of(loader), f"{first:,}", _sampler_name(loader),
                )  # fmt: skip
            return order.Followed(_sampling(loader), ahead=loader.num_workers * (loader.prefetch_factor or 0))
        _, size, drop_last = parts
        wanted = None if stop is None or stop >= len(_sampling(loader)) else stop * (size or 1)
        return order.Drawn(order.draw(sampler, wanted=wanted, seed=begun["seed"]), size, drop_last)


class Streaming(Indexed):
    """A torch loader of a dataset without indices and without state: what is done is read again and thrown away."""

    kind = "stream"

    def inexact(self, state: Mapping[str, Any]) -> list[str]:
        """See ``Feed``."""
        if state.get("over", True):
            return []
        return [
            f"{name_of(self.loader.dataset)} is an iterable dataset without state: its first {state['done']:,} "
            "batches are read again and thrown away, and the others are those that would have come only if it gives "
            "the same samples in the same order every time. Give it state_dict and load_state_dict and read it with "
            "torchdata's StatefulDataLoader, or without workers; or make it a dataset with indices"
        ]

    def _iterate(self, first: int, begun: Mapping[str, Any], stop: int | None) -> Iterator[Any]:
        # Indices are no batches here: a worker whose share is read gives none for those it still gets.
        batches = islice(super()._iterate(0, begun, None), stop)
        return passing(batches, first)

    def _draw(self, first: int, begun: Mapping[str, Any], stop: int | None) -> order.Drawn | order.Followed:
        return order.Followed(_sampling(self.loader), ahead=0)


class _Indices:
    """Stands in a loader's copy for the sampler of its batches, and gives the indices of one pass."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.of: Any = _sampling(loader)
        self.source: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.source

    def __len__(self) -> int:
        return len(self.of)

    def places(self, loader: DataLoader[Any]) -> dict[str, Any]:
        """The attribute of the loader that it stands for."""
        return {"sampler" if loader.batch_sampler is None else "batch_sampler": self}


def _number(generator: torch.Generator | None) -> int:
    """What a loader draws for its workers, and a sampler for its order: one number."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _sampling(loader: DataLoader[Any]) -> Any:
    """What gives the indices of each batch."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _sampler(loader: DataLoader[Any]) -> Any:
    """What gives the indices of samples; None where batches are made by a rule of somebody's own."""
    parts = order.batching(loader)
    return None if parts is None else parts[0]


def _sampler_name(loader: DataLoader[Any]) -> str:
    sampler = _sampler(loader)
    return name_of(loader.batch_sampler if sampler is None else sampler)


def _turn(loader: DataLoader[Any]) -> tuple[int, int]:
    """Which rank reads, and of how many, as far as its sampler says."""
    sampler = _sampler(loader)
    if isinstance(sampler, DistributedSampler):
        return sampler.rank, sampler.num_replicas
    return (sampler.rank, sampler.size) if isinstance(sampler, GlobalSampler) else (0, 1)


def _drawn_again(state: Mapping[str, Any], sampler: Any) -> bool:
    """Whether ranks that share an order now, if they do, can draw that of a pass that one process had begun."""
    if state["shared"] is not None or not isinstance(sampler, GlobalSampler):
        return True
    return not sampler.reads_source and (state["begun"]["seed"] is not None or not sampler.shuffle)


def _facts(loader: DataLoader[Any]) -> dict[str, Any]:
    """What the order of samples hangs on besides generators."""
    size, (rank, ranks) = getattr(loader.batch_sampler, "batch_size", None), _turn(loader)
    return {
        "samples": length_of(loader.dataset), "workers": loader.num_workers, "rank": rank, "ranks": ranks,
        "batch": size * ranks if isinstance(size, int) else None, "sampler": _sampler_name(loader),
    }  # fmt: skip


def _differences(before: Mapping[str, Any], loader: DataLoader[Any]) -> list[str]:
    """What keeps a loader from going on in the middle of a pass as the one before would have."""
    name, now, said = name_of(loader), _facts(loader), []
    if before["samples"] != now["samples"]:
        said.append(f"the dataset of the {name} had {before['samples']} samples and has {now['samples']}")
    if before["batch"] != now["batch"]:
        said.append(
            f"a batch of the {name} had {before['batch']} samples and has {now['batch']}, over all ranks; as many "
            "batches are skipped"
        )
    if bool(before["workers"]) != bool(now["workers"]):
        said.append(
            f"the {name} had {before['workers']} workers and has {now['workers']}: the same samples come in the same "
            "order, but what its dataset draws at random is other, for only workers are seeded for each batch"
        )
    if loader.num_workers and not loader.in_order:
        said.append(f"the {name} has in_order=False: it is not known which batches were done, only how many")
    return said
