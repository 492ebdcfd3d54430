"""Find the checkpoint that ``ckpt_path`` means. Reads; restores nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar, cast

from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.catalog import ranking, resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Verdict
from holdfast.engine.commit import words
from holdfast.engine.group import Group, Solo
from holdfast.errors import ConfigError, Corrupt, NotFound, RankError, StoreError
from holdfast.log import logger
from holdfast.policy.values import Record
from holdfast.sources import looking_again
from holdfast.store import LocalStore
from holdfast.store.urls import is_url

T = TypeVar("T")

_LAST = re.compile(r"last(-v\d+)?\.ckpt\Z")
_STALE = 30.0  # seconds in which every host is to see what another one has written
FRESH = "ckpt_path='auto': there is nothing to go on from, so this is a fresh start"


def find(
    source: str | os.PathLike[str],
    *,
    near: Sequence[Path],
    callback: ModelCheckpoint | None,
    read: Callable[[str | os.PathLike[str]], T],
    holds: Callable[[Record], bool] = resolve.whole,
    begins: bool = True,
    group: Group | None = None,
    identity: Callable[[T], str] = lambda opened: "",
) -> T | None:
    """Read the checkpoint that is meant.

    Args:
        source: ``"last"``, ``"best"``, ``"auto"`` (the newest that verifies), a path or a URL.
        near: Where the words are looked up.
        callback: Says what is best.
        read: Reads a path, or raises ``Corrupt``.
        holds: Whether a checkpoint holds what is needed.
        begins: Whether a run begins anew where ``"auto"`` finds nothing, which is said.
        group: The other ranks: rank 0 says to them what a word means, and which checkpoint a path is of.
        identity: The id of what was read. On a network file system another host may for a while see what stood under
            that name before, or nothing: it looks again, for half a minute.

    Returns:
        What ``read`` gave; None where ``"auto"`` found nothing, for a fresh start.

    Raises:
        NotFound: There is none; or rank 0 reads one that this rank cannot see.
        Corrupt: It is damaged, and ``"auto"`` was not asked for.
        Unreadable: One that may be the newest cannot be read.
        RankError: Rank 0 has failed to find one.
    """
    group = group or Solo()
    kept: list[T] = []

    def keep(path: str) -> str:
        kept.append(read(path))
        return path

    if source == "hpc":
        raise ConfigError(
            "ckpt_path='hpc' is not needed here: a job that Slurm starts again goes on from what it has saved.",
            remedy="Use ckpt_path='auto': the newest checkpoint that verifies, or a fresh start.",
        )
    if source not in ("auto", "last", "best"):
        if group.size == 1:
            return read(source)
        # From here on it is rank 0's path: what is relative may be another file on another rank.
        text = os.fspath(source)
        known = text if is_url(text) else str(Path(text).expanduser().absolute())
        return _same(group, lambda: keep(known), kept, read, identity)

    folders = [Folder(LocalStore(path)) for path in near]
    meanings: dict[str, Callable[[], str | None]] = {
        "auto": lambda: _auto(folders, keep, holds, begins),
        "last": lambda: keep(_last(folders, holds)),
        "best": lambda: keep(best(callback, folders)),
    }

    def look() -> str | None:
        with nullcontext() if source == "auto" else resolve.of_a_word():
            return looking_again(meanings[str(source)])

    return _same(group, look, kept, read, identity)


def _same(
    group: Group,
    look: Callable[[], str | None],
    kept: list[T],
    read: Callable[[str | os.PathLike[str]], T],
    identity: Callable[[T], str],
) -> T | None:
    """What rank 0 has found and read, read on every rank: the very same, by its id."""

    def found() -> list[str] | None:
        path = look()
        return None if path is None else [path, identity(kept[-1])]

    told = agreed(group, found, phase="ckpt_path")
    if told is None:
        return None
    if kept:
        return kept[-1]
    path, wanted = told
    end, pause, why = time.monotonic() + _STALE, 0.05, ""
    while True:
        try:
            opened = read(path)
            if identity(opened) == wanted:
                return opened
            why = "it sees another one of that name"
        except (NotFound, Corrupt, StoreError) as error:
            why = error.what
        if time.monotonic() >= end:
            raise NotFound(
                f"that rank 0 reads is not to be read here within {_STALE:g} s: {why}.",
                checkpoint=path,
                rank=group.rank,
                good="It is whole for rank 0.",
                remedy="All ranks read the same file: keep checkpoints where every host sees them.",
            )
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def agreed(group: Group, look: Callable[[], T], *, phase: str) -> T:
    """What rank 0 sees, on every rank.

    Raises:
        RankError: It has failed; there, its own error is raised.
    """
    if group.size == 1:
        return look()
    if group.rank != 0:
        told = group.broadcast(None, phase=phase)
        if told["error"] is not None:
            raise RankError(told["error"], rank=0, phase=phase)
        return cast("T", told["value"])
    try:
        value = look()
    except Exception as error:
        group.broadcast({"error": words(error), "value": None}, phase=phase)
        raise
    group.broadcast({"error": None, "value": value}, phase=phase)
    return value


def best(callback: ModelCheckpoint | None, folders: Sequence[Folder]) -> str:
    """The path of the best checkpoint: of this fit, or of the newest run in the folders.

    Without ``monitor`` it is the newest of those that the callback keeps.

    Raises:
        ConfigError: There is no callback to say what is best.
        NotFound: Nothing was saved, or nothing that has the score.
    """
    if callback is None:
        raise ConfigError(
            "ckpt_path='best': no ModelCheckpoint of this Trainer has saved anything, and none says what is best.",
            remedy="Give the path of a checkpoint.",
        )
    if path := callback.best_model_path:
        return path
    listed = [(folder, folder.scan()) for folder in folders]
    newest = resolve.newest_first(listed, resolve.with_model)
    if not newest:
        raise NotFound(f"does not exist: there is no checkpoint {_places(folders)}.", checkpoint="best")
    folder, record = newest[0]
    if callback.monitor is None:
        logger.info("ckpt_path='best': the ModelCheckpoint has no monitor, so that the newest is meant")
        return _path(folder, record)
    listing = next(listing for one, listing in listed if one is folder)
    return _path(folder, ranking.best_of(listing, callback.ranking(), folder.store.root))


def _auto(
    folders: Sequence[Folder], keep: Callable[[str], str], holds: Callable[[Record], bool], begins: bool
) -> str | None:
    found = resolve.auto(folders, lambda folder, record: keep(_path(folder, record)), holds=holds)
    resolve.tell(found)
    if found.record is not None:
        return found.value
    if (foreign := _foreign(folders)) is not None:
        return keep(foreign)
    if begins:
        _say_fresh(folders)
    return None


def _last(folders: Sequence[Folder], holds: Callable[[Record], bool]) -> str:
    listed = [(folder, folder.scan()) for folder in folders]
    newest = resolve.newest_first(listed, holds)
    for folder, listing in listed:
        resolve.refuse_wrecks(folder, listing, newest[0][1] if newest else None)
    if newest:
        return _path(*newest[0])
    if (foreign := _foreign(folders)) is not None:
        return foreign
    where = _places(folders)
    raise NotFound(f"does not exist: there is no checkpoint {where}.", checkpoint="last", remedy=resolve.BEGINS)


def _foreign(folders: Sequence[Folder]) -> str | None:
    """Another program's ``last.ckpt``, where the folders hold nothing of ours and it is the only one."""
    strangers = [(folder, one) for folder in folders for one in folder.scan().strangers]
    lasts = [f"{f.store.root}/{s.name}" for f, s in strangers if s.verdict is Verdict.FOREIGN and _LAST.match(s.name)]
    if len(lasts) == 1:
        logger.warning("'%s' is another program's: nothing of it can be verified", lasts[0])
        return lasts[0]
    if lasts:
        raise NotFound(
            f"does not exist: Holdfast wrote none, and another program {len(lasts)}: {', '.join(lasts)}.",
            checkpoint="last",
            remedy="Give the path of the one that is meant.",
        )
    return None


def _places(folders: Sequence[Folder]) -> str:
    return "in or below " + " or ".join(f"'{folder.store.root}'" for folder in folders)


def _say_fresh(folders: Sequence[Folder]) -> None:
    """A fresh start beside checkpoints is worth a word: they may be of weights only."""
    if not folders:
        return  # said where they were looked for
    listed = [folder.scan() for folder in folders]
    others = [name for one in listed for name in (*(r.names[0] for r in one.records), *(s.name for s in one.strangers))]
    if others:
        logger.warning("ckpt_path='auto': a fresh start, for none can be gone on from: %s", ", ".join(others[:5]))
    else:
        logger.info(FRESH)


def _path(folder: Folder, record: Record) -> str:
    return f"{folder.store.root}/{record.names[0]}"
