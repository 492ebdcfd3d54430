"""Nothing that chance makes of a pickle does anything in our reader but be a value or be refused."""

from __future__ import annotations

import pickletools
import random
import struct

import pytest

import scale
from pickles import SAMPLE, readable

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]


def test_no_single_changed_byte_does_anything_but_change_a_value_or_be_refused():
    """Every byte of the sample changed to 16 others (here 3,000 of these): a value or a PickleError."""
    dice = random.Random(1)
    changes = [(at, value) for at in range(len(SAMPLE)) for value in dice.sample(range(256), 16)]
    changes = scale.sample(changes, 3000)
    refused = 0
    for at, value in changes:
        refused += not readable(SAMPLE[:at] + bytes([value]) + SAMPLE[at + 1 :])
    assert len(changes) / 2 < refused < len(changes)


CODES = [o.code.encode("latin-1") for o in pickletools.opcodes]
PIECES = [SAMPLE[at : at + 12] for at in range(0, len(SAMPLE), 5)]


def mutated(dice):
    """The sample after a few deletions, insertions, swaps and repetitions."""
    raw = bytearray(SAMPLE)
    for _ in range(dice.randint(1, 6)):
        at, kind = dice.randrange(len(raw)), dice.randrange(6)
        if kind == 0:
            raw[at] = dice.randrange(256)
        elif kind == 1:
            del raw[at : at + dice.randint(1, 8)]
        elif kind == 2:
            raw[at:at] = dice.choice(CODES)
        elif kind == 3:
            raw[at:at] = dice.choice(PIECES)
        elif kind == 4:
            raw[at : at + 4] = struct.pack("<I", dice.choice([0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1]))
        else:
            raw[at:at] = dice.choice([b"(", b")", b"t", b"R", b"Q", b"}", b"]", b"e", b"u", b"h\x00", b"0", b"b"])
    return bytes(raw)


def test_no_mutation_does_anything_but_change_a_value_or_be_refused():
    """Of 200,000 pickles made from the sample by chance (here 4,000), each is a value or a PickleError."""
    count = 200_000 if scale.whole else 4_000
    dice = random.Random(2)
    read = sum(readable(mutated(dice)) for _ in range(count))
    assert 0 < read < count


def test_no_string_of_opcodes_does_anything_but_be_a_value_or_be_refused():
    """Of 400,000 programs made of known opcodes by chance (here 20,000), each is a value or a PickleError."""
    count = 400_000 if scale.whole else 20_000
    dice = random.Random(3)
    words = [b"N", b"K\x01", b"X\x01\x00\x00\x00a", b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s",
             b"u", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"Q", b"R", b"b", b"ccollections\nOrderedDict\n", b"\x88",
             b"ctorch._utils\n_rebuild_tensor_v2\n", b"c__builtin__\nset\n", b"ctorch\nFloatStorage\n",
             b"X\x07\x00\x00\x00storage", b"\x8a\x01\xff", b"G" + b"\x7f\xf8" * 4, b"ctorch\nSize\n"]  # fmt: skip
    read = 0
    for _ in range(count):
        read += readable(b"\x80\x02" + b"".join(dice.choices(words, k=dice.randint(1, 12))) + b".")
    assert 0 < read < count
