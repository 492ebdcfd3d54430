"""One checkpoint file on its way: the state captured, copied, laid out, written under a temporary name, synced.

What it is called, and whether it is published, others decide.
"""

from __future__ import annotations

import platform
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch

from holdfast._version import __version__
from holdfast.catalog.manifest import Manifest, RunRef
from holdfast.engine import archive, health, snapshot, statetree
from holdfast.engine.fence import Window
from holdfast.engine.lending import Lent
from holdfast.log import warn
from holdfast.policy.values import Moment, Score, Tally
from holdfast.policy.what import What
from holdfast.store import Sink, Store


class OpaqueStateWarning(UserWarning):
    """A checkpoint holds values that the safe loader does not give back."""


@dataclass(frozen=True)
class Captured:
    """The state of one step, arranged as the file is to hold it. Tensors are lent, not copied.

    Args:
        root: The whole state.
        places: Part name to its path in ``root``.
        frozen: Dotted names, beginning with the part's, of the model's parameters that are not trained.
        groups: Part name of an optimizer to the parameter names of each of its groups.
        weights: Dotted names, as in ``frozen``, of the parameters that are trained: what is to be finite.
        lent: The tensors that change in a step of their optimizer only, and may be read in place until then.
        given: The tensors, in host memory, that were made for this state and are nobody else's.
        divided: Whether each rank has a part of it, and is to write that part itself.
    """

    root: Any
    places: Mapping[str, tuple[str | int, ...]]
    frozen: frozenset[str] = frozenset()
    groups: Mapping[str, Sequence[Sequence[str]]] | None = None
    weights: frozenset[str] = frozenset()
    lent: Sequence[Lent] = ()
    given: Sequence[torch.Tensor] = ()
    divided: bool = False

    def name(self, path: tuple[Any, ...]) -> str:
        """The dotted name of a path in ``root``: by its part, where it is in one."""
        for end in range(len(path), 0, -1):
            part = self._parts.get(path[:end])
            if part is not None:
                return statetree.dotted((part, *path[end:]))
        return statetree.dotted(path)

    @cached_property
    def _parts(self) -> dict[tuple[Any, ...], str]:
        return {place: part for part, place in self.places.items()}


Capture = Callable[[What], Captured]


class Work(Protocol):
    """One checkpoint on its way, or this rank's part of it: ``Job``, or ``sharded.ShardedJob``.

    Attributes:
        window: Open while it reads in place; None where it does not.
        not_finite: Trained weights that hold NaN or infinity, once it is written.
        bytes: Of the checkpoint, once it is complete.
        begun: When it was captured, on the clock of ``time.perf_counter``.
    """

    window: Window | None
    not_finite: tuple[str, ...]
    bytes: int
    begun: float

    @property
    def manifest(self) -> Manifest:
        """What the checkpoint is; known on rank 0."""
        ...

    def write(self, store: Store, name: str, sinks: list[Any], *, memory: int | None) -> Any:
        """Write this rank's part, on the writer's thread; returns, plain, what rank 0 has to know of it."""
        ...

    def complete(self, told: Mapping[int, Any]) -> None:
        """Rank 0, once all have written, given what they returned."""
        ...

    def release(self) -> None:
        """Nothing more is read in place."""
        ...


class Job:
    """One file, from its snapshot to its synced bytes.

    Args:
        taken: The snapshot; its memory is free once it is written.
        manifest: What the file holds, but for its bytes.
        weights: Names of the tensors that are to be finite.
    """

    def __init__(self, taken: snapshot.Snapshot, manifest: Manifest, weights: Collection[str] = ()) -> None:
        self._taken: snapshot.Snapshot | None = taken
        self.window = taken.window
        self.manifest = manifest
        self.not_finite: tuple[str, ...] = ()
        self._weights = weights
        self.bytes = 0
        self.begun = time.perf_counter()

    def write(self, store: Store, name: str, sinks: list[Sink], *, memory: int | None = None) -> None:
        """Lay out, write and sync; the sink, which is to be published or discarded later, is added to ``sinks``.

        Args:
            store: Where to.
            name: What the file is to be called.
            sinks: Those of this save.
            memory: Bytes of buffers that it may take; see ``archive.write``.

        Raises:
            StoreError: A write failed.
            Moved: What was lent has changed meanwhile: the file is to be discarded.
        """
        try:
            self._write(store, name, sinks, memory)
        except BaseException:
            self.release()
            raise

    def _write(self, store: Store, name: str, sinks: list[Sink], memory: int | None) -> None:
        assert self._taken is not None, "a job is written once"
        self.not_finite = health.not_finite(self._taken.tree, self._weights, self._taken.beside)
        self.manifest = replace(self.manifest, healthy=not self.not_finite)
        laid_out = archive.lay_out(self._taken, self.manifest)
        self.bytes = laid_out.bytes
        sink = store.create(name, owner=self.manifest.run.id, size=self.bytes)
        sinks.append(sink)
        returned = self.window.returned if self.window is not None else lambda: None
        self.manifest = archive.write(laid_out, sink, memory=memory, read=returned)
        self._taken = None
        sink.sync()
        if self.window is not None:
            self.window.verdict()

    def complete(self, told: Mapping[int, Any]) -> None:
        """Do nothing: a file is whole when it is written."""

    def release(self) -> None:
        """Nothing more is read: whoever waits to change the state goes on. Does nothing after ``write``."""
        if self.window is not None:
            self.window.release()


def prepare(
    captured: Captured,
    what: What,
    moment: Moment,
    *,
    run: RunRef,
    sequence: int,
    tallies: Mapping[str, Tally],
    policies: tuple[str, ...] = (),
    reason: str = "",
    label: str | None = None,
    scores: Mapping[str, float] | None = None,
    warned: set[str] | None = None,
    copied: Collection[str] = (),
    patience: float | None = None,
) -> Job:
    """Take a state; when it returns, training may go on.

    What is not copied is read until ``write`` is over: somebody calls that, or ``release``, for a step of an
    optimizer waits for it.

    Args:
        captured: The state.
        what: What of it is kept.
        moment: The step.
        run: Whose checkpoint it is.
        sequence: Its place in the run.
        tallies: What each policy remembers.
        policies: Who wants it.
        reason: Why.
        label: The user's name for it.
        scores: Metrics of this very step that were measured before, by name.
        warned: Paths of values that are not plain that the user has been told of; added to.
        copied: Names of tensors that are not to be read in place, whoever lends them.
        patience: Seconds that training waits at most for what is read in place; None for as long as it takes.

    Raises:
        ConfigError: The state holds a tensor that no checkpoint can hold.
    """
    tree = statetree.take_apart(
        captured.root,
        keep=lambda name, _: what.wants(name, trainable=name not in captured.frozen),
        name=captured.name,
    )
    taken = snapshot.take(tree, captured.lent, captured.given, but=copied, patience=patience)
    try:
        _warn_of_opaque(taken, set() if warned is None else warned)
    except BaseException:  # where the user made errors of warnings
        if taken.window is not None:
            taken.window.release()
        raise
    manifest = Manifest(
        id=secrets.token_hex(16),
        run=run,
        sequence=sequence,
        progress=moment.progress,
        metrics={
            **moment.metrics,
            **{name: Score(value, moment.progress.steps) for name, value in (scores or {}).items()},
        },
        parts=captured.places,
        what=str(what),
        policies=policies,
        reason=reason,
        label=label,
        tallies=tallies,
        saved_at=time.time(),
        groups=captured.groups or {},
        versions={"holdfast": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )
    return Job(taken, manifest, captured.weights)


def _warn_of_opaque(taken: snapshot.Snapshot, warned: set[str]) -> None:
    """Say once of each path that the safe loader will not give it back, or nobody will."""
    for paths, fate in (
        (taken.opaque, "saved, and given back only by a load that trusts the file"),
        (taken.lost, "not saved, for they cannot be pickled"),
    ):
        new = [path for path in paths if path not in warned]
        warned.update(new)
        if new:
            text = f"These values are neither plain nor tensors: {', '.join(new)}. They are {fate}."
            warn(f"{text} Keep plain values in the state instead.", OpaqueStateWarning)
