"""A manifest comes back as it was written, and nothing that contradicts itself passes for one."""

from __future__ import annotations

import json
import math
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forging
from holdfast.catalog import layout
from holdfast.catalog import manifest as manifests
from holdfast.catalog.manifest import (
    ITEM_BYTES,
    EntryInfo,
    Manifest,
    ManifestError,
    RunRef,
    TensorInfo,
    number,
    real,
)
from holdfast.policy.values import Progress, Score, Tally

IDS = st.from_regex("[0-9a-f]{32}", fullmatch=True)
COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(max_size=20)
VALUES = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
PROGRESS = st.builds(Progress, COUNTS, COUNTS, st.booleans(), COUNTS, COUNTS, COUNTS)


@st.composite
def tensor_tables(draw):
    """Tensors of every data type, each inside one of the storages, and the storages' lengths."""
    lengths = draw(st.lists(st.integers(0, 2**50), max_size=4))
    tensors = []
    for key, length in enumerate(lengths):
        for _ in range(draw(st.integers(0, 2))):
            dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
            elements = length // ITEM_BYTES[dtype]
            offset = draw(st.integers(0, elements))
            shape = (draw(st.integers(0, elements - offset)), draw(st.sampled_from([0, 1])))
            tensors.append(TensorInfo(draw(TEXTS), dtype, shape, (1, draw(COUNTS)), str(key), offset))
    return lengths, tuple(tensors)


@st.composite
def whole_manifests(draw):
    """Manifests as a save writes them, with every field at work."""
    lengths, tensors = draw(tensor_tables())
    opaque = tuple(draw(st.lists(TEXTS, max_size=2)))
    sizes = [
        (layout.FORMAT_ENTRY, 11),
        (layout.PICKLE_ENTRY, draw(st.integers(0, 2**20))),
        (layout.PREFIX + "byteorder", 6),
        (layout.PREFIX + "version", 2),
        *((f"{layout.PREFIX}data/{key}", length) for key, length in enumerate(lengths)),
        *([(layout.OPAQUE_ENTRY, 100)] if opaque else []),
    ]
    crcs = {name: zlib.crc32(content) for name, content in layout.FIXED.items()}
    names = draw(st.lists(TEXTS, max_size=4, unique=True))
    return Manifest(
        id=draw(IDS),
        run=RunRef(draw(IDS), draw(st.none() | IDS), draw(COUNTS), draw(COUNTS)),
        sequence=draw(COUNTS),
        progress=draw(PROGRESS),
        metrics=draw(st.dictionaries(TEXTS, st.builds(Score, VALUES, COUNTS), max_size=3)),
        parts={name: ("parts", i) for i, name in enumerate(names)},
        what=draw(TEXTS),
        policies=tuple(draw(st.lists(TEXTS, max_size=2))),
        reason=draw(TEXTS),
        label=draw(st.none() | TEXTS),
        tallies=draw(st.dictionaries(TEXTS, st.builds(Tally, PROGRESS, st.none() | TEXTS), max_size=2)),
        saved_at=draw(st.floats(0, 1e11)),
        tensors=tensors,
        entries=tuple(
            EntryInfo(s.name, s.offset, s.length, crcs.get(s.name, draw(st.integers(0, 2**32 - 1))))
            for s in layout.compute(sizes).slots
        ),
        opaque=opaque,
        groups={name: ((name, "a"), ()) for name in names[:1]},
        types=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        versions=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
    )


def plain(of: Manifest) -> str:
    """Equal for two manifests that are the same, NaN included, which is not even equal to itself."""
    return repr([sorted(v.items()) if isinstance(v, dict) else v for v in vars(of).values()])


@given(whole_manifests())
def test_a_manifest_comes_back_as_it_was_written(whole):
    """Every field of every manifest survives, numbers that JSON lacks included."""
    raw = whole.to_bytes()
    again = Manifest.from_bytes(raw)
    assert plain(again) == plain(whole)
    assert again.to_bytes() == raw


@given(whole_manifests())
def test_the_bytes_are_strict_json_of_a_length_that_no_checksum_changes(whole):
    """Any JSON reader takes them, and filling in the CRC-32s moves nothing."""
    raw = whole.to_bytes()
    json.loads(raw, parse_constant=pytest.fail)
    blank = replace(whole, entries=tuple(e._replace(crc=0) for e in whole.entries))
    assert len(blank.to_bytes()) == len(raw)
    assert raw == json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode()


def test_keys_that_are_not_known_are_passed_over():
    """A manifest of a later version that adds a key is read."""
    contents = forging.contents_of(forging.EMPTY)
    raw = forging.edited(forging.manifest_of(contents), lambda data: data.update(later={"a": [1]}))
    assert Manifest.from_bytes(raw).id == forging.manifest_of(contents).id


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, -0.0, 3, 2**70])
def test_every_number_survives_json(value):
    """NaN and the infinities become words, an int stays an int."""
    again = real(json.loads(json.dumps(number(value), allow_nan=False)))
    assert (repr(again), type(again)) == (repr(value), type(value))


def test_scores_are_those_of_the_own_step():
    """A metric that was measured at an earlier step is no score of this one."""
    m = replace(forging.manifest_of({}), metrics={"now": Score(1.0, 1), "then": Score(2.0, 0)})
    assert m.scores() == {"now": 1.0}


def set_in(*path):
    """An edit: put the last item at the path before it."""
    *way, key, value = path

    def edit(data):
        for step in way:
            data = data[step]
        data[key] = value

    return edit


def without(key):
    return lambda data: data.pop(key)


LONG = "9" * 5000
KEYS = "format id run sequence progress metrics parts what policies reason label tallies saved_at tensors entries"
LIES = {
    **{f"no {key}": without(key) for key in (*KEYS.split(), "opaque", "groups", "types", "versions")},
    **{f"{key} is null": set_in(key, None) for key in KEYS.split() if key != "label"},
    **{f"{key} is a number": set_in(key, 7) for key in KEYS.split() if key not in ("sequence", "saved_at")},
    "a later format": set_in("format", 2),
    "a format of true": set_in("format", True),
    "a format of 1.0": set_in("format", 1.0),
    "an id that climbs out": set_in("id", "../../../../../../../etc/passwd0"),
    "an id in capitals": set_in("id", "A" * 32),
    "a run's id with a slash": set_in("run", "id", "a/b"),
    "a run's id that is short": set_in("run", "id", "ab"),
    "a run's parent that is a path": set_in("run", "parent", "../last.ckpt"),
    "a run without an attempt": lambda data: data["run"].pop("attempt"),
    "an attempt of true": set_in("run", "attempt", True),
    "an ordinal in quotes": set_in("run", "ordinal", "1"),
    "a negative ordinal": set_in("run", "ordinal", -1),
    "a negative sequence": set_in("sequence", -1),
    "a sequence with a fraction": set_in("sequence", 1.0),
    "a sequence of 2^63": set_in("sequence", 2**63),
    "a progress in quotes": set_in("progress", "steps", "7"),
    "a negative progress": set_in("progress", "epoch", -1),
    "a progress with a fraction": set_in("progress", "batch", 1.5),
    "a huge progress": set_in("progress", "steps", 10**100),
    "a progress half complete": set_in("progress", "complete", "yes"),
    "a progress complete by number": set_in("progress", "complete", 1),
    "a progress that is a list": set_in("progress", []),
    "a metric without a step": set_in("metrics", "loss", [1.0]),
    "a metric that is text": set_in("metrics", "loss", ["low", 1]),
    "a metric that is true": set_in("metrics", "loss", [True, 1]),
    "a metric at a negative step": set_in("metrics", "loss", [1.0, -1]),
    "a metric beyond all floats": set_in("metrics", "loss", [10**400, 1]),
    "a part at a negative index": set_in("parts", "model", ["optimizer_states", -1]),
    "a part at true": set_in("parts", "model", ["a", True]),
    "a part's place as text": set_in("parts", "model", "state_dict"),
    "a part nowhere": set_in("parts", "model", None),
    "two parts at one place": set_in("parts", "again", ["state_dict"]),
    "one part inside another": set_in("parts", "inner", ["state_dict", "weight"]),
    "a part that is the whole": set_in("parts", "all", []),
    "a what that is a list": set_in("what", ["full"]),
    "policies as text": set_in("policies", "rules"),
    "a policy that is a number": set_in("policies", [1]),
    "a label that is true": set_in("label", True),
    "a tally without a field": set_in("tallies", "rules", {"fired": {}}),
    "a tally armed by a number": set_in("tallies", "rules", {"fired": {}, "armed": 1}),
    "a tally that fired in quotes": set_in("tallies", "rules", {"fired": {"steps": "1"}, "armed": None}),
    "saved never": set_in("saved_at", "nan"),
    "saved before time": set_in("saved_at", -1),
    "saved in the year ten thousand": set_in("saved_at", 1e15),
    "tensors as an object": set_in("tensors", {}),
    "a tensor of five fields": lambda data: data["tensors"][0].pop(),
    "a tensor of an unknown type": set_in("tensors", 0, 1, "float31"),
    "a tensor of a type that is a number": set_in("tensors", 0, 1, 4),
    "a tensor of a quantised type": set_in("tensors", 0, 1, "qint8"),
    "a tensor of a negative size": set_in("tensors", 0, 2, [-4]),
    "a tensor of a huge size": set_in("tensors", 0, 2, [2**62]),
    "a tensor of a size beyond int64": set_in("tensors", 0, 2, [2**63]),
    "a tensor of a size in quotes": set_in("tensors", 0, 2, "4"),
    "a tensor of size true": set_in("tensors", 0, 2, [True]),
    "a tensor with a shape of text": set_in("tensors", 0, 2, ""),
    "a tensor with more strides than sizes": set_in("tensors", 0, 3, [1, 1]),
    "a tensor with a negative stride": set_in("tensors", 0, 3, [-1]),
    "a tensor with a long stride": set_in("tensors", 0, 3, [2]),
    "a tensor with a huge stride": set_in("tensors", 0, 3, [2**62]),
    "a tensor of 65 dimensions": lambda data: data["tensors"][0].__setitem__(slice(2, 4), [[1] * 65, [1] * 65]),
    "a tensor in no storage": set_in("tensors", 0, 4, "7"),
    "a tensor in a storage by number": set_in("tensors", 0, 4, 0),
    "a tensor in the manifest": set_in("tensors", 0, 4, "../.holdfast/manifest.json"),
    "a tensor in data.pkl": set_in("tensors", 0, 4, "../data.pkl"),
    "a tensor that begins too late": set_in("tensors", 0, 5, 1),
    "a tensor that begins before": set_in("tensors", 0, 5, -1),
    "an entry twice": lambda data: data["entries"].append(data["entries"][-1]),
    "no entry": set_in("entries", []),
    "an entry of three fields": lambda data: data["entries"][0].pop(),
    "an entry with a negative length": set_in("entries", 4, 2, -16),
    "an entry at a negative offset": set_in("entries", 4, 1, -1),
    "an entry with a huge length": set_in("entries", 4, 2, 2**64),
    "an entry with a length in quotes": set_in("entries", 4, 2, "16"),
    "an entry whose CRC-32 is a number": set_in("entries", 4, 3, 0),
    "an entry whose CRC-32 is signed": set_in("entries", 4, 3, "-0000001"),
    "an entry whose CRC-32 is in capitals": set_in("entries", 4, 3, "ABCDEF01"),
    "an entry whose CRC-32 is spaced": set_in("entries", 4, 3, " 1234567"),
    "an entry whose CRC-32 is of 64 bits": set_in("entries", 4, 3, "0" * 16),
    "an entry that climbs out": set_in("entries", 4, 0, "archive/../../escape"),
    "an entry with an absolute name": set_in("entries", 4, 0, "/etc/passwd"),
    "an entry that is the manifest": set_in("entries", 4, 0, layout.MANIFEST_ENTRY),
    "an entry that no checkpoint has": set_in("entries", 4, 0, "archive/extra"),
    "an entry with a surrogate for a name": set_in("entries", 4, 0, "archive/\ud800"),
    "an entry with a long name": set_in("entries", 4, 0, "archive/" + "x" * 70_000),
    "a storage left out": set_in("entries", 4, 0, "archive/data/1"),
    "entries in another order": lambda data: data["entries"].insert(0, data["entries"].pop(1)),
    "another byte order": set_in("entries", 2, 3, f"{zlib.crc32(b'bigger'):08x}"),
    "another sign of format": set_in("entries", 0, 3, "00000000"),
    "opaque values in no entry": set_in("opaque", ["model.thing"]),
    "opaque as text": set_in("opaque", "model.thing"),
    "groups of numbers": set_in("groups", "optimizer", [[1]]),
    "groups as text": set_in("groups", "optimizer", ["weight"]),
    "a type that is a list": set_in("types", "model.x", ["int"]),
    "a version that is a number": set_in("versions", "torch", 2),
}


def truth() -> Manifest:
    """A manifest that is right: one tensor of four floats."""
    contents = forging.contents_of(forging.EMPTY, [b"\x00" * 16])
    return forging.manifest_of(contents, [TensorInfo("model.weight", "float32", (4,), (1,), "0", 0)])


def test_the_manifest_that_the_lies_are_made_of_is_accepted():
    """What the next tests refuse, they refuse for the lie alone."""
    assert Manifest.from_bytes(forging.edited(truth(), lambda data: None)) == truth()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_is_refused(lie):
    """One field that is missing, of another kind or in contradiction to the others is a ManifestError."""
    raw = forging.edited(truth(), lie)
    with pytest.raises(ManifestError):
        Manifest.from_bytes(raw)


TRUE = truth().to_bytes()
SEQUENCE = b'"sequence":1'
NOT_JSON = {
    "nothing": b"",
    "not UTF-8": TRUE.replace(b"every 100", b"\xff\xfe 100"),
    "UTF-16": TRUE.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + TRUE,
    "cut short": TRUE[:-1],
    "two objects": TRUE + TRUE,
    "a list": b"[" + TRUE + b"]",
    "a number": b"1",
    "a key twice": TRUE.replace(SEQUENCE, SEQUENCE + b"," + SEQUENCE),
    "a key twice, deeper": TRUE.replace(b'"ordinal":1', b'"ordinal":1,"ordinal":1'),
    "NaN": TRUE.replace(SEQUENCE, b'"sequence":NaN'),
    "NaN where it is not looked for": TRUE.replace(SEQUENCE, SEQUENCE + b',"later":NaN'),
    "Infinity": TRUE.replace(b'"saved_at":1700000000.0', b'"saved_at":Infinity'),
    "-Infinity": TRUE.replace(b'"saved_at":1700000000.0', b'"saved_at":-Infinity'),
    "an infinity in digits": TRUE.replace(b'"saved_at":1700000000.0', b'"saved_at":1e999'),
    "a metric that is infinite in digits": TRUE.replace(b'"metrics":{', b'"metrics":{"a":[1e999,1]'),
    "a number of 5,000 digits": TRUE.replace(SEQUENCE, b'"sequence":' + LONG.encode()),
    "deep lists": TRUE.replace(SEQUENCE, b'"sequence":' + b"[" * 100_000),
    "deep objects": TRUE.replace(SEQUENCE, b'"sequence":' + b'{"a":' * 100_000),
    "deep lists that end": TRUE.replace(SEQUENCE, SEQUENCE + b',"later":' + b"[" * 100_000 + b"]" * 100_000),
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_one_strict_json_object_is_refused(raw):
    """Neither sloppy JSON nor any trick with it gets past."""
    assert raw != TRUE
    with pytest.raises(ManifestError):
        Manifest.from_bytes(raw)


def test_more_than_256_mib_is_refused_before_it_is_parsed(monkeypatch):
    """A manifest may have as many bytes as the format says, and not one more."""
    assert manifests.MAX_BYTES == 256 * 2**20
    monkeypatch.setattr(manifests, "MAX_BYTES", len(TRUE))
    assert Manifest.from_bytes(TRUE) == truth()
    with pytest.raises(ManifestError, match="more than a manifest may have"):
        Manifest.from_bytes(TRUE + b" ")


@given(st.data())
def test_no_bytes_at_all_make_it_fail_otherwise(data):
    """Of a manifest with bytes changed at random, the answer is a manifest or a ManifestError."""
    raw = bytearray(TRUE)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(ManifestError):
        assert isinstance(Manifest.from_bytes(bytes(raw)), Manifest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_no_value_of_any_kind_in_any_field_makes_it_fail_otherwise(data):
    """Of a manifest with any JSON in the place of any value, the answer is a manifest or a ManifestError."""
    document = json.loads(TRUE)
    here = document
    while True:
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if not here[key] or not isinstance(here[key], (dict, list)) or data.draw(st.booleans()):
            break
        here = here[key]
    here[key] = data.draw(JSON)
    with suppress(ManifestError):
        assert isinstance(Manifest.from_bytes(json.dumps(document).encode()), Manifest)
