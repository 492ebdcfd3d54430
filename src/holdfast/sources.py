"""Find the checkpoint that a user means, and read parts of it, verified. Changes nothing in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from holdfast.catalog import ranking, resolve
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.manifest import Manifest
from holdfast.catalog.sharded import INDEX
from holdfast.engine.directory import Checkpoint, opened
from holdfast.errors import ConfigError, Incompatible, NotFound, StoreError
from holdfast.policy.values import Record
from holdfast.policy.which import Which
from holdfast.store import LocalStore

_LOOKS = 10

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """What was read.

    Args:
        record: The checkpoint.
        path: Its path, for people.
        manifest: What it holds.
        parts: Part name to its state, those that were asked for.
        elsewhere: Whether it lies outside the folder that was asked.
    """

    record: Record
    path: str
    manifest: Manifest
    parts: dict[str, Any]
    elsewhere: bool


def newest(
    home: Folder, *, parts: Collection[str], optional: Collection[str], mapped: Collection[str] = ()
) -> Loaded | None:
    """The newest checkpoint of ``home`` that verifies; None where there is none. Says what it passed over.

    What was found damaged on the way is noted in the ledger, so that it ranks no more.

    Args:
        home: The folder.
        parts: Names of the parts to read.
        optional: Those among them that it need not hold.
        mapped: As for ``read``.

    Raises:
        Unreadable: One cannot be read, and none that is whole comes before it.
        Incompatible: It lacks a part.
    """
    found = looking_again(
        lambda: resolve.auto([home], lambda _, record: _read(home, home, record, parts, optional, mapped=mapped))
    )
    resolve.tell(found)
    return found.value


def read(
    home: Folder,
    source: str | os.PathLike[str],
    which: Which,
    *,
    parts: Collection[str] | None,
    optional: Collection[str] = (),
    location: torch.device | str | None = "cpu",
    dtype: torch.dtype | None = None,
    mapped: Collection[str] = (),
) -> Loaded:
    """Read one checkpoint.

    Args:
        home: The folder in which words and names are looked up.
        source: ``"last"``, ``"best"``, a name in ``home``, or a path.
        which: Says what is best.
        parts: Names of the parts to read; None for all.
        optional: Those among them that it need not hold.
        location: The device for tensors; None for the ones that they were saved from.
        dtype: What floating-point tensors become; None for what they are.
        mapped: Those parts whose tensors are copied from and let go: they take no memory of their own.

    Raises:
        NotFound: There is no such checkpoint.
        Corrupt: It is damaged.
        Unreadable: Which one ``"last"`` means cannot be told, for a file that cannot be read.
        Foreign: Holdfast did not write it.
        Incompatible: It lacks a part.
    """

    def look() -> Loaded:
        folder, record = _find(home, source, which)
        wanted = record.parts if parts is None else parts
        return _read(home, folder, record, wanted, optional, location=location, dtype=dtype, mapped=mapped)

    return _of(source, look)


def read_tensor(
    home: Folder,
    source: str | os.PathLike[str],
    which: Which,
    name: str,
    *,
    location: torch.device | str | None,
    dtype: torch.dtype | None,
) -> torch.Tensor:
    """Read one tensor of a checkpoint; the arguments and errors are those of ``read``."""

    def look() -> torch.Tensor:
        folder, record = _find(home, source, which)
        with _opened(home, folder, record) as file:
            return file.tensor(name, location=location, dtype=dtype)

    return _of(source, look)


@contextmanager
def _opened(home: Folder, folder: Folder, record: Record) -> Iterator[Checkpoint]:
    """A checkpoint, open; its errors tell what else is good."""
    listing = _looked_through(home, folder)
    good = resolve.newest_good(listing.records, but=record.id) if listing else ""
    name = record.names[0]
    with opened(folder.store, name, name=f"{folder.store.root}/{name}", good=good) as checkpoint:
        yield checkpoint


def looking_again(look: Callable[[], T]) -> T:
    """A checkpoint may be evicted by the process that wrote it between being listed and being opened."""
    for _ in range(_LOOKS):
        try:
            return look()
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise
    return look()


def _of(source: str | os.PathLike[str], look: Callable[[], T]) -> T:
    with resolve.of_a_word() if source in ("last", "best") else nullcontext():
        return looking_again(look)


def _find(home: Folder, source: str | os.PathLike[str], which: Which) -> tuple[Folder, Record]:
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"A checkpoint is named by a word such as 'last' or by a path, not by {type(source).__name__}."
        )
    listing = home.scan()
    if source in ("last", "best"):
        return home, resolve.last_of(home, listing) if source == "last" else ranking.best_of(
            listing, which, home.store.root
        )
    text = str(source)
    # Path's own raises for some paths that nothing can be at.
    if os.path.isdir(text or os.curdir) and not os.path.isfile(f"{text}/{INDEX}"):  # noqa: PTH112, PTH113
        remedy = "Name a checkpoint in it, such as its last.ckpt."
        raise NotFound("is a folder, not a checkpoint.", checkpoint=text, remedy=remedy)
    bare = os.sep not in text and not os.path.lexists(text)
    name = text if bare or listing.by_name(text) else _name_inside(home.store.root, text)
    if name is not None:
        return home, resolve.named(home.store, name, listing)
    folder = Folder(LocalStore(Path(text).absolute().parent))
    return folder, resolve.named(folder.store, Path(text).name, _looked_through(home, folder))


def _looked_through(home: Folder, folder: Folder) -> Listing | None:
    """What else the folder holds; None for one without a ledger, which may be anybody's, and of any size."""
    ours = folder is home or folder.store.stat(LEDGER) is not None
    return folder.scan() if ours else None


def _name_inside(root: str, path: str) -> str | None:
    """The name in the folder ``root`` of the file at ``path``; None where it lies elsewhere."""
    if path.startswith(f"{root}/"):
        return path.removeprefix(f"{root}/")
    there = Path(path).absolute()
    real, home = there.parent.resolve() / there.name, Path(root).resolve()
    return str(real.relative_to(home)) if home in real.parents else None


def _read(
    home: Folder,
    folder: Folder,
    record: Record,
    parts: Collection[str],
    optional: Collection[str],
    *,
    location: torch.device | str | None = "cpu",
    dtype: torch.dtype | None = None,
    mapped: Collection[str] = (),
) -> Loaded:
    with _opened(home, folder, record) as file:
        there = file.manifest.parts
        missing = [name for name in parts if name not in there and name not in optional]
        if missing:
            raise Incompatible(
                f"holds no part named {', '.join(missing)}. It holds: {', '.join(there)}.",
                checkpoint=file.name,
                good="Nothing was changed.",
                remedy="Ask for what it holds. For resume(), fresh=[...] names what may start afresh.",
            )
        states = file.parts([name for name in parts if name in there], location=location, dtype=dtype, mapped=mapped)
    return Loaded(record, file.name, file.manifest, states, elsewhere=folder is not home)
