"""Go on from a checkpoint; and save or load one by its path, outside any rules."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
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


def open_checkpoint(source: str | os.PathLike[str], *, near: Path) -> Opened:
    """Find and read a checkpoint.

    Args:
        source: A path, or ``"last"``: the newest of the newest run in ``near`` or in the folders below it.
        near: Where to look for ``"last"``.

    Raises:
        NotFound: There is none.
        Corrupt: It is damaged; the newest other one is named.
    """
    if source == "last":
        folder, record = _last(near)
    else:
        path = Path(source).absolute()
        folder = Folder(LocalStore(path.parent))
        if path.is_dir():
            raise NotFound("is a folder.", checkpoint=str(path), remedy="Name a checkpoint in it.")
        record = resolve.named(folder.store, path.name)
    name = record.names[0]
    path_text = f"{folder.store.root}/{name}"
    with folder.store.open(name) as reader:
        good = resolve.newest_good(folder.scan().records, but=record.id)
        file = CheckpointFile(reader, name=path_text, good=good)
        return Opened(record, folder.store.root, path_text, file.manifest, file.whole())


def going_on(opened: Opened) -> tuple[Progress, dict[str, Any], Resumed]:
    """The counters, the loop's own state, and what the engine needs to go on."""
    own = opened.state.get(OWN, {})
    state = own.get("random")

    def restore_random() -> None:
        for sentence in random.restore(state) if state is not None else ["The checkpoint holds no random state."]:
            logger.warning(sentence)

    progress = opened.manifest.progress
    logger.info("resumed '%s' at step %s (epoch %s)", opened.path, f"{progress.steps:,}", progress.epoch)
    if progress.batch and not progress.complete:
        logger.warning(
            "going on in the middle of epoch %s: its first %s batches are skipped by index; the order of the data is "
            "exact only where the sampler's order does not depend on the random state",
            progress.epoch,
            f"{progress.batch:,}",
        )
    return progress, own.get("loop", {}), Resumed(opened.record, opened.root, opened.manifest.tallies, restore_random)


def save_alone(
    captured: Captured, what: What, progress: Progress, metrics: Mapping[str, Score], path: Path, *, reason: str
) -> None:
    """Write one file, durably, and nothing beside it.

    Raises:
        SaveFailed: It was not saved; a file that stood there stands.
    """
    path = path.absolute()
    store = LocalStore(path.parent)
    moment = Moment(frozenset({Event.MANUAL}), progress, metrics)
    run = RunRef(secrets.token_hex(16))
    sinks: list[Sink] = []
    try:
        job = prepare(captured, what, moment, run=run, sequence=1, tallies={}, reason=reason)
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


def _last(near: Path) -> tuple[Folder, Record]:
    """The newest checkpoint of the folder, or of the newest run in the folders below it."""
    homes = [near, *sorted({p.parent.parent for p in near.glob("**/.holdfast/ledger.jsonl")} - {near})]
    found: list[tuple[float, Folder, Record]] = []
    for home in homes:
        folder = Folder(LocalStore(home))
        listing = folder.scan()
        record = resolve.last(listing)
        if record is not None:
            # Folders know nothing of each other: which of their runs began last, their manifests' times say.
            found.append((max(r.saved_at for r in listing.of_run(record.run)), folder, record))
    if not found:
        raise NotFound("does not exist: no checkpoint was found.", checkpoint=f"{near}/last")
    _, folder, record = max(found, key=lambda f: f[0])
    return folder, record
