"""Make a written checkpoint visible under its names: the commit point. Decides nothing but how to lose nothing."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from holdfast.catalog import directories, records
from holdfast.catalog.directories import Draft
from holdfast.catalog.folder import Folder, Listing, file_fact, identity
from holdfast.catalog.manifest import Manifest, number
from holdfast.catalog.verify import Verdict
from holdfast.errors import StoreError
from holdfast.log import logger
from holdfast.policy.plan import Amend, Save
from holdfast.policy.values import Record
from holdfast.policy.where import Where
from holdfast.store import Entry, Sink


@dataclass(frozen=True)
class Published:
    """A checkpoint that is there, durably, under its first name at least.

    Args:
        record: With the names that it really got.
        troubles: What failed after the commit point; evictions wait for a publish without any.
    """

    record: Record
    troubles: tuple[StoreError, ...] = ()


def publish(
    folder: Folder, sink: Sink | Draft, save: Save, manifest: Manifest, *, bytes: int, going: Collection[str]
) -> Published:
    """Publish a complete file or folder; call it inside ``folder.exclusive()``.

    The file is durable under its first name before any other name moves to it, and before the ledger is told.

    Args:
        folder: Where.
        sink: The written file, or folder, which gets a name of its own where the first is one that moves on.
        save: Its names.
        manifest: What it holds.
        bytes: Its length.
        going: Ids of checkpoints whose last name may go to this one: those that the plan evicts.

    Raises:
        StoreError: Every name is what it was; or, where only the last step failed, which makes a name durable, the
            first name is there.
    """
    listing = folder.scan()
    first, *others = _own_first(folder, sink, save, manifest, listing, going)
    moved = [first] if first in save.moves else []  # the listing still has them where they were
    entries = [_first(folder, sink, listing, first, move=first in save.moves, going=going)]
    troubles = []
    try:
        for name in others:
            if name in save.moves:
                _keep_what_is_there(folder, listing, name, going, moved=moved)
            entries.append(_link(folder, entries[0].name, name, move=name in save.moves))
            moved += [name] if name in save.moves else []
    except StoreError as error:
        troubles.append(error)
    record = records.project(manifest, bytes=bytes, names=tuple(e.name for e in entries))
    # The manifest may tell of other folders' policies too, which have the same file.
    record = replace(record, policies=save.policies, reason=save.reason, label=save.label)
    try:
        folder.ledger.write("committed", record=records.to_json(record), files=[file_fact(e) for e in entries])
    except StoreError as error:
        troubles.append(error)
    return Published(record, tuple(troubles))


def amend(folder: Folder, amends: Collection[Amend], *, going: Collection[str]) -> None:
    """Add names, claims, scores and labels to checkpoints that exist; call it inside ``folder.exclusive()``.

    ``going`` as in ``publish``.
    """
    listing = folder.scan()
    for change in amends:
        record = listing.by_id(change.id)
        if record is None:
            continue  # it went meanwhile by another hand: there is nothing to add to
        for name in change.names:
            if name in change.moves:
                _keep_what_is_there(folder, folder.scan(), name, going)
            entry = _link(folder, record.names[0], name, move=name in change.moves)
            folder.ledger.write("linked", id=record.id, file=file_fact(entry))
        if change.policies:
            folder.ledger.write("wanted", id=record.id, policies=list(change.policies))
        if change.scores:
            folder.ledger.write("scored", id=record.id, scores={k: number(v) for k, v in change.scores.items()})
        if change.label is not None:
            folder.ledger.write("labelled", id=record.id, label=change.label)


def evict(folder: Folder, reasons: Mapping[str, str], run: str) -> tuple[str, ...]:
    """Remove checkpoints, each looked at once more; call it inside ``folder.exclusive()``, after ``publish``.

    Only what this run wrote, and what is not pinned by now, goes.

    Returns:
        The names that went.
    """
    listing = folder.scan()
    gone: list[str] = []
    for id, reason in reasons.items():
        record = listing.by_id(id)
        if record is not None and (record.run != run or record.pinned):
            continue
        names = record.names if record is not None else ()
        for name in reversed(names):  # a folder's own name is the first: nothing is to point at one that is gone
            directories.remove(folder.store, name)
        folder.ledger.write("evicted", id=id, names=list(names), reason=reason)
        gone.extend(names)
    return tuple(gone)


def drop(folder: Folder, reasons: Mapping[str, str], run: str) -> None:
    """Remove second names of checkpoints of this run that stay; call it inside ``folder.exclusive()``."""
    for name, reason in reasons.items():
        record = folder.scan().by_name(name)
        if directories.is_own_name(folder.store, name):
            continue  # its other names lead to this one
        if record is not None and record.run == run and not record.pinned and len(record.names) > 1:
            folder.store.remove(name)
            folder.ledger.write("evicted", id=record.id, names=[name], reason=reason)


def _own_first(
    folder: Folder, sink: Sink | Draft, save: Save, manifest: Manifest, listing: Listing, going: Collection[str]
) -> tuple[str, ...]:
    """The names of a save; a folder begins with one that stays its own, and not with one that moves on by a link."""
    first = save.names[0]
    if not isinstance(sink, Draft) or first not in save.moves or _replaced(folder, listing, first, going):
        return save.names
    return (Where().versioned(Where().name(manifest.progress, manifest.scores()), listing.names), *save.names)


def _replaced(folder: Folder, listing: Listing, name: str, going: Collection[str]) -> bool:
    """Whether a folder has that very name, and goes."""
    record = listing.by_name(name)
    gone = record is not None and record.id in going and not record.pinned
    return gone and directories.is_own_name(folder.store, name)


def _first(
    folder: Folder, sink: Sink | Draft, listing: Listing, name: str, *, move: bool, going: Collection[str]
) -> Entry:
    """The commit point. Where another writer was faster to a name that is not ours to take, the next free one."""
    if move and isinstance(sink, Draft):
        try:
            return sink.publish(name, replace=True)
        except StoreError as error:
            if error.errno != errno.ENOSYS:
                raise
        move = False  # the next free name
    if move:
        _keep_what_is_there(folder, listing, name, going)
    taken = set(listing.names)
    while True:
        try:
            return sink.publish(name, replace=move)
        except StoreError as error:
            if move or error.errno != errno.EEXIST:
                raise
            taken.add(name)
            name = Where().versioned(name, taken)


def _link(folder: Folder, source: str, name: str, *, move: bool) -> Entry:
    taken: set[str] = set()
    while True:
        try:
            return directories.link(folder.store, source, name, replace=move)
        except StoreError as error:
            if move or error.errno != errno.EEXIST:
                raise
            taken.add(name)
            name = Where().versioned(name, taken)


def _keep_what_is_there(
    folder: Folder, listing: Listing, name: str, going: Collection[str], *, moved: Collection[str] = ()
) -> None:
    """Before ``name`` moves: what stands there, has no other name, and was not let go, gets a name of its own.

    ``moved`` are names that went elsewhere since ``listing`` was made.
    """
    if name not in listing.names:
        return
    record = listing.by_name(name)
    stands = directories.is_own_name(folder.store, name)
    if not stands and folder.store.stat(name) is None:
        return  # it leads to a folder, which has a name of its own
    if record is None:
        _keep_stranger(folder, listing, name, stands=stands)
        return
    others = set(record.names) - {name, *moved}
    if not stands and (others or (record.id in going and not record.pinned)):
        return
    free = Where().versioned(Where().name(record.progress, record.scores), listing.names)
    kept = _set_aside(folder, name, min(others, default=free)) if stands else _link(folder, name, free, move=False)
    folder.ledger.write("linked", id=record.id, file=file_fact(kept))


def _keep_stranger(folder: Folder, listing: Listing, name: str, *, stands: bool) -> None:
    """The same for what is no checkpoint, or none any more; it is said, for its name is another now."""
    if not stands and _has_another_name(folder, listing, name):
        return
    free = Where().versioned(name, listing.names)
    kept = _set_aside(folder, name, free) if stands else _link(folder, name, free, move=False)
    stranger = next((s for s in listing.strangers if s.name == name), None)
    why = "no checkpoint of Holdfast's is there" if stranger is None else stranger.why
    logger.warning("'%s' is now '%s', and gives its name to another: %s", name, kept.name, why)
    if stranger is not None and stranger.was is not None and stranger.verdict is Verdict.CORRUPT:
        folder.condemn(stranger.was.id, [kept], why)  # by its new name nobody would know what it was


def _has_another_name(folder: Folder, listing: Listing, name: str) -> bool:
    """Whether a file that is no checkpoint is there under a second name that is listed, as of now."""
    others = [s.name for s in listing.strangers if s.name != name] if folder.store.traits.links else []
    here, *there = [directories.entry_of(folder.store, one) for one in (name, *others)]
    return here is not None and any(one is not None and identity(one) == identity(here) for one in there)


def _set_aside(folder: Folder, name: str, kept: str) -> Entry:
    """Give a folder the name ``kept`` instead of its own, for no name can take a folder's place."""
    directories.remove(folder.store, kept)  # where there is one, it is a second name, and leads to this folder
    return directories.rename(folder.store, name, kept)
