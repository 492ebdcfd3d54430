"""No damage to a checkpoint goes unnoticed: it is named, or what is loaded is the same bit for bit."""

from __future__ import annotations

import errno
import random
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import scale
from holdfast.catalog.manifest import EntryInfo, Manifest
from holdfast.catalog.verify import Verdict, verify
from holdfast.engine.reader import CheckpointFile
from holdfast.errors import Corrupt, Foreign, StoreError
from holdfast.store import MemoryStore
from saving import NAME, difference, file_of, save

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]


class Opaque:
    """A value that is not plain, so that the file has an opaque entry too."""


class Held:
    """A file in memory that tests change in place and read through the reader's own interface."""

    def __init__(self, raw: bytes) -> None:
        self.raw = bytearray(raw)

    @property
    def bytes(self) -> int:
        return len(self.raw)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset + length > len(self.raw):
            raise StoreError("read", NAME, OSError(errno.ENODATA, "bytes are missing"))
        return bytes(self.raw[offset : offset + length])

    def read_into(self, offset: int, target: memoryview) -> None:
        target.cast("B")[:] = self.read_at(offset, target.nbytes)


@dataclass(frozen=True)
class Specimen:
    """A whole checkpoint, and what it holds."""

    raw: bytes
    manifest: Manifest
    parts: dict[str, Any]

    @property
    def data(self) -> list[EntryInfo]:
        """The entries that are tensors' storages."""
        return [e for e in self.manifest.entries if e.name.startswith("archive/data/")]

    def structure(self) -> list[int]:
        """Offset of every byte that is not a tensor's."""
        inside = {at for e in self.data for at in range(e.offset, e.offset + e.length)}
        return [at for at in range(len(self.raw)) if at not in inside]


def specimen(seed: int = 0) -> Specimen:
    """Twenty tensors of several data types, one of them of several pages, two of them tied, and an opaque value."""
    torch.manual_seed(seed)
    dtypes = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
    model = OrderedDict((f"layer{n}.weight", (torch.randn(5, n + 1) * 9).to(dtypes[n % 5])) for n in range(17))
    model["large.weight"] = torch.randn(70, 70)
    model["tied.weight"] = model["large.weight"]
    model["scalar"] = torch.tensor(float(seed))
    parts = {"model": model, "other": {"history": [0.5, None, "text"], "thing": Opaque()}}
    store = MemoryStore()
    manifest = save(store, parts)
    with store.open(NAME) as reader:
        raw = reader.read_at(0, reader.bytes)
    return Specimen(raw, manifest, {"model": model, "other": {"history": [0.5, None, "text"], "thing": None}})


@pytest.fixture(scope="module")
def whole():
    made = specimen()
    assert len(made.manifest.tensors) == 20
    assert outcome(made, Held(made.raw)) == (Verdict.WHOLE, "same")
    return made


def outcome(of: Specimen, file: Held) -> tuple[Verdict, str]:
    """What verify says of a file that the ledger knows, and what a reader of it gets."""
    verdict = verify(file, ours=True).verdict
    try:
        loaded = CheckpointFile(file, name=NAME).parts(list(of.parts))
    except Corrupt:
        return verdict, "corrupt"
    except Foreign:
        return verdict, "foreign"
    return verdict, "same" if difference(loaded, of.parts) is None else "other"


def require_noticed(of: Specimen, file: Held, what: str, allowed: tuple[str, ...] = ("corrupt",)) -> None:
    """Verify calls the file corrupt, and a reader raises or gets what was saved."""
    verdict, read = outcome(of, file)
    assert (verdict, read in allowed) == (Verdict.CORRUPT, True), f"{what}: {verdict}, reader: {read}"


def test_every_flipped_bit_outside_of_tensors_is_noticed(whole):
    """All of them (here 2,500): in headers, names, padding, pickle, manifest, directory and end records."""
    bits = [(at, bit) for at in whole.structure() for bit in range(8)]
    file = Held(whole.raw)
    for at, bit in scale.sample(bits, 2500):
        file.raw[at] ^= 1 << bit
        # A reader need not look at entries that it does not use, such as the opaque one.
        require_noticed(whole, file, f"bit {bit} of byte {at}", allowed=("corrupt", "same"))
        file.raw[at] ^= 1 << bit


def test_only_entries_that_are_not_loaded_can_be_damaged_and_still_load(whole):
    """Every byte outside of tensors (here 800) that a load gets past is opaque content, which it does not open."""
    (opaque,) = (e for e in whole.manifest.entries if e.name == "archive/.holdfast/opaque.pkl")
    loads = range(opaque.offset, opaque.offset + opaque.length)
    file = Held(whole.raw)
    for at in scale.sample(whole.structure(), 800):
        file.raw[at] ^= 0x10
        assert outcome(whole, file)[1] == ("same" if at in loads else "corrupt"), at
        file.raw[at] ^= 0x10


def test_a_flipped_bit_in_a_tensor_names_the_tensor_and_both_checksums(whole):
    """Five thousand bits (here 400) by chance: verify and reader say whose bytes they are, all names of them."""
    dice = random.Random(0)
    places = [(e, dice.randrange(e.length), dice.randrange(8)) for e in dice.choices(whole.data, k=5000)]
    file = Held(whole.raw)
    for entry, at, bit in scale.sample(places, 400):
        file.raw[entry.offset + at] ^= 1 << bit
        content = bytes(file.raw[entry.offset : entry.offset + entry.length])
        damaged = tuple(t.path for t in whole.manifest.tensors if f"archive/data/{t.storage}" == entry.name)
        says = f"tensor {', '.join(damaged)} has CRC-32 {zlib.crc32(content):08x}, not {entry.crc:08x}"
        finding = verify(file)
        assert finding.verdict is Verdict.CORRUPT
        assert finding.damaged == damaged
        assert says in finding.why
        with pytest.raises(Corrupt) as caught:
            CheckpointFile(file, name=NAME).part("model")
        assert says in str(caught.value)
        file.raw[entry.offset + at] ^= 1 << bit


def test_several_damaged_tensors_are_all_named(whole):
    """One error tells of all the damage that there is."""
    file = Held(whole.raw)
    for entry in whole.data[:3]:
        file.raw[entry.offset] ^= 1
    finding = verify(file)
    assert finding.damaged == ("model.layer0.weight", "model.layer1.weight", "model.layer2.weight")
    with pytest.raises(Corrupt) as caught:
        CheckpointFile(file, name=NAME).part("model")
    assert all(name in str(caught.value) for name in finding.damaged)
    assert finding.why in str(caught.value)


def test_a_file_cut_short_anywhere_is_noticed(whole):
    """Every length (here 1,500): a file that the ledger knows is corrupt, and is never loaded."""
    for length in scale.sample(range(len(whole.raw)), 1500):
        cut = Held(whole.raw[:length])
        require_noticed(whole, cut, f"{length} bytes", allowed=("corrupt", "foreign"))
        # What is left of our sign at the head tells even without the ledger.
        expected = Verdict.CORRUPT if length >= 64 else Verdict.FOREIGN
        assert verify(cut).verdict is expected or 30 < length < 64


def test_bytes_too_many_anywhere_are_noticed(whole):
    """Appended, put before, or inserted at every place (here 400)."""
    for extra in (b"\x00", b"PK\x05\x06", bytes(22), bytes(4096), whole.raw):
        require_noticed(whole, Held(whole.raw + extra), "appended")
        require_noticed(whole, Held(extra + whole.raw), "put before")
    for at in scale.sample(range(1, len(whole.raw)), 400):
        require_noticed(whole, Held(whole.raw[:at] + b"\x00" + whole.raw[at:]), f"inserted at {at}")
        require_noticed(whole, Held(whole.raw[: at - 1] + whole.raw[at:]), f"removed before {at}")


@pytest.mark.parametrize("size", [512, 4096])
def test_a_lost_write_is_noticed(whole, size):
    """Every sector and page that holds zeros, ones, or what another checkpoint of the same shape has there."""
    other = specimen(1).raw
    assert len(other) == len(whole.raw)
    for start in range(0, len(whole.raw), size):
        end = min(start + size, len(whole.raw))
        for piece in (bytes(end - start), b"\xff" * (end - start), other[start:end]):
            if piece != whole.raw[start:end]:
                file = Held(whole.raw[:start] + piece + whole.raw[end:])
                require_noticed(whole, file, f"bytes {start} to {end}", allowed=("corrupt", "same"))


def test_two_checkpoints_of_one_shape_mixed_are_noticed(whole):
    """The beginning of one and the end of another, cut at every place (here 400)."""
    other = specimen(1).raw
    for at in scale.sample(range(64, len(whole.raw)), 400):
        mixed = whole.raw[:at] + other[at:]
        if mixed not in (whole.raw, other):
            require_noticed(whole, Held(mixed), f"cut at {at}")


def test_bursts_and_scattered_damage_are_noticed(whole):
    """Twenty thousand kinds of damage by chance (here 800): a burst, a run of bytes, scattered bits, a moved piece."""
    dice = random.Random(1)
    for seed in range(20_000 if scale.whole else 800):
        raw = bytearray(whole.raw)
        at, length = dice.randrange(len(raw)), dice.randint(1, 64)
        if seed % 4 == 0:
            raw[at : at + 4] = dice.randbytes(len(raw[at : at + 4]))
        elif seed % 4 == 1:
            raw[at : at + length] = dice.randbytes(len(raw[at : at + length]))
        elif seed % 4 == 2:
            for _ in range(length):
                raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        else:
            piece = raw[at : at + length]
            there = dice.randrange(len(raw) - len(piece))
            raw[there : there + len(piece)] = piece
        if raw != whole.raw:
            require_noticed(whole, Held(bytes(raw)), f"damage {seed}", allowed=("corrupt", "same"))


def test_a_file_without_any_sign_of_ours_left_is_corrupt_where_the_ledger_knows_it(whole):
    """Without the ledger it is foreign; a reader loads it in neither case."""
    file = Held(bytes(len(whole.raw)))
    assert verify(file, ours=True).verdict is Verdict.CORRUPT
    assert verify(file).verdict is Verdict.FOREIGN
    with pytest.raises(Foreign):
        CheckpointFile(file, name=NAME)


def test_checkpoints_of_all_sizes_are_whole_until_they_are_touched():
    """From none to two hundred tensors: whole as written, corrupt after the flip of the middle bit."""
    for count in (0, 1, 2, 50, 200):
        raw = file_of({"model": {f"t{n}": torch.full((n % 7,), n) for n in range(count)}})
        file = Held(raw)
        assert verify(file).verdict is Verdict.WHOLE
        file.raw[len(raw) // 2] ^= 1
        assert verify(file).verdict is Verdict.CORRUPT
