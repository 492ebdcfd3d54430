"""Find the checkpoint that a word or a path means: ``last``, ``best``, ``auto`` (with walk-back), or a name."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from holdfast.catalog import directories, records, runs
from holdfast.catalog.folder import Folder, Listing, Stranger
from holdfast.catalog.verify import Damage, Finding, Verdict
from holdfast.errors import Corrupt, Foreign, HoldfastError, NotFound, StoreError, Unreadable
from holdfast.log import logger
from holdfast.policy.values import Record
from holdfast.store import Store

T = TypeVar("T")

BEGINS = "With 'auto' (with a Checkpointer: resume()) a run begins where there is none."
_NAMED = 5  # files in an error that tells of all of them


@dataclass(frozen=True)
class Passed:
    """A checkpoint that was passed over because it does not verify.

    Args:
        folder: Where it is.
        name: Its name.
        why: What is wrong with it.
        steps: Optimizer steps that it holds, where that is still known.
        damaged: Its record, where it was read and its bytes are wrong.
    """

    folder: Folder
    name: str
    why: str
    steps: int | None = None
    damaged: Record | None = None


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


def whole(record: Record) -> bool:
    """Whether a run can go on from it."""
    return record.what == "full"


def with_model(record: Record) -> bool:
    """Whether a model can be evaluated with it."""
    return "model" in record.parts


def resumable(known: Iterable[Record], holds: Callable[[Record], bool] = whole) -> list[Record]:
    """Those that a run can go on from, newest first; of the newest run before any of an older one."""
    return sorted(filter(holds, known), key=lambda r: r.order, reverse=True)


def newest_first(
    listed: Iterable[tuple[Folder, Listing]], holds: Callable[[Record], bool] = whole
) -> list[tuple[Folder, Record]]:
    """The checkpoints of several folders, newest first.

    Each folder has its own order, by runs and commits. Between folders, which know nothing of each other, the times
    in the manifests decide; those of files never do.
    """
    queues = [(folder, queue) for folder, listing in listed if (queue := resumable(listing.records, holds))]
    found = []
    while queues:
        folder, queue = max(queues, key=lambda each: each[1][0].saved_at)
        found.append((folder, queue.pop(0)))
        queues = [each for each in queues if each[1]]
    return found


def unfinished(folders: Iterable[Folder]) -> Iterator[tuple[Folder, Record]]:
    """The folders whose newest run can be gone on with, newest first, each with the newest checkpoint of that run.

    That is a run that has not ended clean, that no process is any more, and that no other run went on from.
    """
    listed = [(folder, folder.scan()) for folder in folders]
    parents = {run.parent for _, listing in listed for run in listing.runs.values()}
    gone_on = {record.run for _, listing in listed for record in listing.records if record.id in parents}
    ended = {folder.store.root: listing.ended for folder, listing in listed}
    newest: dict[str, tuple[Folder, Record]] = {}
    for folder, record in newest_first(listed):
        newest.setdefault(folder.store.root, (folder, record))
    for root, (folder, record) in newest.items():
        if record.run not in gone_on | ended[root] and not runs.is_alive(folder, record.run):
            yield folder, record


def last(listing: Listing) -> Record | None:
    """The newest checkpoint of the newest run; by the order of commits, never by name or time."""
    newest = resumable(listing.records)
    return newest[0] if newest else None


def refuse_wrecks(folder: Folder, listing: Listing, newest: Record | None) -> None:
    """Where a newer checkpoint was written than the newest that can be told, and its file is one no more.

    Says so where only a second file of the newest is damaged, such as ``last.ckpt`` of a folder that was copied.

    Raises:
        Corrupt: It names the file; an older state is not taken for the last one without a word.
        Unreadable: So it does where a file cannot be read.
    """
    refuse_unreadable([(folder, listing)], newest)
    since = 0.0 if newest is None else newest.saved_at
    corrupt = [s for s in listing.strangers if s.verdict is Verdict.CORRUPT]
    for twin in corrupt:
        if newest is not None and twin.was is not None and twin.was.id == newest.id:
            logger.warning("'%s' is corrupt: %s. Its other file is read: '%s'", twin.name, twin.why, newest.names[0])
    wrecks = [s for s in corrupt if s.was is not None and whole(s.was) and s.was.saved_at > since]
    for wreck in sorted(wrecks, key=lambda s: s.was.saved_at if s.was else 0.0, reverse=True)[:1]:
        assert wreck.was is not None, "only those are among them"
        raise Corrupt(
            f"is corrupt: {wreck.why}. It was the newest, of step {wreck.was.progress.steps:,}.",
            checkpoint=f"{folder.store.root}/{wreck.name}",
            good=newest_good(listing.records),
            remedy="Nothing was loaded.",
        )


def last_of(folder: Folder, listing: Listing) -> Record:
    """As ``last``.

    Raises:
        NotFound: There is none.
        Corrupt: The newest was damaged so that it cannot be told any more.
        Unreadable: One that may be newer cannot be read.
    """
    root = folder.store.root
    record = last(listing)
    refuse_wrecks(folder, listing, record)
    if record is None:
        raise NotFound(
            "does not exist: the folder holds no checkpoint that can be resumed.",
            checkpoint=f"{root}/last",
            remedy=BEGINS,
        )
    return record


@contextmanager
def of_a_word() -> Iterator[None]:
    """Who asked by a word for one checkpoint, which is damaged, hears of the word that goes on none the less."""
    try:
        yield
    except Corrupt as error:
        error.advise(
            "Name another, or use 'auto' (with a Checkpointer: resume()), which goes back to the newest that verifies "
            "and says how many steps are lost."
        )
        raise


def auto(
    folders: Sequence[Folder], read: Callable[[Folder, Record], T], *, holds: Callable[[Record], bool] = whole
) -> Found[T]:
    """The newest checkpoint that ``read`` accepts, walking back over those that it calls ``Corrupt``.

    Where there is none, that is a fresh start.

    Raises:
        Unreadable: One that comes before any that is whole cannot be read, and may be whole.
    """
    listed = [(folder, folder.scan()) for folder in folders]
    passed: list[Passed] = []
    for folder, record in newest_first(listed, holds):
        refuse_unreadable(listed, record, holds)
        try:
            return Found(record, read(folder, record), (*_newer_wrecks(listed, record), *passed))
        except (Corrupt, StoreError) as error:
            if unread := unread_by(error):
                raise unreadable(listed, [(folder, record.names[0], unread)]) from error
            if not isinstance(error, Corrupt):
                raise  # it is gone: whoever asked looks again
            # A part that is missing may come back; what was read and is wrong stays wrong.
            damaged = None if isinstance(error.__cause__, StoreError) else record
            why = error.happened.removeprefix("is corrupt: ").rstrip(".")
            passed.append(Passed(folder, record.names[0], why, record.progress.steps, damaged))
    refuse_unreadable(listed, None, holds)
    return Found(None, None, (*_newer_wrecks(listed, None), *passed))


def unread_by(error: HoldfastError) -> str:
    """What kept the bytes of a checkpoint from being read, if that is what an error tells of; else nothing."""
    cause = error if isinstance(error, StoreError) else error.__cause__
    if not isinstance(cause, StoreError) or cause.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return ""
    return cause.what.rstrip(".")


def refuse_unreadable(
    listed: Sequence[tuple[Folder, Listing]], newest: Record | None, holds: Callable[[Record], bool] = whole
) -> None:
    """Where a file cannot be read that may be newer than ``newest``, the newest of which anything is known.

    Raises:
        Unreadable: It names them; none is passed over, for nobody knows that it is not whole.
    """
    wrecks = [(f, s) for f, s in _wrecks(listed, newest) if s.verdict is Verdict.UNREADABLE]
    unread = [(f, s.name, s.why) for f, s in wrecks if s.was is None or holds(s.was)]
    if unread:
        raise unreadable(listed, unread)


def unreadable(listed: Iterable[tuple[Folder, Listing]], unread: list[tuple[Folder, str, str]]) -> Unreadable:
    """The error for files that cannot be read: it names all that cannot, and the newest other one."""
    whys, others = [why for _, _, why in unread], []
    known = {(folder.store.root, name) for folder, name, _ in unread}
    for folder, record in newest_first(listed):
        if (folder.store.root, record.names[0]) in known:
            continue
        try:
            directories.manifest_of(folder.store, record.names[0])
        except Damage:
            continue
        except StoreError as error:
            whys += [why] if (why := unread_by(error)) else []
        else:
            others.append(record)
    more = f"; and {len(whys) - _NAMED} more" if len(whys) > _NAMED else ""
    folder, name, _ = unread[0]
    return Unreadable(
        f"cannot be read: {'; '.join(whys[:_NAMED])}{more}.",
        checkpoint=f"{folder.store.root}/{name}",
        good="It may be whole, so nothing older was taken for it, and no run began. Nothing was changed. "
        + (newest_good(others) if others else "No other checkpoint can be read."),
        remedy="Mend what is in the way, such as permissions, and start again. Or name the checkpoint that is meant by "
        'its path, or begin anew: with ckpt_path=None, or with a Checkpointer by resume("fresh").',
    )


def tell(found: Found[T]) -> None:
    """Say what was passed over and what it costs; note what was found damaged, so that it ranks no more."""
    for passed in found.passed:
        logger.warning("passed over '%s': %s", passed.name, passed.why)
        if passed.damaged is not None:
            store, names = passed.folder.store, passed.damaged.names
            entries = [e for name in names if (e := directories.entry_of(store, name)) is not None]
            passed.folder.condemn(passed.damaged.id, entries, passed.why)
    if found.passed:
        here = f"'{found.record.names[0]}'" if found.record else "the beginning"
        logger.warning("going on from %s: %s", here, _cost(found))


def _cost(found: Found[T]) -> str:
    """What passing over newer ones costs, in a sentence."""
    if not found.steps_lost and not found.exact:
        return (
            "it is not known whether steps are lost. Delete what was passed over once nobody needs it: until then this "
            "is said each time"
        )
    steps = "1 step is lost" if found.steps_lost == 1 else f"{found.steps_lost:,} steps are lost"
    return steps if found.exact else f"at least {steps}"


def _newer_wrecks(listed: Iterable[tuple[Folder, Listing]], found: Record | None) -> list[Passed]:
    """Files that are no checkpoints any more, without those known to be older than what was found."""
    wrecks = [(f, s) for f, s in _wrecks(listed, found) if s.verdict is Verdict.CORRUPT]
    return [Passed(f, s.name, s.why, s.was.progress.steps if s.was else None) for f, s in wrecks]


def _wrecks(listed: Iterable[tuple[Folder, Listing]], newest: Record | None) -> list[tuple[Folder, Stranger]]:
    """Files that were checkpoints, or may have been, without those known to be older than ``newest``."""
    wrecks = [(f, s) for f, listing in listed for s in listing.strangers if s.verdict is not Verdict.FOREIGN]
    return [(f, s) for f, s in wrecks if s.was is None or newest is None or s.was.order > newest.order]


def named(store: Store, name: str, listing: Listing | None = None, *, absent: str = "") -> Record:
    """The checkpoint of that name.

    Args:
        store: Where.
        name: Its name.
        listing: What else is there; None where nobody is to look, for a folder may be anybody's.
        absent: What to do now where there is none.

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
    if directories.entry_of(store, name) is None:
        raise NotFound(f"does not exist.{held(listing)}", checkpoint=path, remedy=absent)
    remedy = "Nothing was loaded."
    wrecks = [s for s in listing.strangers if s.name == name and s.verdict is Verdict.CORRUPT] if listing else []
    if wrecks:  # the ledger may know of one that has no sign of ours left
        raise Corrupt(f"is corrupt: {wrecks[0].why}.", checkpoint=path, good=good, remedy=remedy)
    try:
        found = directories.manifest_of(store, name)
    except Damage as damage:
        raise Corrupt(f"is corrupt: {damage}.", checkpoint=path, good=good, remedy=remedy) from damage
    if found is None:
        raise Foreign("was not written by Holdfast.", checkpoint=path, good=good, remedy=remedy)
    manifest, size = found
    return records.project(manifest, bytes=size, names=(name,))


def held(listing: Listing | None) -> str:
    """A sentence of what there is, to be put after one of what there is not; empty where nobody is to look."""
    if listing is None:
        return ""
    return f" The folder holds {', '.join(r.names[0] for r in listing.records) or 'no checkpoint'}."


def check(folder: Folder, record: Record) -> Finding:
    """Verify the file or folder of one record in full."""
    try:
        return directories.verify(folder.store, record.names[0], ours=True)[0]
    except StoreError as error:
        return Finding(Verdict.CORRUPT, str(error))


def newest_good(known: Iterable[Record], *, but: str = "") -> str:
    """A sentence naming the newest other checkpoint, for an error's third part."""
    for record in resumable(known):
        if record.id != but:
            return f"'{record.names[0]}' (step {record.progress.steps:,}) is the newest other one."
    return "There is no other checkpoint in this folder."
