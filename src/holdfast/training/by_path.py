"""Save checkpoints by their paths while training goes on, outside any rules: every rank its part, one at a time."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.catalog import directories, records
from holdfast.catalog.manifest import RunRef
from holdfast.engine.commit import commit, withdraw
from holdfast.engine.fence import Moved
from holdfast.engine.group import Group
from holdfast.engine.job import Captured, Work, prepare
from holdfast.engine.shelf import from_plain, to_plain
from holdfast.engine.writer import Outcome, Ticket, Writer
from holdfast.errors import HoldfastError, SaveFailed, StoreError
from holdfast.log import logger
from holdfast.policy.values import Event, Moment, Progress, Score
from holdfast.policy.what import What
from holdfast.store import LocalStore

_DEADLINE = 600.0


class ByPath:
    """The saves by path of one fit.

    Args:
        group: The ranks.
        memory: Bytes of buffers that a save may take; None for the default.
    """

    def __init__(self, group: Group, memory: int | None = None) -> None:
        self.group, self._memory = group, memory
        self._writer = Writer()
        self._flight: Ticket | None = None
        self._spent: list[str] = []

    def begin(
        self,
        captured: Captured,
        what: What,
        progress: Progress,
        metrics: Mapping[str, Score],
        path: Path,
        *,
        identity: tuple[RunRef, int] | None,
    ) -> Ticket:
        """Begin one, when the one before is over. Every rank calls it; rank 0's path counts.

        Args:
            captured: The state, or this rank's part of it.
            what: What of it.
            progress: The counters.
            metrics: The metrics now.
            path: The file, which may be replaced; or the folder, where the state is divided.
            identity: The run and the place among its saves; None for a run of its own.

        Returns:
            It; its record says how it failed, if so, and ``settle`` does where nobody has asked.

        Raises:
            ConfigError: The state holds a tensor that no checkpoint can hold.
        """
        run, sequence = identity or (RunRef(secrets.token_hex(16)), 1)
        own = {"path": str(path), "run": vars(run), "sequence": sequence, "token": secrets.token_hex(8)}
        told = self.group.broadcast(own, phase="save_checkpoint()")
        path, key = Path(told["path"]), f"save_checkpoint/{told['token']}"
        options = {
            "run": RunRef(**told["run"]), "sequence": told["sequence"], "tallies": {}, "reason": "by hand",
            "patience": self.group.patience,
        }  # fmt: skip
        moment = Moment(frozenset({Event.MANUAL}), progress, metrics)
        job: Work | None = None
        try:
            if captured.divided:
                from holdfast.engine import sharded  # what it needs of torch is loaded by those who need it

                ranks = {"rank": self.group.rank, "ordinal": told["token"]}
                job = sharded.prepare(captured, what, moment, **ranks, **options)
            elif self.group.rank == 0:
                job = prepare(captured, what, moment, **options)
        except Exception as error:  # whatever it is, no rank is to wait for this one
            withdraw(self.group, key, error, self._spent)
            raise
        windows = [] if job is None or job.window is None else [job.window]
        (self._flight,) = self._writer.begin([(path.name,)], lambda: [self._save(job, path, key)], windows)
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
        """End the thread, then as ``settle``."""
        self._writer.close()
        self.settle()

    def _save(self, job: Work | None, path: Path, key: str) -> Outcome:
        """On the writer's thread: write, and publish on rank 0."""
        store = LocalStore(path.parent)
        sinks: list[Any] = []

        def publish(written: Mapping[int, Any]) -> dict[str, Any]:
            assert job is not None, "rank 0 writes"
            job.complete(written)
            sinks[0].publish(path.name, replace=not isinstance(sinks[0], directories.Draft))
            return {"records": to_plain([records.project(job.manifest, bytes=job.bytes, names=(path.name,))])}

        try:
            result = commit(
                self.group,
                key,
                write=lambda: None if job is None else job.write(store, path.name, sinks, memory=self._memory),
                publish=publish,
                deadline=_DEADLINE,
                spent=self._spent,
            )
        except Exception as error:  # whatever it is, who asked must hear of it in the words of a failed save
            for sink in sinks:
                with suppress(StoreError):
                    sink.discard()
            return self._failed(store, path, error)
        finally:
            if job is not None:
                job.release()
        (record,) = from_plain(result["records"])
        if self.group.rank == 0:
            logger.info("saved %s (by hand)", path)
        return record

    def _failed(self, store: LocalStore, path: Path, error: Exception) -> SaveFailed:
        what = error.what if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
        remedy = error.remedy if isinstance(error, HoldfastError) else ""
        if isinstance(error, Moved):
            remedy = "Call fence() before changing weights yourself, or save with blocking=True."
        there = directories.is_own_name(store, path.name) or store.stat(path.name) is not None
        failed = SaveFailed(
            f"was not saved: {what}",
            checkpoint=str(path),
            rank=self.group.rank if self.group.size > 1 else None,
            good="What stood there stands." if there else "",
            remedy=remedy,
        )
        failed.__cause__ = error
        return failed
