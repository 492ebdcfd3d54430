"""Begin a run in a folder, or continue one: identity, lease, and what dead runs left behind."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from holdfast.catalog import directories
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.manifest import RunRef
from holdfast.errors import HoldfastError, StoreError
from holdfast.log import logger
from holdfast.policy.values import Record
from holdfast.store import LINKER, PROBE, REMOVER, Lock, temporary_owner

_IS_RUN = re.compile("[0-9a-f]{32}")
_TRIES, _PAUSE = 5, 0.005
"""How often a lease is asked for, and seconds between: a process that only looks whether it is free has it briefly."""


@dataclass
class Run:
    """A run that this process is.

    Args:
        ref: Its identity, as manifests name it.
        lease: Held as long as the process is the run; the death of the process frees it. None on the ranks
            other than 0, which holds it for all.
        source: The checkpoint that it took its state from, if any.
        latest: The last attempt of it that this folder knew of when it began: its own, but where it began elsewhere.
    """

    ref: RunRef
    lease: Lock | None = None
    source: Record | None = None
    latest: int = 1

    def keep(self, folder: Folder) -> None:
        """Under the folder's lock: this process is the run still; a lease that got lost is taken again.

        Raises:
            HoldfastError: Another process has gone on with the run, because the lease was lost.
        """
        if self.lease is None or self.lease.held():
            return
        known = folder.scan().runs.get(self.ref.id)
        if known is not None and known.attempt > self.latest:
            raise HoldfastError(
                f"another process has gone on with this run (attempt {known.attempt}), for its lease was lost.",
                remedy=f"End one of the two. Nobody is to remove '{lease_name(self.ref.id)}' while a run is alive; "
                "a network file system must not forget locks.",
            )
        with suppress(StoreError):  # a file system that has lost it may not know what to let go
            self.lease.release()
        again = folder.store.lock(lease_name(self.ref.id))
        if again is not None:  # otherwise somebody looks whether it is free, and the next save finds it so
            self.lease = again
            where = f"{folder.store.root}/{lease_name(self.ref.id)}"
            logger.warning("the lease of this run, '%s', was lost, and is taken again: nobody else had it", where)

    def end(self, folder: Folder, *, clean: bool) -> None:
        """Note the end in the ledger and free the lease."""
        try:
            folder.ledger.write("ended", run=self.ref.id, attempt=self.ref.attempt, clean=clean)
        finally:
            if self.lease is not None:
                self.lease.release()


def begin(
    folder: Folder,
    *,
    source: Record | None = None,
    elsewhere: bool = False,
    lineage: RunRef | None = None,
    newest: int = 0,
) -> Run:
    """Begin a run and take its lease.

    A source in this very folder is continued (same run, next attempt) where its lease is free. Everything
    else starts a new run, whose parent is the source where there is one. Either way ``ordinal`` makes it the
    newest run of the folder from now on.

    A run that saves in several folders is one run: in all but the first it is given its ``lineage``, and knows there
    what it saved there before.

    Args:
        folder: Where the run will save.
        source: The checkpoint that the state was taken from.
        elsewhere: Whether the source lies in another folder.
        lineage: The run as it began in another folder, where it is to save in this one too.
        newest: Ordinal of the newest run of all those folders: this one is to be newer in each, by one number.
    """
    with folder.exclusive():  # two that begin at once do not get one ordinal
        own = lineage.id if lineage is not None else source.run if source is not None and not elsewhere else None
        lease = _lease(folder, own) if own is not None else None
        try:
            run = _join(folder, lineage, source, lease) if lineage and lease else _take(folder, source, lease, newest)
            lease = run.lease
            folder.ledger.write("run", run=vars(run.ref), host=socket.gethostname(), pid=os.getpid())
            if source is not None:
                took = {"id": source.id, "name": source.names[0] if source.names else ""}
                folder.ledger.write("resumed", run=run.ref.id, attempt=run.ref.attempt, **took)
            listing = folder.scan()
            run.latest = listing.runs[run.ref.id].attempt
            _sweep(folder, run)
            _tell_of_others(folder, listing, run)
        except BaseException:
            if lease is not None:
                lease.release()  # this process may try again, and is to find the run free
            raise
    return run


def _take(folder: Folder, source: Record | None, lease: Lock | None, elsewhere: int) -> Run:
    """The identity: of the source's run where its lease was got, else a new one."""
    runs = folder.scan().runs
    newest = max((elsewhere, *(run.ordinal for run in runs.values())))
    if source is not None and lease is not None:
        known = runs.get(source.run) or RunRef(source.run, ordinal=source.run_ordinal)
        ordinal = known.ordinal if known.ordinal == newest else newest + 1
        return Run(RunRef(known.id, known.parent, ordinal, known.attempt + 1), lease, source)
    ref = RunRef(secrets.token_hex(16), source.id if source else None, newest + 1)
    lease = folder.store.lock(lease_name(ref.id))
    assert lease is not None, "nobody else knows this run's name yet"
    return Run(ref, lease, source)


def _join(folder: Folder, lineage: RunRef, source: Record | None, lease: Lock) -> Run:
    """The identity of a run that has begun elsewhere, in this folder."""
    listing = folder.scan()
    # Another run may have begun here since it began elsewhere.
    others = max((run.ordinal for run in listing.runs.values() if run.id != lineage.id), default=0)
    before = listing.runs.get(lineage.id, RunRef(lineage.id, ordinal=0))
    ordinal = max(lineage.ordinal, before.ordinal, others + 1)
    ref = RunRef(lineage.id, lineage.parent, ordinal, lineage.attempt)
    if source is None:
        return Run(ref, lease)
    # Of what the run saved here, the state at hand comes after what has no more batches than its source.
    own = [r for r in listing.of_run(ref.id) if r.progress.batches <= source.progress.batches]
    latest = own[-1] if own else Record("", run=ref.id, run_ordinal=-1)
    return Run(ref, lease, replace(latest, id=source.id, names=source.names))


def is_alive(folder: Folder, run: str) -> bool:
    """Whether a process holds the lease of a run."""
    lease = _lease(folder, run)
    if lease is not None:
        lease.release()
    return lease is None


def _lease(folder: Folder, run: str) -> Lock | None:
    """The lease of a run; None where a process keeps it."""
    for _ in range(_TRIES - 1):
        lease = folder.store.lock(lease_name(run))
        if lease is not None:
            return lease
        time.sleep(_PAUSE)
    return folder.store.lock(lease_name(run))


def lease_name(run: str) -> str:
    """The name of the lock that the process which is ``run`` holds."""
    return f".holdfast/{run}.lease"


def _tell_of_others(folder: Folder, listing: Listing, run: Run) -> None:
    """Say which other runs are at work in the folder: a job may have been started twice."""
    for other in listing.runs.keys() - listing.ended - {run.ref.id}:
        if is_alive(folder, other):
            logger.warning(
                "another run is alive in this folder: '%s/%s' names its process. This one is a run of its own beside "
                "it: neither lets go of the other's checkpoints, and last.ckpt is of the one that saved last. If that "
                "is not meant, end one of the two",
                folder.store.root,
                lease_name(other),
            )


def _sweep(folder: Folder, run: Run) -> None:
    """Remove unfinished files of ``run``'s earlier attempts, and of runs shown to be dead."""
    for name in folder.scan().leftovers:
        owner = temporary_owner(name) or ""
        if owner in (run.ref.id, LINKER, PROBE, REMOVER):  # names are linked, folders go, under the lock held here
            directories.remove(folder.store, name)
        elif _IS_RUN.fullmatch(owner):
            lease = folder.store.lock(lease_name(owner))  # None: its process lives
            if lease is not None:
                try:
                    directories.remove(folder.store, name)
                finally:
                    lease.release()
