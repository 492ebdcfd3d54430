"""Go on from a checkpoint, and load the weights of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.catalog import directories, records, resolve
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.manifest import Manifest, RunRef
from holdfast.engine.directory import CheckpointDirectory, Like, opened
from holdfast.engine.reader import CheckpointFile
from holdfast.errors import Foreign, Incompatible, NotFound
from holdfast.formats import loops
from holdfast.log import logger
from holdfast.policy.values import Progress, Record, Tally
from holdfast.state import random
from holdfast.state.samplers import is_shared
from holdfast.store import LocalStore
from holdfast.store.urls import is_url
from holdfast.strategies.base import TrainingStrategy
from holdfast.training.checkpoint import OWN
from holdfast.training.checkpoint_io import CheckpointIO
from holdfast.training.loading import read_foreign
from holdfast.training.opening import Readable, readable
from holdfast.training.ranks import own_part, ranks_of
from holdfast.training.taken_over import rank_beside
from holdfast.training.weights import load_weights, under_own_names

_AUTO = 'ckpt_path="auto" takes the newest checkpoint that verifies.'


@dataclass(frozen=True)
class Opened:
    """A checkpoint read whole; verified, if it is one of ours.

    Args:
        record: Which; None for a file that Holdfast did not write.
        root: The folder that it lies in; None where that is none of ours.
        path: Its path or URL, for people.
        manifest: What it holds; of a foreign file only where it stands.
        state: The dictionary.
        stand: Where a foreign file stands; None for one of ours, whose own words say more.
    """

    record: Record | None
    root: str | None
    path: str
    manifest: Manifest
    state: dict[str, Any]
    stand: loops.Stand | None = None


@dataclass(frozen=True)
class Resumed:
    """What a fit goes on from.

    Args:
        record: The checkpoint; None where it is a foreign one.
        root: Its folder; None where that is none of ours.
        tallies: What policies remember.
        restore_random: Puts the random state back: the very last thing.
        inexact: Why what follows is not what would have followed.
    """

    record: Record | None
    root: str | None
    tallies: Mapping[str, Tally]
    restore_random: Callable[[], None]
    inexact: Sequence[str] = ()


def open_checkpoint(
    source: str | os.PathLike[str],
    *,
    weights_only: bool | None = None,
    io: CheckpointIO | None = None,
    like: Like | None = None,
    verifies: bool = True,
) -> Opened:
    """Read a checkpoint.

    Args:
        source: A path or a URL (http, https, or whatever fsspec opens).
        weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.
        io: A user's own way to read the file that a path or URL names.
        like: What tensors are to replace: of those that are divided over ranks, this one's part alone is read from a
            checkpoint that is a folder.
        verifies: Whether this rank looks at all of such a folder before: one has to, for each reads its own part.

    Raises:
        NotFound: There is none.
        Corrupt: It is damaged; the newest other one is named.
        Foreign: Holdfast did not write it, and it cannot be read safely.
        Incompatible: Holdfast did not write it, and it is of no form that is known.
    """
    if io is not None:
        return _handed(os.fspath(source), io, weights_only)
    trusted = weights_only is False
    text = os.fspath(source)
    if is_url(text) and not text.startswith("file://"):
        with readable(text) as there:
            try:
                return _afar(there, trusted=trusted)
            except Foreign:
                return _foreign(there, trusted=trusted)
    path = Path(text.removeprefix("file://")).expanduser().resolve()
    folder = Folder(LocalStore(path.parent))
    if path.is_dir() and not directories.is_directory(folder.store, path.name):
        raise NotFound("is a folder.", checkpoint=str(path), remedy="Name a checkpoint in it.")
    if not path.parent.exists():
        raise NotFound(f"does not exist: there is no folder '{path.parent}'.", checkpoint=str(path), remedy=_AUTO)
    try:
        record = resolve.named(folder.store, path.name, _listing(folder), absent=_AUTO)
        return _ours(folder, record, trusted=trusted, like=like, verifies=verifies)
    except Foreign:
        with readable(path) as there:
            return _foreign(there, trusted=trusted)


def _ours(folder: Folder, record: Record, *, trusted: bool, like: Like | None, verifies: bool) -> Opened:
    path = f"{folder.store.root}/{record.names[0]}"
    listing = _listing(folder)
    good = resolve.newest_good(listing.records, but=record.id) if listing else ""
    with opened(folder.store, record.names[0], name=path, good=good) as found:
        if isinstance(found, CheckpointDirectory) and like is not None:
            if verifies:
                found.verify()
            state = _whole(found, trusted=trusted, like=like)
        else:
            state = _whole(found, trusted=trusted)
        return Opened(record, folder.store.root, path, found.manifest, state)


def _afar(there: Readable, *, trusted: bool) -> Opened:
    """One of ours that lies in no folder here: what goes on from it is a run of its own."""
    file = CheckpointFile(there.reader, name=there.name)
    name = there.name.rpartition("/")[2]
    record = records.project(file.manifest, bytes=there.reader.bytes, names=(name,))
    return Opened(record, None, there.name, file.manifest, _whole(file, trusted=trusted))


def _whole(file: CheckpointFile | CheckpointDirectory, *, trusted: bool, **how: Any) -> dict[str, Any]:
    state = file.whole(opaque=file.opaque() if trusted else None, mapped=["state_dict"], **how)
    if not trusted:
        _say_withheld(file.manifest.opaque, file.name)
    return state


def _foreign(there: Readable, *, trusted: bool) -> Opened:
    read = read_foreign(there, "cpu", trusted=trusted)
    _say_withheld(read.withheld, there.name)
    opened = _standing(read.state, there.name)
    rank_beside(read.state, there.path)
    return opened


def _handed(path: str, io: CheckpointIO, weights_only: bool | None) -> Opened:
    """One that a user's own code reads."""
    return _standing(dict(io.load_checkpoint(path, map_location="cpu", weights_only=weights_only)), path)


def _standing(state: dict[str, Any], name: str) -> Opened:
    """A state without a manifest: where it stands, its loops say."""
    stand = loops.Stand(Progress(), 0)
    if "loops" in state:
        try:
            stand = loops.read(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Incompatible(
                f"says where it stands in a way that is not known: {error!r:.200}.",
                checkpoint=name,
                good="Nothing was changed.",
                remedy="Take only the weights: load_from_checkpoint().",
            ) from error
    manifest = Manifest(id="", run=RunRef(""), sequence=0, progress=stand.progress)
    return Opened(None, None, name, manifest, state, stand)


def _say_withheld(paths: Sequence[str], checkpoint: str) -> None:
    if paths:
        logger.warning(
            "'%s' holds values that are not plain, and there is None in their place: %s. If you trust the file, "
            "weights_only=False gives them back.",
            checkpoint,
            ", ".join(paths),
        )


def going_on(opened: Opened, *, rank: int = 0, size: int = 1) -> tuple[Progress, dict[str, Any], Resumed]:
    """The counters, the loop's own state, and what the engine needs to go on.

    Args:
        opened: The checkpoint.
        rank: This rank.
        size: How many there are.
    """
    own = own_part(opened.state.get(OWN, {}), rank=rank, size=size)
    state, loop, progress = own.get("random"), own.get("loop", {}), opened.manifest.progress
    none = "The checkpoint holds no random state."
    if opened.stand is not None:
        state, loop = None, _as_ours(opened.stand)
        none = f"'{opened.path}' holds no random state: what is drawn from here on is not what would have been drawn."
    if rank > 0 and size != ranks_of(opened.state.get(OWN, {})):
        state = {}  # said below, for all ranks
    said: set[str] = set()

    def restore_random() -> None:
        for sentence in (random.restore(state) if state else []) if state is not None else [none]:
            if sentence not in said:
                said.add(sentence)
                logger.warning(sentence)

    inexact = []
    if not loop.get("at_boundary", True):
        inexact.append("an error had left it inside a step, so what that step drew from the random state stays drawn")
    if opened.stand is None and (before := ranks_of(opened.state.get(OWN, {}))) != size:
        kept = "all go on from its place in what it trained on"
        if before > 1:
            kept = (
                "the order that ranks share is kept"
                if is_shared(loop.get("data", {}))
                else "ranks did not share what they trained on, so that all go on from the place of rank 0 in it and "
                "those of the others are lost"
            )
        inexact.append(
            f"it was saved on {before} rank{'s' * (before > 1)} and goes on on {size}: {kept}, and what is drawn at "
            "random beside the samples (dropout, augmentation) is not what it would have been"
        )
    if opened.stand is not None and opened.stand.accumulating:
        inexact.append("it seems to lie between the batches of one optimizer step, and holds no gradients")
    if inexact:
        logger.warning("going on in epoch %s, but not exactly: %s", progress.epoch, "; ".join(inexact))
    if state is None:
        inexact.append("there is no random state")
    return progress, loop, Resumed(opened.record, opened.root, opened.manifest.tallies, restore_random, inexact)


def _as_ours(stand: loops.Stand) -> dict[str, Any]:
    """What our loop remembers besides its progress, of a file that says less."""
    batches = stand.progress.batches
    known = {"validated_at": batches if stand.validated else -1, "plateau_at": batches, "stepped": stand.stepped}
    if stand.loader is None:
        return known
    place = {"kind": "kept", "over": False, "done": stand.progress.batch, "ended": False, "whole": False}
    return {**known, "data": {**place, "random": None, "generators": {}, "state": stand.loader}}


def load_model(opened: Opened, module: Any, strategy: TrainingStrategy) -> None:
    """Put the weights of a checkpoint, and nothing else of it, into a module that is to be evaluated.

    Raises:
        Incompatible: It holds none, or they do not fit.
    """
    weights = opened.state.get("state_dict")
    if not isinstance(weights, Mapping):
        raise Incompatible("holds no model.", checkpoint=opened.path)
    strict = module.strict_loading
    remedy = "Build the module as when it was saved, or load what fits: strict_loading = False in the module."
    load_weights(
        module, weights, strict=strict, checkpoint=opened.path, remedy=remedy if strict else "",
        load=strategy.load_module,
    )  # fmt: skip


def take_own_names(opened: Opened, module: Any) -> None:
    """Bring the weights of a checkpoint, if it has any, under the module's own keys, which wrappers may have changed.

    Raises:
        Incompatible: The module's ``strict_loading`` is False, and not even a partial load is possible.
    """
    weights = opened.state.get("state_dict")
    if isinstance(weights, Mapping):
        strict = module.strict_loading
        opened.state["state_dict"] = under_own_names(module, weights, strict=strict, checkpoint=opened.path)


def _listing(folder: Folder) -> Listing | None:
    """What the folder holds; None for one without a ledger, which may be anybody's, and of any size."""
    return folder.scan() if folder.store.stat(LEDGER) is not None else None
