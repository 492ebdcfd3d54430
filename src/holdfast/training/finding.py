"""Find what ``ckpt_path`` means, and the folder that a run goes on in. Reads folders; restores nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from holdfast import sources
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Verdict
from holdfast.engine.commit import words
from holdfast.engine.group import Group, Solo
from holdfast.errors import ConfigError, Corrupt, NotFound, RankError, StoreError
from holdfast.log import logger
from holdfast.policy.values import Record
from holdfast.policy.which import last
from holdfast.sources import looking_again
from holdfast.state.fingerprint import KEY
from holdfast.store import LocalStore
from holdfast.store.urls import is_url

T = TypeVar("T")

_NOTES = ".holdfast"
_LAST = re.compile(r"last(-v\d+)?\.ckpt\Z")
_STALE = 30.0  # seconds in which every host is to see what another one has written
_FRESH = "ckpt_path='auto': there is nothing to go on from, so this is a fresh start"
_DEPTH = 5  # <root>/<name>/version_N/checkpoints is three


def home(
    callbacks: Sequence[ModelCheckpoint],
    roots: Iterable[str | Path],
    loggers: Sequence[Any],
    *,
    group: Group | None = None,
) -> Path | None:
    """The folder of checkpoints that ``"auto"`` goes on in: that of the newest unfinished run, where nobody placed it.

    Loggers that keep the runs of that experiment take its version. To be called before anybody asks a logger for its
    folder.

    Args:
        callbacks: Those that save; where each has a ``dirpath``, the run is placed.
        roots: Where runs are looked for, and in all folders below.
        loggers: All of them.
        group: The other ranks: rank 0 says to them where it is.

    Returns:
        The folder; None for a run that begins anew or was placed.
    """
    if callbacks and all(callback.dirpath for callback in callbacks):
        return None

    def look() -> str | None:
        folders = list(_folders(roots))
        folder = resolve.unfinished(folders)
        if folder is not None:
            return folder.store.root
        _say_new(folders)
        return None

    root = agreed(group or Solo(), look, phase="ckpt_path='auto'")
    return None if root is None else go_on_in(Path(root), loggers)


def go_on_in(found: Path, loggers: Sequence[Any]) -> Path | None:
    """Have loggers that keep the runs of that experiment go on in the run that a folder is of.

    Returns:
        The folder; another or None where somebody gave the first logger another run.
    """
    for one in loggers:
        experiment = _experiment(one)
        if experiment.name == found.parent.parent.name:
            one.go_on_in(found.parent.name)
            chosen = _version(one, experiment)
            if chosen.resolve() != found.parent.resolve() and one is loggers[0]:
                own = _unfinished_in(chosen / "checkpoints")  # somebody gave it another version
                if own is None:
                    logger.info(_FRESH)
                return own
    logger.info("going on in '%s'", found)
    return found


@dataclass(frozen=True)
class Own:
    """The run that a job of a scheduler has written.

    Args:
        root: The folder of its newest checkpoint.
        run: Its id.
    """

    root: str
    run: str

    def holds(self, record: Record) -> bool:
        """Whether a run can go on from a checkpoint, and it is of this run."""
        return record.run == self.run and resolve.whole(record)


def of_job(job: str, callbacks: Sequence[ModelCheckpoint], roots: Iterable[str | Path], *, group: Group) -> Own | None:
    """The newest run that a job has written, in the folders of the callbacks, or at or below the roots.

    Args:
        job: What its checkpoints call it.
        callbacks: Those that save.
        roots: Looked through where a callback has no ``dirpath``.
        group: The other ranks: rank 0 looks.

    Returns:
        The run; None where the job has written none, or, below roots, several: nobody can tell which of them is meant.
    """
    placed = bool(callbacks) and all(callback.dirpath for callback in callbacks)
    folders = [Folder(LocalStore(str(c.dirpath))) for c in callbacks] if placed else list(_folders(roots))

    def look() -> list[str] | None:
        found = _runs_of(job, folders)
        if len(found) > 1 and not placed:
            logger.warning(
                "this job has begun %s runs, and which of them this fit is cannot be told: give each ModelCheckpoint a "
                "dirpath. Found in: %s",
                len(found),
                ", ".join(found.values()),
            )
            return None
        return next(([root, run] for run, root in found.items()), None)

    told = agreed(group, look, phase="checkpoints of this job")
    return None if told is None else Own(*told)


def _runs_of(job: str, folders: Sequence[Folder]) -> dict[str, str]:
    """The runs that a job has written, newest first, each with the folder of its newest checkpoint."""
    looked: set[str] = set()
    found: dict[str, str] = {}
    for folder, record in resolve.newest_first([(folder, folder.scan()) for folder in folders]):
        if record.run in looked:
            continue
        try:
            held = sources.read(folder, record.names[0], last(1), parts=[KEY], optional=[KEY]).parts
        except (Corrupt, NotFound):
            continue  # one before it may be whole
        looked.add(record.run)
        if held.get(KEY, {}).get("job") == job:
            found[record.run] = folder.store.root
    return found


def near(
    word: object, callbacks: Sequence[ModelCheckpoint], roots: Sequence[str | Path], home: Path | None = None
) -> list[Path]:
    """The folders in which the words are looked up, before callbacks that nobody placed are given one.

    Args:
        word: What was given as ``ckpt_path``.
        callbacks: Those that save.
        roots: Looked through with all folders below, where a callback has no ``dirpath``.
        home: What ``home`` found.
    """
    placed = [Path(callback.dirpath) for callback in callbacks if callback.dirpath]
    if word == "auto":
        return list(dict.fromkeys([*placed, *([] if home is None else [home])]))
    if placed and len(placed) == len(callbacks):
        return list(dict.fromkeys(placed))
    below = [Path(folder.store.root) for folder in _folders(roots)] or [Path(root, "checkpoints") for root in roots]
    return list(dict.fromkeys([*placed, *below]))


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
        RankError: Rank 0 has failed to find one.
    """
    group = group or Solo()
    kept: list[T] = []

    def keep(path: str) -> str:
        kept.append(read(path))
        return path

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
    return _same(group, lambda: looking_again(meanings[str(source)]), kept, read, identity)


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
    return _path(folder, resolve.best_of(listing, callback.ranking(), folder.store.root))


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
    raise NotFound(f"does not exist: there is no checkpoint {_places(folders)}.", checkpoint="last")


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


def _say_new(folders: Sequence[Folder]) -> None:
    """Why a run that nobody placed begins anew: most often the one before it has ended."""
    listed = [(folder, folder.scan()) for folder in folders]
    ended = {folder.store.root: listing.ended for folder, listing in listed}
    for folder, record in resolve.newest_first(listed)[:1]:
        if record.run in ended[folder.store.root]:
            logger.info("ckpt_path='auto': the run in '%s' ended well: this is a new run", folder.store.root)
            return
    logger.info(_FRESH)


def _say_fresh(folders: Sequence[Folder]) -> None:
    """A fresh start beside checkpoints is worth a word: they may be of weights only."""
    if not folders:
        return  # said where they were looked for
    listed = [folder.scan() for folder in folders]
    others = [name for one in listed for name in (*(r.names[0] for r in one.records), *(s.name for s in one.strangers))]
    if others:
        logger.warning("ckpt_path='auto': a fresh start, for none can be gone on from: %s", ", ".join(others[:5]))
    else:
        logger.info(_FRESH)


def _experiment(logger: Any) -> Path:
    """The folder of all runs of a logger's experiment; its name at least."""
    own = getattr(logger, "root_dir", None)
    return Path(own) if own is not None else Path(getattr(logger, "save_dir", None) or "", str(logger.name))


def _version(logger: Any, experiment: Path) -> Path:
    """The folder of a logger's run in it."""
    version = logger.version
    return experiment / (version if isinstance(version, str) else f"version_{version}")


def _unfinished_in(path: Path) -> Path | None:
    return None if resolve.unfinished([Folder(LocalStore(path))]) is None else path


def _path(folder: Folder, record: Record) -> str:
    return f"{folder.store.root}/{record.names[0]}"


def _folders(roots: Iterable[str | Path]) -> Iterator[Folder]:
    """Every folder of checkpoints at or below the roots; hidden ones and what lies very deep are left out."""
    seen = set()
    for root in dict.fromkeys(map(str, roots)):
        for path, below, _ in os.walk(root):
            if _NOTES in below and path not in seen:
                seen.add(path)
                yield Folder(LocalStore(path))
            deep = len(Path(path).relative_to(root).parts) >= _DEPTH
            below[:] = [] if deep else [name for name in below if not name.startswith(".")]
