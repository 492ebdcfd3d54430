"""Open what a URL names, for reading: http and https here, every other scheme by fsspec, where that is installed.

Bounds the size of what is fetched, and how long the other side may be silent.
"""

from __future__ import annotations

import errno
import importlib
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, BinaryIO

from holdfast.errors import ConfigError
from holdfast.store.failures import reported

MAX_BYTES = 1 << 40
"""No checkpoint that is fetched is larger: 1 TiB."""

TIMEOUT = 30.0
"""Seconds for which a server may be silent."""

_CHUNK = 1 << 20
_GONE = {404, 410}


def is_url(text: str) -> bool:
    """Whether a text names something by a scheme, such as ``https://``."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme.isascii() and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()


@contextmanager
def opened(url: str, *, limit: int = MAX_BYTES, timeout: float = TIMEOUT) -> Iterator[BinaryIO]:
    """What the URL names, as an open file that can be sought; from http it is fetched whole, to a temporary file.

    Args:
        url: The URL.
        limit: Bytes that may be fetched at most; never more than the temporary folder has room for.
        timeout: Seconds for which a server may be silent.

    Raises:
        StoreError: It cannot be reached or read, is not there (``errno.ENOENT``), too large (``errno.EFBIG``), or ends
            before it should.
        ConfigError: fsspec, or what it needs for the scheme, is not installed.
    """
    if url.partition("://")[0].lower() in ("http", "https"):
        with tempfile.TemporaryFile() as file:
            _fetch(url, file, limit, timeout)
            yield file
    else:
        with _by_fsspec(url) as file:
            yield file


def _fetch(url: str, file: BinaryIO, limit: int, timeout: float) -> None:
    with reported("fetch", url):
        room = min(limit, shutil.disk_usage(tempfile.gettempdir()).free)
        try:
            with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310  # the scheme was looked at
                _copy(answer, file, room)
        except urllib.error.HTTPError as error:
            error.close()
            number = errno.ENOENT if error.code in _GONE else errno.EIO
            raise OSError(number, f"the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(errno.EIO, f"it cannot be reached: {error.reason}") from error
        except (HTTPException, ValueError) as error:  # a broken answer, or what is no URL
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error
    file.seek(0)


def _copy(answer: Any, file: BinaryIO, room: int) -> None:
    told = answer.headers.get("Content-Length", "")
    size = int(told) if told.isascii() and told.isdigit() else None
    if size is not None and size > room:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {room:,} may be fetched")
    done = 0
    while piece := answer.read(_CHUNK):
        done += len(piece)
        if done > room:
            raise OSError(errno.EFBIG, f"it has more than the {room:,} bytes that may be fetched")
        file.write(piece)
    if size is not None and done != size:
        raise OSError(errno.ENODATA, f"it ended after {done:,} of {size:,} bytes")


@contextmanager
def _by_fsspec(url: str) -> Iterator[BinaryIO]:
    scheme = url.partition("://")[0]
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        remedy = 'Install it: pip install "holdfast[remote]".'
        raise ConfigError(f"'{url}' is read through fsspec, which is not installed.", remedy=remedy) from error
    try:
        file = fsspec.open(url, "rb")
    except (ImportError, ValueError) as error:  # its two ways to say that it cannot do a scheme
        raise ConfigError(f"'{url}' cannot be read: fsspec has nothing for '{scheme}': {error}") from error
    with reported("open", url):
        try:
            there: BinaryIO = file.open()
        except FileNotFoundError as error:  # whoever raises it may have given it no number
            raise OSError(errno.ENOENT, "there is no such file") from error
    try:
        yield there
    finally:
        file.close()
