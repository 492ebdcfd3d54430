"""CRC-32 is the same from whichever library, of a whole or of its pieces."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.catalog import checksums

WITHOUT = "import sys; sys.modules.update(dict.fromkeys({!r})); from holdfast.catalog import checksums as c; "
TELL = "print(c.LIBRARY, c.crc32(b'123456789'), c.crc32(b'6789', c.crc32(b'12345')))"


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_pieces_have_the_checksum_of_the_whole(first, second):
    """Whatever is in them, empty ones included."""
    found = checksums.joined(checksums.crc32(first), checksums.crc32(second), len(second))
    assert found == zlib.crc32(first + second) == checksums.crc32(second, checksums.crc32(first))


@pytest.mark.parametrize("length", [1, 4096, 8 * 2**20, 2**32 + 1, 2**40])
def test_long_pieces_join_as_zeros_do(length):
    """A piece of zeros changes a checksum as so many zero bytes do; doubled lengths say what long ones must give."""
    half, rest = length // 2, length - length // 2
    zeros = {0: 0, 1: zlib.crc32(b"\0")}

    def of_zeros(count):
        if count not in zeros:
            low, high = count // 2, count - count // 2
            zeros[count] = checksums.joined(of_zeros(low), of_zeros(high), high)
        return zeros[count]

    assert checksums.joined(of_zeros(half), of_zeros(rest), rest) == of_zeros(length)
    if length <= 8 * 2**20:
        assert of_zeros(length) == zlib.crc32(bytes(length))


@pytest.mark.parametrize("missing", [[], ["isal"], ["isal", "zlib_ng"]], ids=str)
def test_every_library_gives_the_same_number(missing):
    """The fastest that is there is taken, Python's own at last."""
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing) + TELL], capture_output=True, text=True, check=True
    )
    library, *found = told.stdout.split()
    assert library not in missing
    assert found == [str(0xCBF43926)] * 2
    if len(missing) == 2:
        assert library == "zlib"
