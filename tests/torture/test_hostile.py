"""No file, however it is made, runs code, writes anything, takes memory out of proportion, or passes for a checkpoint.

Every file here that claims to be one of ours has right checksums and a right zip structure around its lie, so that
only the check that is meant can find it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import forging
from holdfast.catalog import layout
from holdfast.catalog.manifest import TensorInfo
from holdfast.engine.reader import CheckpointFile
from holdfast.store import MemoryStore

pytestmark = [
    pytest.mark.torture,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it"),
]

CANARY = "canary-was-here"
COMMAND = f"touch {CANARY}"
SIXTEEN = bytes(range(16))
WEIGHT = TensorInfo("model.weight", "float32", (4,), (1,), "0", 0)


@dataclass(frozen=True)
class Case:
    """A hostile file, and which words of ours are to be in what refuses it.

    Args:
        raw: The file.
        why: Words of the refusal.
        verdict: What verify says. It reads no pickle: one that lies in a file with right checksums is whole to it.
        size: Its length, where it is sparse and so longer than ``raw``, which stands at its end.
    """

    raw: bytes
    why: str
    verdict: str = "corrupt"
    size: int = 0


# Pickles, by hand


def atom(value: Any) -> bytes:
    """The opcodes of a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, function: str, *arguments: bytes) -> bytes:
    return name(module, function) + b"(" + b"".join(arguments) + b"tR"


def place(kind: bytes = b"ctorch\nFloatStorage\n", key: Any = "0", location: Any = "cpu", count: Any = 4) -> bytes:
    """A persistent id of a storage."""
    return b"(" + atom("storage") + kind + atom(key) + atom(location) + atom(count) + b"tQ"


def tensor(
    storage: bytes | None = None,
    offset: Any = 0,
    shape: Any = (4,),
    stride: Any = (1,),
    trainable: Any = False,
    hooks: bytes = b"ccollections\nOrderedDict\n)R",
) -> bytes:
    arguments = [atom(offset), atom(shape), atom(stride), atom(trainable), hooks]
    return call("torch._utils", "_rebuild_tensor_v2", place() if storage is None else storage, *arguments)


def rooted(value: bytes) -> bytes:
    """A pickle of ``{"state_dict": value}``."""
    return b"\x80\x02}" + atom("state_dict") + value + b"s."


SYSTEM = call("os", "system", atom(COMMAND))
EVIL = f"open({CANARY!r}, 'w').close()"

GADGETS = {
    "os.system": SYSTEM,
    "posix.system": call("posix", "system", atom(COMMAND)),
    "subprocess.call": call("subprocess", "call", atom(["touch", CANARY])),
    "eval": call("__builtin__", "eval", atom(EVIL)),
    "exec": call("builtins", "exec", atom(EVIL)),
    "compile": call("builtins", "compile", atom(EVIL), atom(""), atom("exec")),
    "getattr": call("__builtin__", "getattr", name("os", "path"), atom("os")),
    "import": call("__builtin__", "__import__", atom("this")),
    "a module that is not loaded": call("antigravity", "webbrowser"),
    "a dotted name": call("torch", "serialization.os.system", atom(COMMAND)),
    "a dotted name under an allowed one": call("torch._utils", "_rebuild_tensor_v2.__globals__", atom(COMMAND)),
    "a dotted name under an allowed type": call("collections", "OrderedDict.__init__.__globals__", atom(COMMAND)),
    "an allowed name of another module": call("os", "_rebuild_tensor_v2", atom(COMMAND)),
    "a name with a blank": call("torch device", "x", atom("cpu")),
    "a name with a blank that joins": b"ctorch._utils _rebuild_tensor_v2\n\n(tR",
    "a name without an end": b"c" + b"a" * 1000,
    "a name that is not ASCII": b"c\xff\xfe\nx\n",
    "torch.load": call("torch", "load", atom("/etc/passwd")),
    "torch.hub": call("torch.hub", "load", atom("x")),
    "_rebuild_parameter": call(
        "torch._utils", "_rebuild_parameter", tensor(), atom(True), b"ccollections\nOrderedDict\n)R"
    ),
    "_rebuild_from_type_v2": call("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), atom(COMMAND)),
    "_rebuild_wrapper_subclass": call("torch._utils", "_rebuild_wrapper_subclass", atom(1)),
    "numpy's reconstruct": call("numpy.core.multiarray", "_reconstruct", atom(1)),
    "functools.partial": call("functools", "partial", name("os", "system"), atom(COMMAND)),
    "operator.attrgetter": call("operator", "attrgetter", atom("system")),
    "copyreg": call("copy_reg", "_reconstructor", name("os", "system"), atom(None), atom(None)),
    "runpy": call("runpy", "_run_code", atom(EVIL), b"}"),
    "pickle in a pickle": call("pickle", "loads", atom(b"\x80\x02" + SYSTEM + b".")),
    "a stack global": atom("os") + atom("system") + b"\x93(" + atom(COMMAND) + b"tR",
    "an instance": b"(" + atom(COMMAND) + b"ios\nsystem\n",
    "an object": b"(" + name("os", "system") + atom(COMMAND) + b"o",
    "a new object": name("os", "system") + b"(" + atom(COMMAND) + b"t\x81",
    "a new object with keywords": name("os", "system") + b"(" + atom(COMMAND) + b"t}\x92",
    "extension 1": b"\x82\x01",
    "extension 2": b"\x83\x01\x00",
    "extension 4": b"\x84\x01\x00\x00\x00",
    "a buffer": b"\x97",
    "a call of a string": atom("os.system") + b"(" + atom(COMMAND) + b"tR",
    "a call of a name that only stands for a storage": call("torch", "FloatStorage", atom(4)),
    "a call with a list": name("torch", "Size") + b"]R",
    "state for a function": name("torch._utils", "_rebuild_tensor_v2") + b"}" + atom("__code__") + atom(1) + b"sb",
    "state with __setstate__": b"ccollections\nOrderedDict\n)R}" + atom("__setstate__") + name("torch", "Size") + b"sb",
    "state with __class__": b"ccollections\nOrderedDict\n)R}" + atom("__class__") + name("torch", "Size") + b"sb",
    "state with __dict__": b"ccollections\nOrderedDict\n)R}" + atom("__dict__") + b"}sb",
    "state with a method's name": b"ccollections\nOrderedDict\n)R}" + atom("items") + atom(1) + b"sb",
    "state in slots": b"ccollections\nOrderedDict\n)RN}" + atom("__class__") + atom(1) + b"s\x86b",
    "state for a tensor": tensor() + b"}" + atom("__class__") + atom(1) + b"sb",
    "state for a dictionary": b"}}" + atom("_metadata") + atom(1) + b"sb",
    "a codec that unpacks": call("_codecs", "encode", atom("x" * 1000), atom("zlib")),
    "a codec with code": call("_codecs", "encode", atom("x"), atom("idna")),
    "a decoder": call("_codecs", "decode", atom("x"), atom("unicode_escape")),
    "a persistent id in text": b"Pstorage\n",
}

NONSENSE = {
    "rebuilding with too little": call("torch._utils", "_rebuild_tensor_v2", place()),
    "rebuilding with too much": call("torch._utils", "_rebuild_tensor_v2", *[place()] * 9),
    "rebuilding on no storage": call("torch._utils", "_rebuild_tensor_v2", *[atom(1)] * 6),
    "rebuilding on a tensor": tensor(tensor()),
    "a persistent id of another kind": b"(" + atom("module") + b"NNNNtQ",
    "a persistent id of four": b"(" + atom("storage") + b"NNNtQ",
    "a persistent id that is text": atom("storage") + b"Q",
    "a persistent id that is a number": atom(5) + b"Q",
    "a storage of a type that is none": tensor(place(kind=name("collections", "OrderedDict"))),
    "a storage of a type that is text": tensor(place(kind=atom("FloatStorage"))),
    "a storage by number": tensor(place(key=0)),
    "a storage with a long name": tensor(place(key="0" * 100)),
    "a storage on a place by number": tensor(place(location=0)),
    "a name where a value should be": name("torch", "Size"),
    "a name in a list": b"]" + name("torch", "FloatStorage") + b"a",
    "a storage where a value should be": place(),
    "a storage in a tuple": place() + b"\x85",
    "a storage in metadata": b"ccollections\nOrderedDict\n)R}" + atom("_metadata") + place() + b"sb",
    "a mark where a value should be": b"(",
    "a list that contains itself": b"]q\x05h\x05a",
    "a dictionary that contains itself": b"}q\x05K\x01h\x05s",
    "a tuple that contains itself": b"]q\x05h\x05\x85a",
    "a list twice": b"](]q\x05h\x05e",
    "an ordered dictionary twice": b"](ccollections\nOrderedDict\n)Rq\x05h\x05e",
    "a tensor twice": b"](" + tensor() + b"q\x05h\x05e",
    "a storage twice": b"](" + place() + b"q\x05h\x05e",
    "laughs without end": b"]q\x00" + b"".join(b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(30)),
    "laughs of tuples": b")q\x00" + b"".join(b"(" + b"h%c" % n * 10 + b"tq%c" % (n + 1) for n in range(30)),
    "a memo that was never put": b"h\x07",
    "a key that is a list": b"}]K\x01s",
    "a key that is a dictionary": b"}}K\x01s",
    "a key that is a tensor": b"}" + tensor() + b"K\x01s",
    "a key that is a tuple of lists": b"}]\x85K\x01s",
    "a key that is a name": b"}" + name("torch", "Size") + b"K\x01s",
    "an odd number of keys and values": b"}(K\x01K\x02K\x03u",
    "items of a list": b"]K\x01K\x02s",
    "something appended to a dictionary": b"}K\x01a",
    "something appended to a number": b"K\x05K\x01a",
    "a set of lists": call("__builtin__", "set", b"](]e"),
    "a set of no list": call("__builtin__", "set", atom("abc")),
    "a counter of a list": call("collections", "Counter", b"]"),
    "an ordered dictionary of pairs": call("collections", "OrderedDict", b"]"),
    "a complex number of text": call("__builtin__", "complex", atom("1"), atom(1.0)),
    "a size of text": call("torch", "Size", atom(("a",))),
    "a size of huge numbers": call("torch", "Size", atom((2**100,))),
    "a device that is none": call("torch", "device", atom("nowhere")),
    "a device with a huge index": call("torch", "device", atom("cuda"), atom(10**12)),
    "a device with a negative index": call("torch", "device", atom("cuda"), atom(-3)),
    "bytes beyond latin-1": call("_codecs", "encode", atom("\u1234"), atom("latin1")),
    "metadata that is missing": b"ccollections\nOrderedDict\n)R}b",
    "text that is no UTF-8": b"X\x01\x00\x00\x00\xff",
    "text longer than the file": b"X\xff\xff\xff\xff",
    "long text longer than the file": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    "long bytes": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "a long number longer than the file": b"\x8b\xff\xff\xff\x7f",
    "a frame longer than the file": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    "a memo far out": b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff",
    "deep lists": b"]" * 200_000 + b"a" * 199_999,
    "deep tuples": b")" + b"\x85" * 200_000,
    "deep dictionaries": b"}K\x01" * 50_000 + b"N" + b"s" * 50_000,
    "deep metadata": b"ccollections\nOrderedDict\nq\x00)R"
    + b"}X\x09\x00\x00\x00_metadatah\x00)R" * 10_000
    + b"sb" * 10_000,
    "protocol 4": b"\x80\x04N",
    "protocol 0": b"I5\n",
    "text by quotes": b"S'\\x41'\n",
    "a number in many digits": b"L" + b"9" * 100_000 + b"L\n",
    "two values": b"NN",
    "a duplicate": b"]2",
    "a pop": b"NN0",
}

UNTYPED = name("torch.storage", "UntypedStorage")
FLOATS = name("torch", "float32")


def v3(dtype: bytes, storage: bytes | None = None, **more: Any) -> bytes:
    return (
        tensor(place(kind=UNTYPED) if storage is None else storage, **more)[:-2].replace(b"v2", b"v3") + dtype + b"tR"
    )


TENSORS = {
    "a shape past the end": tensor(shape=(5,)),
    "an offset past the end": tensor(offset=1),
    "a stride past the end": tensor(stride=(2,)),
    "a negative offset": tensor(offset=-1),
    "a negative size": tensor(shape=(-4,)),
    "a negative stride": tensor(offset=3, stride=(-1,)),
    "a huge shape": tensor(shape=(2**61,)),
    "a huge stride": tensor(stride=(2**61,)),
    "a huge offset": tensor(offset=2**61),
    "a shape beyond 64 bits": tensor(shape=(2**64,)),
    "a huge number of repeated elements": tensor(shape=(2**40, 2**40), stride=(0, 0)),
    "sizes that overflow to a small number": tensor(shape=(2**32, 2**32), stride=(0, 0)),
    "strides that overflow to a small number": tensor(shape=(2**31, 2**31), stride=(2**33, 2**33)),
    "more sizes than strides": tensor(shape=(2, 2)),
    "sixty-five dimensions": tensor(shape=(1,) * 65, stride=(1,) * 65),
    "a shape with a fraction": tensor(shape=(4.0,)),
    "a shape of true": tensor(shape=(True,)),
    "a shape of text": tensor(shape="4"),
    "a shape that is a number": tensor(shape=4),
    "an offset that is text": tensor(offset="0"),
    "a wish for a gradient that is a number": tensor(trainable=1),
    "a gradient for integers": tensor(place(kind=name("torch", "LongStorage")), shape=(2,), trainable=True),
    "another storage": tensor(place(key="1")),
    "a storage that climbs out": tensor(place(key="../data.pkl")),
    "the manifest for a storage": tensor(place(key="../.holdfast/manifest.json")),
    "a storage of no type": tensor(place(kind=UNTYPED)),
    "a data type that is text": v3(atom("float32")),
    "a data type that is quantised": v3(name("torch", "qint8"), shape=(16,)),
    "a data type of half a byte": v3(name("torch", "float4_e2m1fn_x2"), shape=(16,)),
    "a data type with a typed storage": v3(FLOATS, place()),
    "a tensor in metadata past the end": b"ccollections\nOrderedDict\n)R}"
    + atom("_metadata")
    + tensor(shape=(99,))
    + b"sb",
}


def lying(edit: forging.Edit, **more: Any) -> bytes:
    """A good checkpoint of one tensor whose manifest was edited."""
    return forging.forge(rooted(GOOD), [SIXTEEN], tensors=[WEIGHT], edit=edit, **more)


GOOD = b"}" + atom("weight") + tensor() + b"s" + atom("a large number") + atom(300) + b"s"
GOOD += atom("a huge number") + atom(1e300) + b"s"


def put(*path: Any) -> forging.Edit:
    """An edit: put the last item at the path before it."""
    *way, key, value = path

    def edit(data: Any) -> None:
        for step in way:
            data = data[step]
        data[key] = value

    return edit


def both(*edits: forging.Edit) -> forging.Edit:
    return lambda data: [edit(data) for edit in edits]


CLIMBING = {"archive/../../../escape": b"x"}
MANIFESTS = {
    "an offset that is off": (put("entries", 4, 1, 64), "places entries where they cannot be"),
    "an offset past the end": (put("entries", 4, 1, 2**40), "places entries where they cannot be"),
    "a length that is off": (put("entries", 4, 2, 17), "of its zip structure"),
    "a length that is far off": (put("entries", 4, 2, 16 + 64), "places entries where they cannot be"),
    "a length past the end": (put("entries", 4, 2, 2**40), "in a file of"),
    "lengths that add up to more than 64 bits": (
        lambda d: (
            [e.__setitem__(2, 2**63 - 1) for e in d["entries"][4:]]
            + [d["entries"].extend([f"archive/data/{n}", 0, 2**63 - 1, "00000000"] for n in range(1, 9))]
        ),
        "in a file of",
    ),
    "another CRC-32 for a storage": (put("entries", 4, 3, "00000000"), "of its zip structure"),
    "another CRC-32 for the pickle": (put("entries", 1, 3, "00000000"), "of its zip structure"),
    "an entry that is the manifest": (put("entries", 4, 0, layout.MANIFEST_ENTRY), "other entries than a checkpoint"),
    "an entry twice": (put("entries", 4, 0, layout.PICKLE_ENTRY), "an entry twice"),
    "no pickle": (lambda d: d["entries"].pop(1), "other entries than a checkpoint"),
    "no entries": (put("entries", []), "other entries than a checkpoint"),
    "a name of a megabyte": (put("entries", 4, 0, "archive/data/" + "0" * 10**6), "other entries than a checkpoint"),
    "a name that cannot be encoded": (put("entries", 4, 0, "archive/data/\ud800"), "other entries than a checkpoint"),
    "a tensor in a storage that climbs out": (put("tensors", 0, 4, "../../../etc/passwd"), "not listed"),
    "a tensor past the end": (put("tensors", 0, 2, [5]), "past the end of its storage"),
    "a tensor that is not held": (lambda d: d["tensors"].append(d["tensors"][0]), "other tensors than it holds"),
    "a tensor that is not listed": (put("tensors", []), "other tensors than it holds"),
    "a tensor of another type": (put("tensors", 0, 1, "int32"), "other tensors than it holds"),
    "a tensor of another shape": (both(put("tensors", 0, 2, [2, 2]), put("tensors", 0, 3, [2, 1])), "other tensors"),
    "a part where there is none": (put("parts", "model", ["nowhere"]), "where there is none"),
    "a part inside a tensor": (put("parts", "model", ["state_dict", "weight", 0]), "where there is none"),
    "a thousand parts at one place": (
        lambda d: d["parts"].update({f"p{n}": ["state_dict"] for n in range(1000)}),
        "inside",
    ),
    "parts inside parts": (lambda d: d["parts"].update(all=[]), "one part inside another"),
    "a type that does not fit": (put("types", "state_dict.weight", "datetime.datetime"), "does not fit its type"),
    "a type that makes arrays": (put("types", "state_dict.weight", "numpy.int8"), "does not fit its type"),
    "a type that overflows": (put("types", "state_dict.'a large number'", "numpy.int8"), "does not fit its type"),
    "a type that ends in the year 10^292": (
        put("types", "state_dict.'a huge number'", "datetime.timedelta"),
        "does not fit its type",
    ),
    "a type with keywords": (put("types", "state_dict", "pathlib.Path"), "does not fit its type"),
    "opaque values in no entry": (put("opaque", ["model.thing"]), "other entries than a checkpoint"),
    "an id that climbs out": (put("id", "../" * 10 + "aa"), "32 hex digits"),
    "a run that climbs out": (put("run", "id", "../../escape"), "32 hex digits"),
    "a later format": (put("format", 2), "format 2 is not 1"),
    "depth": (lambda d: d.update(later=json.loads("[" * 500 + "]" * 500)), ""),
}
# What the file's bytes alone cannot tell: the pickle is needed to see it, and verify opens none.
ONLY_READ = ("that is not held", "that is not listed", "of another", "a part ", "a type ")


def end_of(raw: bytes, **changes: int) -> bytes:
    """A file with fields of its end record changed."""
    fields = dict(zip(("sign", "disk", "first", "here", "count", "length", "offset", "comment"),
                      struct.unpack("<IHHHHIIH", raw[-22:]), strict=True))  # fmt: skip
    return raw[:-22] + struct.pack("<IHHHHIIH", *{**fields, **changes}.values())


def foreign_zip(*names: str, data: bytes = b"x", compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry in names:
            archive.writestr(zipfile.ZipInfo(entry), data, compression)
    return file.getvalue()


def with_zip64_end(raw: bytes, directory: int) -> bytes:
    """A file whose zip64 end record tells another place for the directory."""
    end64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 6, 6, 100, directory)
    locator = struct.pack("<IIQI", 0x07064B50, 0, len(raw) - 22, 1)
    return end_of(raw[:-22] + end64 + locator + raw[-22:], offset=0xFFFFFFFF)


def zips() -> dict[str, Case]:
    good = forging.forge(rooted(GOOD), [SIXTEEN], tensors=[WEIGHT])
    directory = struct.unpack("<I", good[-6:-2])[0]
    padding = next(s.offset for s in layout.compute([(layout.FORMAT_ENTRY, 11)]).slots)
    central = good[directory:-22]
    foreign = {"verdict": "foreign", "why": "not written by Holdfast"}
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = foreign_zip("archive/data.pkl", "archive/data.pkl")
    overlapping = foreign_zip("archive/data.pkl", "archive/data/0")
    at = overlapping.rindex(b"PK\x01\x02")
    overlapping = overlapping[: at + 42] + bytes(4) + overlapping[at + 46 :]
    claim = end_of(good, offset=301 * 2**20)
    manifest_length = central.rindex(layout.MANIFEST_ENTRY.encode()) - 46 + 20
    huge = bytearray(claim)
    for field in (0, 4):
        struct.pack_into("<I", huge, directory + manifest_length + field, 300 * 2**20)
    return {
        "names that climb out": Case(foreign_zip("../../escape", "archive/data.pkl"), **foreign),
        "absolute names": Case(foreign_zip("/tmp/escape", "archive/data.pkl"), **foreign),
        "names of Windows": Case(foreign_zip("C:\\escape", "..\\escape"), **foreign),
        "duplicate entries": Case(twice, **foreign),
        "overlapping entries": Case(overlapping, **foreign),
        "a compressed bomb": Case(foreign_zip("archive/data.pkl", data=bytes(50 * 2**20), compression=8), **foreign),
        "a stock file with a gadget": Case(foreign_zip("archive/data.pkl", data=rooted(SYSTEM)), **foreign),
        "a bare pickle with a gadget": Case(rooted(SYSTEM), **foreign),
        "our sign in a foreign zip": Case(foreign_zip("archive/.holdfast/format", "archive/data.pkl"), "not that of"),
        "our manifest in a foreign zip": Case(
            foreign_zip("archive/data.pkl", layout.MANIFEST_ENTRY, data=b"{}"), "format None is not 1"
        ),
        "an entry that climbs out": Case(forging.forge(rooted(GOOD), [SIXTEEN], extra=CLIMBING), "other entries"),
        "an absolute entry": Case(forging.forge(rooted(GOOD), [SIXTEEN], extra={"/tmp/escape": b"x"}), "other entries"),
        "bytes before": Case(b"MZ" + bytes(62) + good, ""),
        "bytes after": Case(good + bytes(10), "its end is not"),
        "a comment": Case(end_of(good, comment=5) + b"hello", "its end is not"),
        "a comment that is our end": Case(end_of(good, comment=len(good)) + good, ""),
        "an end twice": Case(good + good[-22:], "its end is not"),
        "a count that lies": Case(end_of(good, count=1, here=1), "of its zip structure"),
        "a directory's length that lies": Case(end_of(good, length=7), "of its zip structure"),
        "a directory's offset that lies": Case(end_of(good, offset=directory - 1), "CRC-32"),
        "a directory past the end": Case(end_of(good, offset=2**31), "its end is not"),
        "another volume": Case(end_of(good, disk=1), "of its zip structure"),
        "a directory after another": Case(end_of(good[:-22] + central + good[-22:], offset=directory), ""),
        "a zip64 end that nobody needs": Case(with_zip64_end(good, directory), ""),
        "a zip64 end that points elsewhere": Case(with_zip64_end(good, 64), ""),
        "a zip64 end that points past the end": Case(with_zip64_end(good, 2**63 - 1), "its end is not"),
        "a zip64 end of all ones": Case(with_zip64_end(good, 2**64 - 1), "its end is not"),
        "the sign of a zip64 end alone": Case(end_of(good, offset=0xFFFFFFFF), "its end is not"),
        "another byte order": Case(good.replace(b"little", b"bigger"), "byteorder"),
        "a local header that lies": Case(
            good.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x08", 1), "zip structure"
        ),
        "padding that hides something": Case(good[: padding - 4] + b"code" + good[padding:], "of its zip structure"),
        "a manifest of 300 MB": Case(bytes(huge[directory:]), "more than 268,435,456", size=302 * 2**20),
        "an end and nothing else": Case(good[-22:], "", verdict="foreign"),
        "a directory and nothing else": Case(central + end_of(good, offset=0)[-22:], "its end is not"),
        "a manifest of four megabytes of lists": Case(
            lying(lambda d: d.update(later=[[]] * 10**6), extra=CLIMBING), "other entries"
        ),
    }


def cases() -> dict[str, Case]:
    """Every hostile file by its name."""
    made = {f"gadget: {k}": Case(forging.forge(rooted(v)), "the pickle", "whole") for k, v in GADGETS.items()}
    made |= {f"nonsense: {k}": Case(forging.forge(rooted(v)), "the pickle", "whole") for k, v in NONSENSE.items()}
    for title, value in TENSORS.items():
        raw = forging.forge(rooted(b"}" + atom("weight") + value + b"s"), [SIXTEEN], tensors=[WEIGHT])
        made[f"tensor: {title}"] = Case(raw, "tensor", "whole")
    for title, (edit, why) in MANIFESTS.items():
        only_read = any(words in title for words in ONLY_READ)
        made[f"manifest: {title}"] = Case(lying(edit), why, "whole" if only_read else "corrupt")
    return made | {f"zip: {k}": v for k, v in zips().items()}


# Files that are odd, but no lie: they load, and run nothing all the same.
HARMLESS = {
    "harmless": forging.forge(rooted(GOOD), [SIXTEEN], tensors=[WEIGHT]),
    "opaque gadget": forging.forge(rooted(b"N"), opaque=b"\x80\x02" + SYSTEM + b"."),
    "long memo": forging.forge(rooted(b"Nr\xff\xff\xff\xff")),
    "a million empties": forging.forge(rooted(b"](" + b"}" * 1_000_000 + b"e")),
    "repeated elements": forging.forge(
        rooted(b"}" + atom("weight") + tensor(shape=(2**40,), stride=(0,)) + b"s"),
        [SIXTEEN],
        tensors=[WEIGHT._replace(shape=(2**40,), stride=(0,))],
    ),
    "unknown types": lying(put("types", "state_dict.weight", "os.system")),
    "unknown keys": lying(lambda d: d.update(later=[[]] * 100_000)),
    "depth": lying(MANIFESTS.pop("depth")[0]),
}
CASES = cases()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What one child told of all files, and what it left behind."""
    base = tmp_path_factory.mktemp("hostile")
    folder, here = base / "files", base / "here"
    folder.mkdir()
    here.mkdir()
    for title, case in CASES.items():
        with (folder / f"{numbered(title)}.ckpt").open("wb") as file:
            if case.size:
                file.truncate(case.size)
                file.seek(case.size - len(case.raw))
            file.write(case.raw)
    for title, raw in HARMLESS.items():
        (folder / f"{title}.ckpt").write_bytes(raw)
    before = sorted(str(p) for p in base.rglob("*"))
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    child = Path(__file__).with_name("hostile_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(folder)],
        cwd=here,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    sizes = {p.stem: p.stat().st_size for p in folder.iterdir()}
    after = sorted(str(p) for p in base.rglob("*"))
    return {line["name"].removesuffix(".ckpt"): line for line in lines}, sizes, before, after


def numbered(title: str) -> str:
    return f"{list(CASES).index(title):03}"


def test_there_are_many_hostile_files():
    """Far more than thirty, of every kind."""
    assert len(CASES) > 150
    assert {title.split(":")[0] for title in CASES} == {"gadget", "nonsense", "tensor", "manifest", "zip"}


@pytest.mark.parametrize("title", CASES)
def test_a_hostile_file_is_refused(told, title):
    """By the check that is meant, with an error of ours; and nothing was run, nor memory taken without measure."""
    lines, sizes, _, _ = told
    line, case = lines[numbered(title)], CASES[title]
    assert line["read"] == ("Foreign" if case.verdict == "foreign" else "Corrupt"), line
    assert line["verdict"] == case.verdict, line
    assert case.why in line["why"], line
    if title.startswith("tensor"):
        assert "lists other tensors" not in line["why"], "the tensor itself is refused, before it is compared"
    assert line["ran"] == []
    assert line["grown"] < 64 * 2**20 + 100 * sizes[numbered(title)], line


@pytest.mark.parametrize("title", HARMLESS)
def test_an_odd_file_is_loaded_without_running_anything(told, title):
    """Gadgets that the safe load does not open, and values that only look large, do no harm."""
    lines, sizes, _, _ = told
    line = lines[title]
    assert (line["verdict"], line["read"], line["ran"]) == ("whole", "loaded", [])
    assert line["grown"] < 64 * 2**20 + 100 * sizes[title]


def test_nothing_was_written_and_no_canary_was_seen(told):
    """The folder, the child's own folder and what is around them hold what they held."""
    _, _, before, after = told
    assert before == after
    assert not any(CANARY in name for name in after)


def test_the_canary_sings_where_code_is_run(tmp_path, monkeypatch):
    """The gadget is a real one: opened by the loader that trusts, it runs."""
    monkeypatch.chdir(tmp_path)
    store = MemoryStore()
    store.put("a.ckpt", HARMLESS["opaque gadget"])
    with store.open("a.ckpt") as reader:
        file = CheckpointFile(reader, name="a.ckpt")
        assert file.part("model") is None
        assert not (tmp_path / CANARY).exists()
        with pytest.raises(AttributeError):  # what it makes is no dictionary
            file.opaque()
    assert (tmp_path / CANARY).exists()
