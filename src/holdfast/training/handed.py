"""Checkpoints that a user's own ``CheckpointIO`` writes: the same rules, other hands. Remembers them, and no file does.

What was written before this fit is not known here, and is never removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.catalog.folder import Folder
from holdfast.catalog.manifest import RunRef
from holdfast.catalog.runs import Run
from holdfast.engine.commit import what_and_remedy
from holdfast.engine.expected import expected
from holdfast.engine.group import Group, Solo
from holdfast.engine.job import Captured
from holdfast.errors import SaveFailed
from holdfast.log import logger
from holdfast.policy import plan as planning
from holdfast.policy.plan import Plan, Policy
from holdfast.policy.values import Event, Moment, Progress, Record, Tally
from holdfast.policy.what import What, full
from holdfast.training.checkpoint_io import CheckpointIO
from holdfast.training.places import RESCUE, Place, Saver

_BARE_STEP = frozenset({Event.BATCH_END})


class HandedPlace(Place):
    """A folder whose files a ``CheckpointIO`` writes.

    Args:
        folder: Which.
        io: Who writes.
    """

    def __init__(self, folder: Folder, io: CheckpointIO) -> None:
        super().__init__(folder)
        self.io = io
        self._handed: Handed | None = None

    def hand_over(
        self,
        capture: Callable[[What], Captured],
        *,
        group: Group,
        tallies: Mapping[str, Tally],
        saved: Callable[[Sequence[Record]], None],
    ) -> Saver:
        """Who saves here in this fit; see ``Handed``."""
        self._handed = Handed(self.io, self.folder, self.policies, capture, group, tallies, saved)
        return self._handed

    def rules_of_before(self) -> Mapping[str, list[Any]]:
        """None: no ledger is kept of such files."""
        return {}

    def newest_run(self) -> int:
        """0: no run is written into the folder."""
        return 0

    def tidy(self) -> None:
        """After a clean end: rescues go once something newer is there."""
        assert self._handed is not None, "a run has begun"
        self._handed.drop_rescues()

    def _own(self) -> tuple[Record, ...]:
        return () if self._handed is None else tuple(self._handed.checkpoints())


class Handed:
    """Does for files that others write what an engine does for ours: when it returns, they are there.

    Args:
        io: Who writes.
        folder: Where to.
        policies: All of them, with unique names.
        capture: Gives the state as it is now.
        group: The ranks; rank 0 decides and writes.
        tallies: What each policy remembers from before.
        saved: Takes the checkpoints of a save that is done.
    """

    under_way = False

    def __init__(
        self,
        io: CheckpointIO,
        folder: Folder,
        policies: Sequence[Policy],
        capture: Callable[[What], Captured],
        group: Group,
        tallies: Mapping[str, Tally],
        saved: Callable[[Sequence[Record]], None],
    ) -> None:
        self.run = Run(RunRef(secrets.token_hex(16)))
        self._io, self._folder, self._policies = io, folder, tuple(policies)
        self._capture, self._group, self._tallies, self._saved = capture, group, dict(tallies), saved
        self._records: list[Record] = []
        self._written: list[Record] = []
        self._sequence = 0
        self._horizon = planning.horizon(self._policies, self._tallies)

    def idle(self, progress: Progress) -> bool:
        """Whether a bare batch end at ``progress`` has nothing to do."""
        return not any(getattr(progress, counter) >= number for counter, number in self._horizon)

    def decide(self, moment: Moment) -> None:
        """Let the policies decide on one step, and have what they want written; there is nothing to begin then.

        Raises:
            SaveFailed: The user's code raised; what was written before it did stands.
        """
        if moment.events == _BARE_STEP and not moment.requests and self.idle(moment.progress):
            return
        decided = self._plan(moment)
        self._tallies = dict(decided.tallies)
        self._horizon = planning.horizon(self._policies, self._tallies)
        if decided.acts:
            self._act(decided, moment)

    def checkpoints(self) -> list[Record]:
        """Those of this fit, oldest first; while a state is captured, as they will be once that save is done."""
        return list(self._records)

    def next_sequence(self) -> int:
        """The next place among the saves of the run."""
        self._sequence += 1
        return self._sequence

    def protected(self) -> dict[str, str]:
        """Nothing: what the run went on from is not ours to remove, whatever it is."""
        return {}

    def alone(self) -> None:
        """From now on this rank decides and writes by itself: another has failed."""
        self._group = Solo()

    def fence(self) -> None:
        """Nothing reads the state."""

    def settle(self, *, last: bool = False) -> Record | None:
        """Nothing is under way."""

    def close(self, *, clean: bool) -> None:
        """The run is over."""
        self._io.teardown()

    def drop_rescues(self) -> None:
        """Remove those that stand aside from the rules, where there is something newer."""
        for record in self._records[:-1]:
            if set(record.policies) == {RESCUE.name}:
                self._records.remove(record)
                self._remove(record.names)

    def _plan(self, moment: Moment) -> Plan:
        """Decided on rank 0, which alone sees the folder; the others are told."""
        if self._group.rank != 0:
            return planning.from_json(self._group.broadcast(None, phase="plan"))
        decided = planning.plan(
            self._policies,
            self._tallies,
            moment,
            records=self._records,
            run=self.run.ref.id,
            taken={entry.name for entry in self._folder.store.list()},
        )
        if self._group.size > 1:
            self._group.broadcast(planning.to_json(decided), phase="plan")
        return decided

    def _act(self, decided: Plan, moment: Moment) -> None:
        before, sequence = self._records, self._sequence
        after = expected(before, decided, moment, run=self.run.ref.id, sequence=sequence)
        after = [replace(r, id=secrets.token_hex(16)) if r.sequence > sequence else r for r in after]
        self._written = before
        self._records = after  # what the state says of its own callbacks includes this very save
        try:
            for amend in decided.amends:
                self._amend(next(r for r in before if r.id == amend.id), amend.names, moment.progress)
            for save in decided.saves:
                self._write(self._capture(save.what).root, save.names)
        except BaseException:
            self._records = before
            raise
        self._sequence += len(decided.saves)
        kept = {name for record in after for name in record.names}
        self._remove([name for record in before for name in record.names if name not in kept])
        new = [record for record in after if record.sequence > sequence]
        for record in new:
            logger.info("handed %s (%s) to %s", ", ".join(record.names), record.reason, type(self._io).__name__)
        self._saved(new)

    def _amend(self, record: Record, names: Sequence[str], now: Progress) -> None:
        """More names for a checkpoint that is there: written again, for what links a file is its writer's to know."""
        if not names:
            return
        if record.progress == now and record.what == str(full):
            state = self._capture(full).root
        else:
            with self._theirs(names[0]):
                state = dict(self._io.load_checkpoint(self._path(record.names[0])))
        self._write(state, names)

    def _write(self, state: dict[str, Any], names: Sequence[str]) -> None:
        for name in names if self._group.rank == 0 else ():
            with self._theirs(name):
                self._io.save_checkpoint(state, self._path(name))

    def _remove(self, names: Sequence[str]) -> None:
        for name in names if self._group.rank == 0 else ():
            self._io.remove_checkpoint(self._path(name))

    def _path(self, name: str) -> str:
        return str(Path(self._folder.store.root) / name)

    @contextmanager
    def _theirs(self, name: str) -> Iterator[None]:
        """While the user's code runs: what it raises is told as a save that failed."""
        try:
            yield
        except Exception as error:  # it may be any
            why, remedy = what_and_remedy(error)
            good = next((f"'{record.names[0]}' was written before." for record in reversed(self._written)), "")
            raise SaveFailed(
                f"was not saved: {type(self._io).__name__} raised {why.removesuffix('.')}.",
                checkpoint=name,
                good=good,
                remedy=remedy,
            ) from error
