"""Know where a run is in its data: what a feed is, and those of loaders that keep their own place, or keep none.

A feed stands between a loader and whoever trains. It begins passes over the loader, remembers what the order of the
current one follows from, and can begin a pass in its middle. It counts no steps and knows no trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain, islice
from typing import Any, Protocol

from torch.utils.data import DataLoader

from holdfast.log import warn
from holdfast.state import generators, random
from holdfast.state.samplers import GlobalSampler, can_share, go_on_sharing, in_a_row, sampler_of, shared_order
from holdfast.state.standing_by import standing_by

_END: Any = object()


class Feed(Protocol):
    """What knows its place in a loader."""

    def begin(self, stop: int | None = None, *, ahead: bool = False) -> Iterator[Any]:
        """The batches of the next pass; of the rest of one, after a state was loaded that stood in its middle.

        Args:
            stop: The number of batches of the whole pass; None to read to the end.
            ahead: Whether a batch is asked for before the one that came last is trained on.
        """

    def state_dict(self, done: int, *, over: bool) -> dict[str, Any]:
        """Where the current pass is.

        Args:
            done: Batches of it that were trained on: those read ahead do not count.
            over: Whether it is finished, and a new one follows.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where a state stood: the next ``begin`` goes on there. Warns of what will not be exact."""

    def inexact(self, state: Mapping[str, Any]) -> list[str]:
        """What would not be as it would have been, going on from a state; one sentence each, none if all is exact."""

    def close(self) -> None:
        """Let the workers go that it has started itself."""


class Keeping:
    """A loader, or its dataset, that knows its place by its own ``state_dict``.

    Args:
        loader: The loader.

    Attributes:
        loader: What is read: another one where one process goes on in the order that ranks shared.
    """

    kind = "kept"

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._given, self._ended = -1, False
        self._before: dict[str, Any] | None = None
        self._saved: Mapping[str, Any] | None = None

    def begin(self, stop: int | None = None, *, ahead: bool = False) -> Iterator[Any]:
        """See ``Feed``."""
        saved, self._saved = self._saved, None
        self._given = done = 0 if saved is None or saved["over"] else saved["done"]
        source = started(self.loader) if saved is None else self._resumed(saved)
        return islice(self._following(source, ahead), None if stop is None else max(0, stop - done))

    def state_dict(self, done: int, *, over: bool) -> dict[str, Any]:
        """See ``Feed``."""
        if self._saved is not None:
            return dict(self._saved)
        if self._given < 0:  # to ask now would make a loader start its workers
            return {"kind": self.kind, "over": True}
        before = None if over else self._before
        length = length_of(self.loader)
        return {
            "kind": self.kind,
            "over": over,
            "done": done,
            "ended": self._ended and before is None,
            "whole": length is not None and self._given >= length,
            "random": None,
            "shared": shared_order(self.loader),
            "workers": _workers(self.loader),
            **(self._now() if before is None else before),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Feed``."""
        say(self.inexact(state))
        self.loader = go_on_sharing(self.loader, state)
        own = self._fits(state) and "state" in state
        self._given, self._saved = -1, state if own or not state.get("over", True) else None

    def inexact(self, state: Mapping[str, Any]) -> list[str]:
        """See ``Feed``."""
        if "kind" not in state or self._fits(state):
            return []
        if state.get("over", True):
            return [] if state.get("shared") is not None and can_share(self.loader) else [another_order(self._owner)]
        if state["kind"] == self.kind:
            was, now = self._among(state["shared"], state["workers"]), self._now_among()
            return [
                f"the {name_of(self._owner)} has kept its place {was}, which is none {now}: its first "
                f"{state['done']:,} batches are read and thrown away, and the others are those that would have come "
                "only where the order was shared by ranks"
            ]
        return [
            f"the checkpoint holds no state of the {name_of(self._owner)}: its first {state['done']:,} batches are "
            "read and thrown away"
        ]

    def close(self) -> None:
        """See ``Feed``: they are the loader's own."""

    def _resumed(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        with as_before():
            if not self._fits(saved):
                return passing(started(self.loader), saved["done"])
            self._owner.load_state_dict(saved["state"])
            source = started(self.loader)
            if not saved["over"]:
                generators.restore(self._generators(), saved["generators"])
                return drawn_before(source, saved["random"])
            if not saved["ended"] and saved["whole"]:
                # It stood behind its last batch, and was not asked for one more: that makes a loader begin anew.
                first = next(source, _END)
                if first is not _END:
                    return chain((first,), source)
        # What was left of that pass is dropped; or the next one has begun, but not from where its order is drawn.
        generators.restore(self._generators(), saved["generators"])
        return started(self.loader)

    @property
    def _owner(self) -> Any:
        """Who has the state."""
        return self.loader if keeps_state(self.loader) else self.loader.dataset

    def _now(self) -> dict[str, Any]:
        return {"state": self._owner.state_dict(), "generators": generators.capture(self._generators())}

    def _fits(self, state: Mapping[str, Any]) -> bool:
        """Whether a state was that of a loader of this kind, of as many ranks that share its order and workers."""
        if state.get("kind") != self.kind:
            return False
        return "workers" not in state or self._among(state["shared"], state["workers"]) == self._now_among()

    def _now_among(self) -> str:
        return self._among(shared_order(self.loader), _workers(self.loader))

    @staticmethod
    def _among(shared: Mapping[str, int] | None, workers: int) -> str:
        ranks = 1 if shared is None else shared["ranks"]
        order = "" if shared is None else " in the order that ranks share"
        return f"on {ranks} rank{'s' * (ranks > 1)}{order} and in {workers} workers"

    def _generators(self) -> dict[str, generators.Generator]:
        """Those that it draws from besides: torchdata's puts them back as they were at the beginning of the pass."""
        loader = self.loader
        # Where workers read ahead they have been drawn from for batches that nobody was given.
        return generators_of(loader) if isinstance(loader, DataLoader) and not loader.num_workers else {}

    def _following(self, source: Iterator[Any], ahead: bool) -> Iterator[Any]:
        self._ended, self._before = False, None
        for batch in source:
            self._given += 1
            yield batch
            if ahead:  # the next one is not trained on when this one is: this is the state to save
                self._before = {**deepcopy(self._now()), "random": random.capture()}
        self._ended = True


class Rereading:
    """Any other iterable: what is done is read again and thrown away, from the random state that the pass began with.

    Args:
        loader: What is iterated.

    Attributes:
        loader: As that of ``Keeping``.
    """

    kind = "again"

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._begun: dict[str, Any] | None = None
        self._saved: Mapping[str, Any] | None = None
        self._ahead = Ahead()

    def begin(self, stop: int | None = None, *, ahead: bool = False) -> Iterator[Any]:
        """See ``Feed``."""
        saved, self._saved = self._saved, None
        if saved is None:
            if not isinstance(self.loader, Sequence):
                self._begun = {"generators": generators.capture(self._generators()), "random": random.capture()}
            return self._ahead.watch(islice(started(self.loader), stop), ahead)
        self._begun = begun = saved["begun"] if saved["kind"] == self.kind else None
        with as_before():
            if begun is not None:
                generators.restore(self._generators(), begun["generators"])
                random.restore(begun["random"])
            source = passing(islice(started(self.loader), stop), saved["done"])
            source = drawn_before(source, saved.get("random"))
        return self._ahead.watch(source, ahead)

    def state_dict(self, done: int, *, over: bool) -> dict[str, Any]:
        """See ``Feed``."""
        if self._saved is not None:
            return dict(self._saved)
        now, shared = generators.capture(self._generators()), shared_order(self.loader)
        if over:
            return {"kind": self.kind, "over": True, "now": now, "shared": shared}
        return {
            "kind": self.kind, "over": False, "now": now, "shared": shared, "done": done, "begun": self._begun,
            "random": self._ahead.random,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Feed``."""
        say(self.inexact(state))
        self.loader = go_on_sharing(self.loader, state)
        if state.get("kind") == self.kind:
            left = generators.restore(self._generators(), state["now"])
            say(() if state["over"] else left)
        self._saved = None if state.get("over", True) else state

    def inexact(self, state: Mapping[str, Any]) -> list[str]:
        """See ``Feed``."""
        if state.get("over", True) or isinstance(self.loader, Sequence):
            return order_of_ranks(self.loader, state)
        return [
            f"a {name_of(self.loader)} can only be read from its beginning: its first {state['done']:,} batches are "
            "read again and thrown away, and the others are those that would have come only if that follows from the "
            "random state at the epoch's beginning. Use a DataLoader that iterates as torch's does, or give it "
            "state_dict and load_state_dict"
        ]

    def close(self) -> None:
        """See ``Feed``: they are the loader's own."""

    def _generators(self) -> dict[str, generators.Generator]:
        return generators_of(self.loader) if isinstance(self.loader, DataLoader) else {}


class Ahead:
    """The random state before the batch that was asked for last, where batches are asked for ahead of training.

    What reads in this process draws from the global generators; one batch that is read again draws what it drew.
    """

    def __init__(self) -> None:
        self.random: dict[str, Any] | None = None

    def watch(self, source: Iterator[Any], ahead: bool) -> Iterator[Any]:
        """The same batches, watched if they are asked for ahead."""
        self.random = None
        return self._watched(source) if ahead else source

    def _watched(self, source: Iterator[Any]) -> Iterator[Any]:
        for batch in source:
            yield batch
            self.random = random.capture()


def drawn_before(source: Iterator[Any], state: Mapping[str, Any] | None) -> Iterator[Any]:
    """The same batches, of which the first is read now, under a random state; lazily where there is none."""
    if state is None:
        return source
    random.restore(state)
    first = next(source, _END)
    return source if first is _END else chain((first,), source)


def passing(source: Iterator[Any], count: int) -> Iterator[Any]:
    """The same iterator, without its first ``count`` batches: they are read now."""
    for _ in islice(source, count):
        pass
    return source


@contextmanager
def as_before() -> Iterator[None]:
    """The global generators are afterwards as they were."""
    before = random.capture()
    try:
        yield
    finally:
        random.restore(before)


def generators_of(loader: DataLoader[Any]) -> dict[str, generators.Generator]:
    """The generators that a loader and its samplers hold."""
    batches = loader.batch_sampler
    owners = {"loader": loader, "sampler": loader.sampler, "batch_sampler": batches}
    return generators.held({**owners, "batch_sampler.sampler": getattr(batches, "sampler", None)})


def started(loader: Any) -> Iterator[Any]:
    """``iter`` of a loader, whose workers, where it starts any now, stand by when this process is asked to end."""
    if not _workers(loader):
        return iter(loader)
    init = loader.worker_init_fn
    loader.worker_init_fn = standing_by(init)
    try:
        return iter(loader)
    finally:
        loader.worker_init_fn = init


def _workers(loader: Any) -> int:
    return loader.num_workers if isinstance(loader, DataLoader) else 0


def another_order(loader: Any) -> str:
    """What follows for the passes after one that another loader has read to its end."""
    return (
        f"what read the data before kept its place in another way than this {name_of(loader)}, or with other workers: "
        "the epochs that follow come in another order"
    )


def order_of_ranks(loader: Any, state: Mapping[str, Any]) -> list[str]:
    """What follows where ranks share the order now that a loader had for itself."""
    sampler = sampler_of(loader) if isinstance(loader, DataLoader) else None
    alone = "kind" in state and state.get("shared") is None
    if not alone or not isinstance(sampler, GlobalSampler) or in_a_row(sampler):
        return []
    name = name_of(loader)
    return [f"the {name} had an order of its own, and ranks share one: the epochs that follow come in another order"]


def say(sentences: Iterable[str]) -> None:
    """Warn of what is not exact."""
    for sentence in sentences:
        warn(f"Going on is not exact: {sentence}.")


def keeps_state(owner: Any) -> bool:
    """Whether something can give its state and take it back."""
    return all(callable(getattr(owner, name, None)) for name in ("state_dict", "load_state_dict"))


def length_of(sized: Any) -> int | None:
    """The length of what has one."""
    try:
        return len(sized)
    except TypeError:
        return None


def name_of(thing: Any) -> str:
    """What to call it in a sentence."""
    return type(thing).__name__
