"""Open what a user calls a checkpoint: a path, a URL or an open file. Reads nothing of it yet."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from holdfast.catalog import directories, resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.errors import ConfigError, NotFound, StoreError
from holdfast.store import LocalStore, Reader
from holdfast.store.opened import OpenFile
from holdfast.store.urls import is_url, opened

Source = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True)
class Readable:
    """A checkpoint that is open.

    Args:
        name: For people: its path or URL, or ``<open file>``.
        reader: Its bytes.
        file: The same for PyTorch: its path, or the open file.
        path: Where it lies; None where it is no local file.
    """

    name: str
    reader: Reader
    file: Any
    path: Path | None = None


@contextmanager
def readable(source: Source) -> Iterator[Readable]:
    """Open a checkpoint for reading.

    Args:
        source: A path, which may begin with ``~``; a URL: http, https, or whatever fsspec opens; or an open binary
            file, which is read from its beginning and left open.

    Raises:
        NotFound: There is none.
        ConfigError: It is none of these, or nothing here can open such a URL.
        StoreError: It cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source).removeprefix("file://")
        if is_url(text):
            with _from_url(text) as there:
                yield there
        else:
            path = local(text)
            with LocalStore(path.parent).open(path.name) as reader:
                yield Readable(str(path), reader, str(path), path)
    else:
        file = _sought(source)
        name = str(getattr(source, "name", "<open file>"))
        with OpenFile(file, name) as reader:
            yield Readable(name, reader, file)


def sharded_at(source: str | os.PathLike[str]) -> Path | None:
    """The path of a sharded checkpoint, which is a folder; None where there is none."""
    text = os.fspath(source).removeprefix("file://")
    if is_url(text):
        return None
    path = Path(text).expanduser().absolute()
    return path if directories.is_directory(LocalStore(path.parent), path.name) else None


def local(text: str) -> Path:
    """The file at a path, which is there.

    Raises:
        NotFound: It is not, or it is a folder.
    """
    file = Path(text).expanduser().absolute()
    if os.path.isdir(file):  # noqa: PTH112 # Path.is_dir raises where a folder above may not be read
        raise NotFound("is a folder.", checkpoint=str(file), remedy="Name a checkpoint in it, such as its last.ckpt.")
    store = LocalStore(file.parent)
    if store.stat(file.name) is None:
        # Anybody's folder may be large: only one that has a ledger is looked through.
        held = resolve.held(Folder(store).scan() if store.stat(LEDGER) is not None else None)
        there = os.path.isdir(file.parent)  # noqa: PTH112
        no_folder = "" if there else f": there is no folder '{file.parent}'"
        raise NotFound(f"does not exist{no_folder}.{held}", checkpoint=str(file))
    return file


@contextmanager
def _from_url(url: str) -> Iterator[Readable]:
    try:
        with opened(url) as file, OpenFile(file, url) as reader:
            yield Readable(url, reader, file)
    except StoreError as error:
        if error.errno != errno.ENOENT:
            raise
        raise NotFound("does not exist.", checkpoint=url) from error


def _sought(source: Any) -> BinaryIO:
    if not callable(getattr(source, "read", None)):
        raise ConfigError(
            f"A checkpoint is given by its path, a URL or an open binary file, not as a {type(source).__name__}."
        )
    if isinstance(source, io.TextIOBase):
        raise ConfigError("A checkpoint is read from a file that is open for bytes.", remedy="Open it with mode 'rb'.")
    if callable(getattr(source, "seekable", None)) and source.seekable():
        return cast(BinaryIO, source)
    return io.BytesIO(source.read())
