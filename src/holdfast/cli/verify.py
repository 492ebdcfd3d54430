"""``holdfast verify``: read every byte of checkpoints and say which are whole. Changes nothing."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import click

from holdfast import log
from holdfast.catalog import directories
from holdfast.catalog.folder import Folder, Listing, identity
from holdfast.cli import places, text
from holdfast.cli.exits import Exit, worst
from holdfast.cli.table import Table
from holdfast.errors import StoreError
from holdfast.store import LocalStore

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_EXITS = {
    "whole": Exit.OK,
    "corrupt": Exit.CORRUPT,
    "foreign": Exit.FOREIGN,
    "missing": Exit.NOT_FOUND,
    "unreadable": Exit.ERROR,
}

_Homes = dict[str, tuple[Folder, Listing]]


@dataclass(frozen=True)
class Result:
    """What was found out about one file.

    Args:
        path: The file, as it is to be named.
        verdict: ``whole``, ``corrupt``, ``foreign``, ``missing`` or ``unreadable``.
        why: In a sentence; empty for a whole one.
        names: Its names in its folder.
        damaged: Dotted paths of the tensors whose bytes are damaged.
        bytes: Its size; None where it could not be opened.
        seconds: How long it took to read.
        named: Whether the user named it, and not only its folder.
    """

    path: str
    verdict: str
    why: str = ""
    names: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    bytes: int | None = None
    seconds: float = 0.0
    named: bool = True

    @property
    def exit(self) -> Exit:
        """What the command ends with if nothing is worse. A foreign file in a folder is no failure."""
        return Exit.OK if self.verdict == "foreign" and not self.named else _EXITS[self.verdict]


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def verify(paths: tuple[str, ...], *, as_json: bool) -> None:
    """Read every byte, and say which checkpoints are whole.

    PATH is a checkpoint, or a folder: all checkpoints in it. A corrupt one is shown with the damaged
    tensors and both checksums. A file that Holdfast did not write is foreign; that counts where PATH
    names it, and not where it merely lies in a folder.

    The exit code is that of the worst: 10 corrupt, 1 not readable, 11 not found, 12 foreign.
    """
    homes: _Homes = {}
    with _progress() as report:
        results = [result for path in paths for result in _look_at(path, homes, report)]
    exit = worst(result.exit for result in results)
    if as_json:
        click.echo(json.dumps(document(results, exit=exit), indent=2, allow_nan=False))
    else:
        _show(results)
    sys.exit(exit)


def document(results: Sequence[Result], *, exit: Exit) -> dict[str, Any]:
    """The results as plain values; docs/cli.md says each key."""
    return {
        "exit": int(exit),
        "files": [
            {
                "path": result.path,
                "names": list(result.names),
                "verdict": result.verdict,
                "why": result.why,
                "damaged": list(result.damaged),
                "bytes": result.bytes,
                "seconds": round(result.seconds, 6),
            }
            for result in results
        ],
    }


def _look_at(path: str, homes: _Homes, report: Callable[[str], None]) -> Iterator[Result]:
    if not places.is_folder(path) or places.is_sharded(path):
        report(path)
        root, name = places.home(path)
        yield replace(_examine(homes, root, name), path=path)
        return
    try:
        folder, listing = _scanned(homes, path)
        files = _files_in(folder, listing)
    except StoreError as error:
        yield Result(path, "unreadable", str(error))
        return
    results = []
    for names in files:
        report(places.within(path, names[0]))
        result = _examine(homes, path, names[0])
        if result.verdict != "missing":  # else it went since the folder was listed
            results.append(replace(result, names=names, named=False))
    yield from results
    if all(result.verdict == "foreign" for result in results):
        why = "there is no checkpoint of Holdfast's in this folder"
        first = ", ".join(places.within(path, name) for name in listing.below[:3])
        yield Result(path, "missing", f"{why}, but below it are others: {first}" if first else why)


def _scanned(homes: _Homes, root: str) -> tuple[Folder, Listing]:
    """The folder, scanned once however many of its files are named."""
    if root not in homes:
        folder = Folder(LocalStore(root))
        homes[root] = folder, folder.scan()
    return homes[root]


def _files_in(folder: Folder, listing: Listing) -> list[tuple[str, ...]]:
    """Every file that bears a checkpoint's name, each once, by all of its names."""
    files: dict[tuple[int, int, int], list[str]] = {}
    for name in [*(n for r in listing.records for n in r.names), *(s.name for s in listing.strangers)]:
        entry = directories.entry_of(folder.store, name)
        if entry is not None:
            files.setdefault(identity(entry), []).append(name)
    return [tuple(names) for names in files.values()]


def _examine(homes: _Homes, root: str, name: str) -> Result:
    path = places.within(root, name)
    try:
        # Without a ledger nothing is known to be ours: no need to search a folder full of other things.
        ours = places.has_ledger(root) and _scanned(homes, root)[0].is_ours(name)
        start = time.perf_counter()
        finding, size = directories.verify(LocalStore(root), name, ours=ours)
        seconds = time.perf_counter() - start
    except StoreError as error:
        verdict = "missing" if error.errno in _ABSENT else "unreadable"
        return Result(path, verdict, "there is no such file" if verdict == "missing" else str(error))
    return Result(path, finding.verdict.value, finding.why, (name,), finding.damaged, size, seconds)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal which file is being read; gigabytes take a while."""
    if not sys.stderr.isatty():
        yield lambda path: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("") as status:
        yield lambda path: status.update(Text(f"reading {text.plain(path)}"))


def _show(results: Sequence[Result]) -> None:
    Table(
        ("file", "is", "size", "seconds", "why"),
        [
            (
                ", ".join(_paths(result)),
                result.verdict,
                "" if result.bytes is None else log.size(result.bytes),
                "" if result.bytes is None else f"{result.seconds:.3f}",
                result.why,
            )
            for result in results
        ],
        right=("size", "seconds"),
        folding={"file": 16, "why": 24},
    ).show()
    counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in _EXITS}
    click.echo("\n" + ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count))


def _paths(result: Result) -> list[str]:
    """The file by all its names."""
    folder = result.path.removesuffix(result.names[0]) if result.names else ""
    return [result.path, *(folder + name for name in result.names[1:])]
