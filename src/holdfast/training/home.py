"""Find the run that a fit goes on with, and its folder. Reads folders; restores nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from holdfast import sources
from holdfast.callbacks.model_checkpoint import ModelCheckpoint
from holdfast.catalog import directories, resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Damage
from holdfast.engine.group import Group, Solo
from holdfast.errors import Corrupt, NotFound, StoreError
from holdfast.log import logger
from holdfast.policy.values import Record
from holdfast.policy.which import last
from holdfast.state.fingerprint import KEY
from holdfast.store import LocalStore
from holdfast.strategies.single import bare_name
from holdfast.training.finding import FRESH, agreed

_NOTES = ".holdfast"
_MODEL = "model."
_DEPTH = 5  # <root>/<name>/version_N/checkpoints is three


def home(
    callbacks: Sequence[ModelCheckpoint],
    roots: Iterable[str | Path],
    loggers: Sequence[Any],
    *,
    module: nn.Module,
    group: Group | None = None,
) -> Path | None:
    """The folder of checkpoints that ``"auto"`` goes on in: that of the newest unfinished run, where nobody placed it.

    Runs of other models lie below a root that several programs share: they are passed over, which is said.

    Loggers that keep the runs of that experiment take its version. To be called before anybody asks a logger for its
    folder.

    Args:
        callbacks: Those that save; where each has a ``dirpath``, the run is placed.
        roots: Where runs are looked for, and in all folders below.
        loggers: All of them.
        module: What is to be trained.
        group: The other ranks: rank 0 says to them where it is.

    Returns:
        The folder; None for a run that begins anew or was placed.
    """
    if callbacks and all(callback.dirpath for callback in callbacks):
        return None

    def look() -> str | None:
        folders = list(_folders(roots))
        own = {bare_name(name): tuple(p.shape) for name, p in module.named_parameters() if not is_lazy(p)}  # type: ignore[redundant-expr]
        for folder, record in resolve.unfinished(folders):
            if _may_be_of(own, folder, record):
                return folder.store.root
            logger.warning(
                "ckpt_path='auto': passed over the unfinished run in '%s', which is another model's: no weight of it "
                "has a name and a shape of this one's",
                folder.store.root,
            )
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
                    logger.info(FRESH)
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

    Raises:
        Unreadable: Whether a checkpoint is of that job cannot be told, for it cannot be read.
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
    listed = [(folder, folder.scan()) for folder in folders]
    for folder, record in resolve.newest_first(listed):
        if record.run in looked:
            continue
        try:
            held = sources.read(folder, record.names[0], last(1), parts=[KEY], optional=[KEY]).parts
        except (Corrupt, NotFound, StoreError) as error:
            if unread := resolve.unread_by(error):  # it may be the job's own, which does not begin anew beside it
                raise resolve.unreadable(listed, [(folder, record.names[0], unread)]) from error
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


def _say_new(folders: Sequence[Folder]) -> None:
    """Why a run that nobody placed begins anew: most often the one before it has ended."""
    listed = [(folder, folder.scan()) for folder in folders]
    ended = {folder.store.root: listing.ended for folder, listing in listed}
    for folder, record in resolve.newest_first(listed)[:1]:
        if record.run in ended[folder.store.root]:
            logger.info("ckpt_path='auto': the run in '%s' ended well: this is a new run", folder.store.root)
            return
    logger.info(FRESH)


def _experiment(logger: Any) -> Path:
    """The folder of all runs of a logger's experiment; its name at least."""
    own = getattr(logger, "root_dir", None)
    return Path(own) if own is not None else Path(getattr(logger, "save_dir", None) or "", str(logger.name))


def _version(logger: Any, experiment: Path) -> Path:
    """The folder of a logger's run in it."""
    version = logger.version
    return experiment / (version if isinstance(version, str) else f"version_{version}")


def _unfinished_in(path: Path) -> Path | None:
    return next((path for _ in resolve.unfinished([Folder(LocalStore(path))])), None)


def _may_be_of(own: Mapping[str, tuple[int, ...]], folder: Folder, record: Record) -> bool:
    """Whether a checkpoint has a weight of a model's; also where nobody can tell yet, before ``configure_model``."""
    try:
        found = directories.manifest_of(folder.store, record.names[0])
    except (Damage, StoreError):
        return True  # whoever reads it says what is wrong, and goes back to one that is whole
    held = () if found is None else found[0].tensors
    weights = [(t.path.removeprefix(_MODEL), t.shape) for t in held if t.path.startswith(_MODEL)]
    return not own or not weights or any(own.get(bare_name(name)) == shape for name, shape in weights)


def _say_unseen(error: OSError) -> None:
    """A folder that nobody may look into may hold the run that is looked for; or be none of this program's."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        logger.warning("runs in '%s' are not looked for: %s", error.filename, error.strerror)


def _folders(roots: Iterable[str | Path]) -> Iterator[Folder]:
    """Every folder of checkpoints at or below the roots; hidden ones and what lies very deep are left out."""
    seen = set()
    for root in dict.fromkeys(map(str, roots)):
        for path, below, _ in os.walk(root, onerror=_say_unseen):
            if _NOTES in below and path not in seen:
                seen.add(path)
                yield Folder(LocalStore(path))
            deep = len(Path(path).relative_to(root).parts) >= _DEPTH
            below[:] = [] if deep else [name for name in below if not name.startswith(".")]
