"""Save checkpoints by their paths, outside any rules: every rank its part, and training waits for it or goes on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.catalog import directories, records
from holdfast.catalog.manifest import RunRef
from holdfast.engine.commit import commit, what_and_remedy
from holdfast.engine.fence import Moved
from holdfast.engine.group import Group
from holdfast.engine.job import Captured, Work, prepare
from holdfast.engine.shelf import from_plain, to_plain
from holdfast.engine.writer import Outcome, Ticket, Writer
from holdfast.errors import HoldfastError, RankError, SaveFailed, StoreError
from holdfast.log import logger
from holdfast.policy.values import Moment
from holdfast.policy.what import What
from holdfast.store import LocalStore

_DEADLINE = 600.0
_PHASE = "save_checkpoint()"


class ByPath:
    """The saves by path of one fit, and those after it: one at a time.

    Args:
        group: The ranks.
        memory: Bytes of buffers that a save may take; None for the default.
    """

    def __init__(self, group: Group, memory: int | None = None) -> None:
        self.group, self._memory = group, memory
        self._writer = Writer()
        self._flight: Ticket | None = None
        self._spent: list[str] = []

    def save(
        self,
        captured: Captured,
        what: What,
        moment: Moment,
        path: Path,
        *,
        identity: tuple[RunRef, int] | None,
        blocking: bool,
    ) -> Ticket | None:
        """Save one, when the one before is over. Every rank calls it; rank 0's path counts.

        Args:
            captured: The state, or this rank's part of it.
            what: What of it.
            moment: The counters and the metrics.
            path: The file, which may be replaced; or the folder, where the state is divided.
            identity: The run and the place among its saves; None for a run of its own.
            blocking: Whether to return when it is durable, on all ranks; else it is written while training goes on.

        Returns:
            None; or what is under way, whose record says how it failed, if so. ``settle`` does where nobody has asked.

        Raises:
            SaveFailed: With ``blocking``: it was not saved, here or on another rank; what stood there stands.
        """
        run, sequence = identity or (RunRef(secrets.token_hex(16)), 1)
        own = {
            "path": str(path.expanduser().absolute()), "run": vars(run), "sequence": sequence,
            "token": secrets.token_hex(8),
        }  # fmt: skip
        told = self.group.broadcast(own, phase=_PHASE)
        path = Path(told["path"])
        job: Work | None = None
        refused: Exception | None = None
        try:
            job = self._job(captured, what, moment, told)
        except Exception as error:  # whatever it is, no rank is to wait for this one
            refused = error
        save = partial(self._save, job, refused, path, f"save_checkpoint/{told['token']}")
        if blocking:
            self._all_heard(save())
            return None
        windows = [] if job is None or job.window is None else [job.window]
        (self._flight,) = self._writer.begin([(path.name,)], lambda: [save()], windows)
        return self._flight

    @property
    def under_way(self) -> bool:
        """Whether one is being written now."""
        return self._flight is not None and not self._flight.durable

    def fence(self) -> None:
        """Return when none reads the state in place any more."""
        if self._flight is not None:
            self._flight.fence()

    def wait(self) -> None:
        """Return when none is under way; how it went is told by ``settle``."""
        if self._flight is not None:
            self._flight.wait()

    def settle(self) -> None:
        """As ``wait``, and say once how the last one failed, if so and nobody knows it from its ticket.

        Raises:
            SaveFailed: It was not saved.
        """
        self.wait()
        flight, self._flight = self._flight, None
        if flight is not None and not flight.heard:
            _ = flight.record

    def close(self) -> None:
        """End the thread, then as ``settle``. What comes after the fit is saved without it."""
        self._writer.close()
        self.settle()

    def _job(self, captured: Captured, what: What, moment: Moment, told: Mapping[str, Any]) -> Work | None:
        """This rank's part, of which training may change nothing until it is read; None where it has none."""
        options = {
            "run": RunRef(**told["run"]), "sequence": told["sequence"], "tallies": {}, "reason": "by hand",
            "patience": self.group.patience,
        }  # fmt: skip
        if self.group.rank == 0:
            _check_free(told["path"], divided=captured.divided)
        if captured.divided:
            from holdfast.engine import sharded  # what it needs of torch is loaded by those who need it

            ranks = {"rank": self.group.rank, "ordinal": told["token"]}
            return sharded.prepare(captured, what, moment, **ranks, **options)
        return prepare(captured, what, moment, **options) if self.group.rank == 0 else None

    def _save(self, job: Work | None, refused: Exception | None, path: Path, key: str) -> Outcome:
        """Write, and publish on rank 0; on the writer's thread, where training goes on."""
        store = LocalStore(path.parent)
        sinks: list[Any] = []

        def write() -> Any:
            if refused is not None:
                raise refused
            return None if job is None else job.write(store, path.name, sinks, memory=self._memory)

        def publish(written: Mapping[int, Any]) -> dict[str, Any]:
            assert job is not None, "rank 0 writes"
            job.complete(written)
            sinks[0].publish(path.name, replace=not isinstance(sinks[0], directories.Draft))
            return {"records": to_plain([records.project(job.manifest, bytes=job.bytes, names=(path.name,))])}

        try:
            result = commit(self.group, key, write=write, publish=publish, deadline=_DEADLINE, spent=self._spent)
        except Exception as error:  # whatever it is, who asked must hear of it in the words of a failed save
            return self._failed(path, error)
        finally:
            for sink in sinks:
                with suppress(StoreError):
                    sink.discard()  # what is published stays
            if job is not None:
                job.release()
        (record,) = from_plain(result["records"])
        if self.group.rank == 0:
            logger.info("saved %s (by hand)", path)
        return record

    def _all_heard(self, outcome: Outcome) -> None:
        """Return, or raise, when all ranks know: rank 0, with whom all talk, may end right afterwards."""
        if not isinstance(outcome, Exception):
            self.group.barrier(phase=_PHASE)
            return
        with suppress(RankError):  # a rank that does not come is what has failed
            self.group.barrier(phase=_PHASE)
        raise outcome

    def _failed(self, path: Path, error: Exception) -> SaveFailed:
        what, remedy = what_and_remedy(error)
        if isinstance(error, Moved):
            remedy = "Call fence() before changing weights yourself, or save with blocking=True."
        failed = SaveFailed(
            f"was not saved: {what}",
            checkpoint=str(path),
            rank=self.group.rank if self.group.size > 1 else None,
            good="What stood there stands." if os.path.lexists(path) else "",
            remedy=remedy,
        )
        failed.__cause__ = error
        return failed


def _check_free(path: str, *, divided: bool) -> None:
    """Before anything is written; what comes there later is refused when the checkpoint is published."""
    if not divided and Path(path).is_dir():
        raise HoldfastError("there is a folder of that name.", remedy="Name a file.")
    if divided and os.path.lexists(path):
        raise HoldfastError("that name is taken.", remedy="Give a name that is free: a folder takes no other's place.")
