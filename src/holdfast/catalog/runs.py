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
from holdfast.store import LINKER, Lock, temporary_owner

_IS_RUN = re.compile("[0-9a-f]{32}")


@dataclass
class Run:
    """A run that this process is.

    Args:
        ref: Its identity, as manifests name it.
        lease: Held as long as the process is the run; the death of the process frees it.
        source: The checkpoint that it took its state from, if any.
    """

    ref: RunRef
    lease: Lock
    source: Record | None = None

    def end(self, folder: Folder, *, clean: bool) -> None:
        """Note the end in the ledger and free the lease."""
        try:
            folder.ledger.write("ended", run=self.ref.id, attempt=self.ref.attempt, clean=clean)
        finally:
            self.lease.release()


def begin(folder: Folder, *, source: Record | None = None, elsewhere: bool = False) -> Run:
    """Begin a run and take its lease.

    A source in this very folder is continued (same run, next attempt) where its lease is free. Everything else starts
    a new run, whose parent is the source where there is one.

    Args:
        folder: Where the run will save.
        source: The checkpoint that the state was taken from.
        elsewhere: Whether the source lies in another folder.
    """
    listing = folder.scan()
    ref, lease = None, None
    if source is not None and not elsewhere:
        lease = folder.store.lock(lease_name(source.run))
        if lease is not None:
            known = listing.runs.get(source.run) or RunRef(source.run, ordinal=source.run_ordinal)
            ref = RunRef(known.id, known.parent, known.ordinal, known.attempt + 1)
    if ref is None or lease is None:
        ordinal = 1 + max((run.ordinal for run in listing.runs.values()), default=0)
        ref = RunRef(secrets.token_hex(16), source.id if source else None, ordinal)
        lease = folder.store.lock(lease_name(ref.id))
        assert lease is not None, "nobody else knows this run's name yet"
    folder.ledger.write("run", run=vars(ref), host=socket.gethostname(), pid=os.getpid())
    if source is not None:
        name = source.names[0] if source.names else ""
        folder.ledger.write("resumed", run=ref.id, attempt=ref.attempt, id=source.id, name=name)
    run = Run(ref, lease, source)
    sweep(folder, run)
    return run


def lease_name(run: str) -> str:
    """The name of the lock that the process which is ``run`` holds."""
    return f".holdfast/{run}.lease"


def sweep(folder: Folder, run: Run) -> tuple[str, ...]:
    """Remove unfinished files of ``run``'s earlier attempts, and of runs whose process is shown to be dead.

    Returns:
        The names removed.
    """
    gone: list[str] = []
    with folder.exclusive():
        for name in folder.scan().leftovers:
            owner = temporary_owner(name) or ""
            if owner == run.ref.id or owner == LINKER:  # names are linked under the lock that is held here
                folder.store.remove(name)
                gone.append(name)
            elif _IS_RUN.fullmatch(owner):
                lease = folder.store.lock(lease_name(owner))  # None: its process lives
                if lease is not None:
                    try:
                        folder.store.remove(name)
                        gone.append(name)
                    finally:
                        lease.release()
    return tuple(gone)
