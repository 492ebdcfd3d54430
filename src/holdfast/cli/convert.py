"""``holdfast convert``: a checkpoint that is a folder as one file, one file as a folder. Tells no ledger of it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from holdfast import log
from holdfast.catalog import directories
from holdfast.cli import places, text
from holdfast.cli.exits import Exit, Failure
from holdfast.store import LocalStore


@click.command(short_help="Make one file of a checkpoint folder, or a folder of a file.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--shards", type=click.IntRange(min=1), help="Files to divide a folder's tensors among; 1 by default.")
def convert(source: str, target: str, *, shards: int | None) -> None:
    """Write the checkpoint SRC as DST: a folder as one file, one file as a folder.

    The state is the same, bit for bit, and so is what the checkpoint says of itself; but it is one of
    its own, whose parent is SRC, so that no run's rules let it go. SRC is verified before, and DST
    afterwards. Memory is bounded, whatever the size. DST is a name that is free.
    """
    if places.is_folder(source) and not places.is_sharded(source):
        raise Failure(f"'{source}' is a folder of checkpoints: name one of them.", Exit.ERROR)
    if not places.is_folder(source) and not places.is_file(source):
        raise Failure(f"There is no checkpoint '{source}'.", Exit.NOT_FOUND)
    if os.path.lexists(target):
        raise Failure(f"'{target}' is there already.", Exit.ERROR, remedy="Give a name that is free.")
    if target.endswith(".safetensors"):
        raise Failure(
            f"'{target}' would be a checkpoint of Holdfast's, and no safetensors file.",
            Exit.ERROR,
            remedy="Load the weights by torch.load(SRC, weights_only=True)['state_dict']; safetensors saves them.",
        )
    from holdfast.engine import convert as converting  # torch takes seconds to load
    from holdfast.engine.directory import CheckpointDirectory, opened

    origin, there = _absolute(source), _absolute(target)
    store = LocalStore(there.parent)
    with opened(LocalStore(origin.parent), origin.name, name=source) as checkpoint:
        if not isinstance(checkpoint, CheckpointDirectory):
            converting.to_folder(checkpoint, store, there.name, shards=shards or 1)
        elif shards is None:
            converting.to_file(checkpoint, store, there.name)
        else:
            raise Failure(
                f"'{source}' is a folder already, and becomes one file.",
                Exit.ERROR,
                remedy="Convert it without --shards, and that file with it.",
            )
    found = directories.manifest_of(store, there.name)
    size = 0 if found is None else found[1]
    kind = "a folder" if places.is_folder(target) else "one file"
    click.echo(text.plain(f"wrote {target}, {kind} of {log.size(size)}, and it verifies; {source} is as it was"))


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  a link is looked at where it lies
