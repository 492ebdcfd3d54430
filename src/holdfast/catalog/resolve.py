"""Find the checkpoint that a word or a path means: ``last``, ``best``, ``auto`` (with walk-back), or a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from holdfast.catalog import records
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.verify import Damage, Finding, Verdict, read_manifest, verify
from holdfast.errors import Corrupt, Foreign, NotFound, StoreError
from holdfast.policy.values import Record
from holdfast.policy.which import Which
from holdfast.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Passed:
    """A checkpoint that was passed over because it does not verify.

    Args:
        name: Its name.
        why: What is wrong with it.
        steps: Optimizer steps that it holds, where that is still known.
    """

    name: str
    why: str
    steps: int | None = None


@dataclass(frozen=True)
class Found(Generic[T]):
    """The newest checkpoint that could be read.

    Args:
        record: Which; None for a fresh start.
        value: What reading it gave.
        passed: What was passed over on the way, newest first.
    """

    record: Record | None
    value: T | None
    passed: tuple[Passed, ...] = ()

    @property
    def steps_lost(self) -> int:
        """Optimizer steps between the newest one passed over and the one found; at least, see ``exact``."""
        newest = max((p.steps for p in self.passed if p.steps is not None), default=0)
        return max(0, newest - (self.record.progress.steps if self.record else 0))

    @property
    def exact(self) -> bool:
        """Whether it is known of all that were passed over how many steps they held."""
        return all(p.steps is not None for p in self.passed)


def resumable(known: Iterable[Record]) -> list[Record]:
    """Those that a run can go on from, newest first; of the newest run before any of an older one."""
    whole = [r for r in known if r.what == "full"]
    return sorted(whole, key=lambda r: r.order, reverse=True)


def last(listing: Listing) -> Record | None:
    """The newest checkpoint of the newest run; by the order of commits, never by name or time."""
    newest = resumable(listing.records)
    return newest[0] if newest else None


def best(listing: Listing, which: Which) -> Record | None:
    """The best of the newest run by the first ranking rule of ``which``."""
    run = listing.newest_run()
    return which.best_of(listing.of_run(run)) if run else None


def auto(listing: Listing, read: Callable[[Record], T]) -> Found[T]:
    """The newest checkpoint that ``read`` accepts, walking back over those that it calls ``Corrupt``.

    Where there is none, that is a fresh start.
    """
    passed: list[Passed] = []
    for record in resumable(listing.records):
        try:
            return Found(record, read(record), (*_newer_wrecks(listing, record), *passed))
        except Corrupt as error:
            passed.append(Passed(record.names[0], str(error), record.progress.steps))
    return Found(None, None, (*_newer_wrecks(listing, None), *passed))


def _newer_wrecks(listing: Listing, found: Record | None) -> list[Passed]:
    """Files that are no checkpoints any more, without those known to be older than what was found."""
    wrecks = [s for s in listing.strangers if s.verdict is Verdict.CORRUPT]
    newer = [s for s in wrecks if s.was is None or found is None or s.was.order > found.order]
    return [Passed(s.name, s.why, s.was.progress.steps if s.was else None) for s in newer]


def named(store: Store, name: str, listing: Listing | None = None) -> Record:
    """The checkpoint of that name.

    Args:
        store: Where.
        name: Its name.
        listing: What else is there; None where nobody is to look, for a folder may be anybody's.

    Raises:
        NotFound: There is none; the sentence lists what there is.
        Corrupt: There is a file of that name which is no checkpoint any more.
        Foreign: There is a file of that name which Holdfast did not write.
    """
    record = listing.by_name(name) if listing else None
    if record is not None:
        return record
    path = f"{store.root}/{name}"
    good = newest_good(listing.records) if listing else ""
    entry = store.stat(name)
    if entry is None:
        names = ", ".join(r.names[0] for r in listing.records) or "no checkpoint" if listing else ""
        raise NotFound(f"does not exist.{names and f' The folder holds {names}.'}", checkpoint=path)
    remedy = "Nothing was loaded."
    wrecks = [s for s in listing.strangers if s.name == name and s.verdict is Verdict.CORRUPT] if listing else []
    if wrecks:  # the ledger may know of one that has no sign of ours left
        raise Corrupt(f"is corrupt: {wrecks[0].why}.", checkpoint=path, good=good, remedy=remedy)
    try:
        with store.open(name) as reader:
            manifest = read_manifest(reader)
    except Damage as damage:
        raise Corrupt(f"is corrupt: {damage}.", checkpoint=path, good=good, remedy=remedy) from damage
    if manifest is None:
        raise Foreign("was not written by Holdfast.", checkpoint=path, good=good, remedy=remedy)
    return records.project(manifest, bytes=entry.bytes, names=(name,))


def check(folder: Folder, record: Record) -> Finding:
    """Verify the file of one record in full."""
    try:
        with folder.store.open(record.names[0]) as reader:
            return verify(reader, ours=True)
    except StoreError as error:
        return Finding(Verdict.CORRUPT, str(error))


def newest_good(known: Iterable[Record], *, but: str = "") -> str:
    """A sentence naming the newest other checkpoint, for an error's third part."""
    for record in resumable(known):
        if record.id != but:
            return f"'{record.names[0]}' (step {record.progress.steps:,}) is the newest other one."
    return "There is no other checkpoint in this folder."
