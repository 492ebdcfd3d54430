"""Go on from a checkpoint; and save or load one by its path, outside any rules."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.manifest import Manifest, RunRef
from holdfast.engine.job import Captured, prepare
from holdfast.engine.reader import CheckpointFile
from holdfast.errors import HoldfastError, Incompatible, NotFound, SaveFailed
from holdfast.log import logger
from holdfast.policy.values import Event, Moment, Progress, Record, Score, Tally
from holdfast.policy.what import What
from holdfast.state import random
from holdfast.store import LocalStore, Sink
from holdfast.training.checkpoint import OWN


@dataclass(frozen=True)
class Opened:
    """A checkpoint read whole and verified.

    Args:
        record: Which.
        root: The folder that it lies in.
        path: Its path, for people.
        manifest: What it holds.
        state: The dictionary.
    """

    record: Record
    root: str
    path: str
    manifest: Manifest
    state: dict[str, Any]


@dataclass(frozen=True)
class Resumed:
    """What a fit goes on from.

    Args:
        record: The checkpoint.
        root: Its folder.
        tallies: What policies remember.
        restore_random: Puts the random state back: the very last thing.
    """

    record: Record
    root: str
    tallies: Mapping[str, Tally]
    restore_random: Callable[[], None]


def open_checkpoint(
    source: str | os.PathLike[str], *, near: Sequence[Path], weights_only: bool | None = None
) -> Opened:
    """Find and read a checkpoint.

    Args:
        source: A path, or ``"last"``: the newest of the newest run in the folders ``near`` or in those below them.
        near: Where to look for ``"last"``.
        weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.

    Raises:
        NotFound: There is none.
        Corrupt: It is damaged; the newest other one is named.
        Foreign: Holdfast did not write it.
    """
    if source == "last":
        folder, record = _last(near)
    else:
        path = Path(source).resolve()
        if path.is_dir():
            raise NotFound("is a folder.", checkpoint=str(path), remedy="Name a checkpoint in it.")
        folder = Folder(LocalStore(path.parent))
        record = resolve.named(folder.store, path.name, _listing(folder))
    name = record.names[0]
    path_text = f"{folder.store.root}/{name}"
    listing = _listing(folder)
    good = resolve.newest_good(listing.records, but=record.id) if listing else ""
    with folder.store.open(name) as reader:
        file = CheckpointFile(reader, name=path_text, good=good)
        trusted = weights_only is False
        state = file.whole(opaque=file.opaque() if trusted else None)
        if file.manifest.opaque and not trusted:
            logger.warning(
                "'%s' holds values that are not plain, and there is None in their place: %s. If you trust the file, "
                "weights_only=False gives them back.",
                path_text,
                ", ".join(file.manifest.opaque),
            )
        return Opened(record, folder.store.root, path_text, file.manifest, state)


def going_on(opened: Opened, size: int | None) -> tuple[Progress, dict[str, Any], Resumed]:
    """The counters, the loop's own state, and what the engine needs to go on.

    Args:
        opened: The checkpoint.
        size: Batches of an epoch, where that is known.
    """
    own = opened.state.get(OWN, {})
    state, loop, progress = own.get("random"), own.get("loop", {}), opened.manifest.progress
    said: set[str] = set()

    def restore_random() -> None:
        for sentence in random.restore(state) if state is not None else ["The checkpoint holds no random state."]:
            if sentence not in said:
                said.add(sentence)
                logger.warning(sentence)

    logger.info("resumed '%s' at step %s (epoch %s)", opened.path, f"{progress.steps:,}", progress.epoch)
    inexact = []
    if progress.batch and not progress.complete and (size is None or progress.batch < size):
        inexact.append(
            f"its first {progress.batch:,} batches are skipped by index; the others come in the order of before "
            "only where that depends on nothing but the global random state"
        )
    if not loop.get("at_boundary", True):
        inexact.append("an error had left it inside a step, so what that step drew from the random state stays drawn")
    if inexact:
        logger.warning("going on in the middle of epoch %s: %s", progress.epoch, "; ".join(inexact))
    return progress, loop, Resumed(opened.record, opened.root, opened.manifest.tallies, restore_random)


def save_alone(
    captured: Captured,
    what: What,
    progress: Progress,
    metrics: Mapping[str, Score],
    path: Path,
    *,
    identity: tuple[RunRef, int] | None,
) -> None:
    """Write one file, durably, and nothing beside it.

    Args:
        captured: The state.
        what: What of it.
        progress: The counters.
        metrics: The metrics now.
        path: The file.
        identity: The run and the place among its saves; None for a run of its own.

    Raises:
        SaveFailed: It was not saved; a file that stood there stands.
    """
    path = path.expanduser().absolute()
    if path.is_dir():
        raise SaveFailed("was not saved: there is a folder of that name.", checkpoint=str(path), remedy="Name a file.")
    store = LocalStore(path.parent)
    moment = Moment(frozenset({Event.MANUAL}), progress, metrics)
    run, sequence = identity or (RunRef(secrets.token_hex(16)), 1)
    sinks: list[Sink] = []
    try:
        job = prepare(captured, what, moment, run=run, sequence=sequence, tallies={}, reason="by hand")
        job.write(store, path.name, sinks)
        sinks[0].publish(path.name, replace=True)
    except HoldfastError as error:
        for sink in sinks:
            sink.discard()
        raise SaveFailed(
            f"was not saved: {error.what}",
            checkpoint=str(path),
            good="A file that stood there stands." if path.exists() else "",
            remedy=error.remedy,
        ) from error


def require_weights(opened: Opened) -> Mapping[str, Any]:
    """The weights of a checkpoint.

    Raises:
        Incompatible: It holds none.
    """
    if "state_dict" not in opened.state:
        raise Incompatible("holds no model.", checkpoint=opened.path)
    weights: Mapping[str, Any] = opened.state["state_dict"]
    return weights


def _listing(folder: Folder) -> Listing | None:
    """What the folder holds; None for one without a ledger, which may be anybody's, and of any size."""
    return folder.scan() if folder.store.stat(LEDGER) is not None else None


def _last(near: Sequence[Path]) -> tuple[Folder, Record]:
    """The newest checkpoint of the folders, or of the newest run in the folders below them."""
    below = {ledger.parent.parent for root in near for ledger in root.glob(f"**/{LEDGER}")}
    found: list[tuple[float, Folder, Record]] = []
    for home in sorted({*near, *below}):
        folder = Folder(LocalStore(home))
        listing = folder.scan()
        record = resolve.last(listing)
        if record is not None:
            # Folders know nothing of each other: which of their runs began last, their manifests' times say.
            found.append((max(r.saved_at for r in listing.of_run(record.run)), folder, record))
    if not found:
        places = " or ".join(f"'{root}'" for root in near)
        raise NotFound(f"does not exist: there is no checkpoint in or below {places}.", checkpoint="last")
    _, folder, record = max(found, key=lambda f: f[0])
    return folder, record
