"""CRC-32, the zip's own checksum: by the fastest library there is, and of two pieces as one. No I/O, no torch.

Whichever library computes it, the number is the same, and all of them release the interpreter meanwhile.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module

from typing_extensions import Buffer

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31  # x**0: the lowest power is the highest bit
_BY_THE_PROCESSOR = ("isal.isal_zlib", "zlib_ng.zlib_ng")
"""Modules of the extra ``fast`` that use the processor's own instructions, the faster first."""


def _fastest() -> tuple[str, Callable[..., int]]:
    for name in _BY_THE_PROCESSOR:
        try:
            return name.partition(".")[0], import_module(name).crc32
        except ImportError:
            continue
    return "zlib", zlib.crc32


LIBRARY, _crc32 = _fastest()


def crc32(data: Buffer, crc: int = 0) -> int:
    """The CRC-32 of ``data``, or of what had ``crc`` with ``data`` after it."""
    return _crc32(data, crc)


def joined(first: int, second: int, length: int) -> int:
    """The CRC-32 of two pieces in a row, from that of each and the second one's length in bytes."""
    return _product(_shift(length), first) ^ second


@cache
def _shift(length: int) -> int:
    """x**(8 * length), by which a CRC-32 is multiplied where so many bytes follow it."""
    power, square = _ONE, _ONE >> 8
    while length:
        if length & 1:
            power = _product(power, square)
        square = _product(square, square)
        length >>= 1
    return power


def _product(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo that of CRC-32."""
    found, bit = 0, _ONE
    while a:
        if a & bit:
            found ^= b
            a ^= bit
        bit >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return found
