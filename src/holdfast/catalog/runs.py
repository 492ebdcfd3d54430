"""Begin a run in a folder, or continue one: identity, lease, and what dead runs left behind."""

from __future__ import annotations

import os
import re
import secrets
import socket
from dataclasses import dataclass

from holdfast.catalog.folder import Folder
from holdfast.catalog.manifest import RunRef
from holdfast.policy.values import Record
from holdfast.store import LINKER, PROBE, Lock, temporary_owner

_IS_RUN = re.compile("[0-9a-f]{32}")


@dataclass
class Run:
    """A run that this process is.

    Args:
        ref: Its identity, as manifests name it.
        lease: Held as long as the process is the run; the death of the process frees it. None on the ranks
            other than 0, which holds it for all.
        source: The checkpoint that it took its state from, if any.
    """

    ref: RunRef
    lease: Lock | None = None
    source: Record | None = None

    def end(self, folder: Folder, *, clean: bool) -> None:
        """Note the end in the ledger and free the lease."""
        try:
            folder.ledger.write("ended", run=self.ref.id, attempt=self.ref.attempt, clean=clean)
        finally:
            if self.lease is not None:
                self.lease.release()


def begin(folder: Folder, *, source: Record | None = None, elsewhere: bool = False) -> Run:
    """Begin a run and take its lease.

    A source in this very folder is continued (same run, next attempt) where its lease is free. Everything
    else starts a new run, whose parent is the source where there is one. Either way ``ordinal`` makes it the
    newest run of the folder from now on.

    Args:
        folder: Where the run will save.
        source: The checkpoint that the state was taken from.
        elsewhere: Whether the source lies in another folder.
    """
    with folder.exclusive():  # two that begin at once do not get one ordinal
        lease = folder.store.lock(lease_name(source.run)) if source is not None and not elsewhere else None
        try:
            run = _take(folder, source, lease)
            lease = run.lease
            folder.ledger.write("run", run=vars(run.ref), host=socket.gethostname(), pid=os.getpid())
            if source is not None:
                took = {"id": source.id, "name": source.names[0] if source.names else ""}
                folder.ledger.write("resumed", run=run.ref.id, attempt=run.ref.attempt, **took)
            _sweep(folder, run)
        except BaseException:
            if lease is not None:
                lease.release()  # this process may try again, and is to find the run free
            raise
    return run


def _take(folder: Folder, source: Record | None, lease: Lock | None) -> Run:
    """The identity: of the source's run where its lease was got, else a new one."""
    runs = folder.scan().runs
    newest = max((run.ordinal for run in runs.values()), default=0)
    if source is not None and lease is not None:
        known = runs.get(source.run) or RunRef(source.run, ordinal=source.run_ordinal)
        ordinal = known.ordinal if known.ordinal == newest else newest + 1
        return Run(RunRef(known.id, known.parent, ordinal, known.attempt + 1), lease, source)
    ref = RunRef(secrets.token_hex(16), source.id if source else None, newest + 1)
    lease = folder.store.lock(lease_name(ref.id))
    assert lease is not None, "nobody else knows this run's name yet"
    return Run(ref, lease, source)


def lease_name(run: str) -> str:
    """The name of the lock that the process which is ``run`` holds."""
    return f".holdfast/{run}.lease"


def _sweep(folder: Folder, run: Run) -> None:
    """Remove unfinished files of ``run``'s earlier attempts, and of runs shown to be dead."""
    for name in folder.scan().leftovers:
        owner = temporary_owner(name) or ""
        if owner in (run.ref.id, LINKER, PROBE):  # names are linked under the lock that is held here
            folder.store.remove(name)
        elif _IS_RUN.fullmatch(owner):
            lease = folder.store.lock(lease_name(owner))  # None: its process lives
            if lease is not None:
                try:
                    folder.store.remove(name)
                finally:
                    lease.release()
