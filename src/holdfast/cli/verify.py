"""``holdfast verify``: read every byte of checkpoints and say which are whole. Changes nothing."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from holdfast.catalog.folder import Folder, identity
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.verify import verify as verify_file
from holdfast.cli import text
from holdfast.cli.exits import Exit, worst
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
_STYLES = {
    "whole": "green",
    "corrupt": "bold red",
    "missing": "red",
    "unreadable": "red",
    "foreign": "yellow",
}


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
        """What the command ends with if nothing is worse. A foreign file that happens to be there is no failure."""
        return Exit.OK if self.verdict == "foreign" and not self.named else _EXITS[self.verdict]


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def verify(paths: tuple[str, ...], *, as_json: bool) -> None:
    """Read every byte of checkpoints, and say of each whether it is what was saved.

    PATH is a checkpoint, or a folder: all checkpoints in it. A corrupt one is shown with the damaged tensors and both
    checksums. Files in a folder that Holdfast did not write are shown as foreign and do not count; named
    themselves, they do. The exit code is that of the worst: 10 corrupt, 1 not readable, 11 not found, 12 foreign.
    """
    homes: dict[str, Folder] = {}
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


def _look_at(path: str, homes: dict[str, Folder], report: Callable[[str], None]) -> Iterator[Result]:
    if not os.path.isdir(path):
        report(path)
        root, name = _home(path)
        yield replace(_examine(homes, root, name), path=path)
        return
    try:
        files = _files_in(_folder(homes, path))
    except StoreError as error:
        yield Result(path, "unreadable", str(error))
        return
    results = []
    for names in files:
        report(os.path.join(path, names[0]))
        result = _examine(homes, path, names[0])
        if result.verdict != "missing":  # else it went since the folder was listed
            results.append(replace(result, names=names, named=False))
    yield from results
    if all(result.verdict == "foreign" for result in results):
        yield Result(path, "missing", "there is no checkpoint of Holdfast's in this folder")


def _home(path: str) -> tuple[str, str]:
    """The folder that a file belongs to, and its name there: names may have folders in them."""
    file = Path(os.path.abspath(path))
    root = next((p for p in file.parents if os.path.isfile(p / LEDGER)), file.parent)
    return str(root), file.relative_to(root).as_posix()


def _folder(homes: dict[str, Folder], root: str) -> Folder:
    """The folder, scanned once however many of its files are named."""
    if root not in homes:
        homes[root] = Folder(LocalStore(root))
        homes[root].scan()
    return homes[root]


def _files_in(folder: Folder) -> list[tuple[str, ...]]:
    """Every file that bears a checkpoint's name, each once, by all of its names."""
    listing = folder.scan()
    files: dict[tuple[int, int, int], list[str]] = {}
    for name in [*(n for r in listing.records for n in r.names), *(s.name for s in listing.strangers)]:
        entry = folder.store.stat(name)
        if entry is not None:
            files.setdefault(identity(entry), []).append(name)
    return [tuple(names) for names in files.values()]


def _examine(homes: dict[str, Folder], root: str, name: str) -> Result:
    path, start = os.path.join(root, name), time.perf_counter()
    try:
        # Without a ledger nothing is known to be ours, and a folder full of other things need not be searched.
        ours = os.path.isfile(os.path.join(root, LEDGER)) and _folder(homes, root).is_ours(name)
        with LocalStore(root).open(name) as reader:
            finding = verify_file(reader, ours=ours)
            size = reader.bytes
    except StoreError as error:
        verdict = "missing" if error.errno in _ABSENT else "unreadable"
        return Result(path, verdict, "there is no such file" if verdict == "missing" else str(error))
    seconds = time.perf_counter() - start
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
    from rich.text import Text

    table = text.table("file", "is", "size", "seconds", "why", right=("size", "seconds"))
    for result in results:
        folder = os.path.dirname(result.path)
        table.add_row(
            text.plain(", ".join([result.path, *(os.path.join(folder, n) for n in result.names[1:])])),
            Text(result.verdict, style=_STYLES[result.verdict]),
            "" if result.bytes is None else text.size(result.bytes),
            "" if result.bytes is None else f"{result.seconds:.3f}",
            text.plain(result.why),
        )
    console = text.console()
    console.print(table)
    counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in _EXITS}
    console.print(", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count))
