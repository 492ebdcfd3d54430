"""``holdfast ls``: what a folder holds, and why. Opens only files that the ledger does not know."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from holdfast import log
from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.manifest import number
from holdfast.cli import places, text
from holdfast.cli.exits import Exit, Failure
from holdfast.cli.kept import Kept, judge
from holdfast.cli.table import Table
from holdfast.policy.values import Record
from holdfast.store import LocalStore


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def ls(directory: str, *, as_json: bool) -> None:
    """List the checkpoints in DIR, oldest first.

    Shows of each the scores that were measured at its own step, and why it is kept. Those that the
    rules would let go for one more that is newer and better than all go "next". Files that bear a
    checkpoint's name and are none, unfinished ones, and folders of checkpoints within DIR come below.

    Nothing is changed, and no checkpoint is read through: "holdfast verify" does that.
    """
    if places.is_file(directory) or places.is_sharded(directory):
        one = "one checkpoint" if places.is_sharded(directory) else "a file"
        raise Failure(
            f"'{directory}' is {one}, and `holdfast ls` lists a folder of checkpoints.",
            Exit.ERROR,
            remedy=f"`holdfast verify {directory}` looks at that one.",
        )
    listing = Folder(LocalStore(directory)).scan()
    if not listing.names and not places.is_folder(directory):
        raise Failure(f"There is no folder '{directory}'.", Exit.NOT_FOUND)
    now = time.time()
    if as_json:
        click.echo(json.dumps(document(listing, directory=directory, now=now), indent=2, allow_nan=False))
    else:
        _show(listing, directory, now)


def document(listing: Listing, *, directory: str, now: float) -> dict[str, Any]:
    """The folder as plain values; docs/cli.md says each key.

    Args:
        listing: The folder.
        directory: Its path, as it is to be named.
        now: Seconds since 1970.
    """
    kept = judge(listing)
    return {
        "directory": directory,
        "checkpoints": [_checkpoint(record, kept[record.id], now) for record in listing.records],
        "strangers": [
            {"name": s.name, "verdict": s.verdict.value, "why": s.why, "bytes": s.bytes} for s in listing.strangers
        ],
        "unfinished": list(listing.leftovers),
        "below": list(listing.below),
    }


def _checkpoint(record: Record, kept: Kept, now: float) -> dict[str, Any]:
    saved_at = text.utc(record.saved_at)
    return {
        "id": record.id,
        "names": list(record.names),
        "run": record.run,
        "sequence": record.sequence,
        "step": record.progress.steps,
        "epoch": record.progress.epoch,
        "scores": {name: number(value) for name, value in record.scores.items()},
        "saved_at": saved_at,
        "age": None if saved_at is None else round(now - record.saved_at, 3),
        "bytes": record.bytes,
        "what": record.what,
        "healthy": record.healthy,
        "parts": list(record.parts),
        "policies": list(record.policies),
        "label": record.label,
        "pinned": record.pinned,
        "reason": record.reason,
        "kept_because": kept.why,
        "next_to_go": kept.next_to_go,
    }


def _show(listing: Listing, directory: str, now: float) -> None:
    if listing.records:
        _table(listing, now).show()
    else:
        click.echo(f"no checkpoints in {text.plain(directory)}")
    if listing.strangers:
        click.echo("")
        Table(
            ("not a checkpoint", "is", "size", "why"),
            [(s.name, s.verdict.value, log.size(s.bytes), s.why) for s in listing.strangers],
            right=("size",),
            folding={"not a checkpoint": 16, "why": 24},
        ).show()
    if listing.leftovers:
        click.echo("\nunfinished: being written, or left by a crash, and then the next run removes them")
        click.echo("\n".join(map(text.plain, listing.leftovers)))
    if listing.below:
        click.echo("\nfolders of checkpoints below it, each with a list of its own")
        click.echo("\n".join(text.plain(places.within(directory, name)) for name in listing.below))


def _table(listing: Listing, now: float) -> Table:
    """One row a checkpoint, without the columns that would say nothing."""
    kept = judge(listing)
    rows = [_row(record, kept[record.id], now) for record in listing.records]
    one_run = len({record.run for record in listing.records}) == 1
    shown = [h for h in rows[0] if any(row[h] for row in rows) and not (h == "run" and one_run)]
    return Table(
        shown,
        [[row[heading] for heading in shown] for row in rows],
        right=("step", "epoch", "age", "size"),
        folding={"scores": 16, "kept because": 24},
    )


def _row(record: Record, kept: Kept, now: float) -> dict[str, str]:
    """One checkpoint, by heading."""
    age = now - record.saved_at if text.utc(record.saved_at) else None
    return {
        "checkpoint": ", ".join(record.names),
        "run": record.run[:8],
        "what": "" if record.what == "full" else record.what,
        "step": f"{record.progress.steps:,}",
        "epoch": str(record.progress.epoch),
        "scores": _scores(record.scores),
        "weights": "" if record.healthy else "not finite",
        "age": text.age(age),
        "size": log.size(record.bytes),
        "kept because": kept.why,
        "goes": "next" if kept.next_to_go else "",
    }


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in sorted(scores.items()))
