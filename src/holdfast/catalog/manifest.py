"""The manifest: what the bytes of one checkpoint are. Immutable, inside the file, JSON; no torch, no I/O."""

from __future__ import annotations

import json
import math
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holdfast.catalog import layout
from holdfast.policy.values import Progress, Score, Tally

FORMAT = 1
MAX_BYTES = 256 * 2**20
_YEAR_9999 = 253_370_764_800  # the last that a calendar can show

ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2,
    "uint32": 4, "int32": 4, "float32": 4, "complex32": 4, "uint64": 8, "int64": 8, "float64": 8,
    "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes of one element by the name of its data type."""


class ManifestError(ValueError):
    """A manifest that is not one of ours, or does not agree with itself. The sentence says where."""


class EntryInfo(NamedTuple):
    """One entry: full name, offset of its content, length in bytes, CRC-32."""

    name: str
    offset: int
    length: int
    crc: int


class TensorInfo(NamedTuple):
    """One tensor: dotted path, data type by name, shape, stride, key of its storage, offset in elements."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: str
    offset: int

    @property
    def extent(self) -> int:
        """Bytes of the storage up to the tensor's last element."""
        if 0 in self.shape:
            return 0
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return (last + 1) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class RunRef:
    """The run of a checkpoint: id, the checkpoint it began from, place among its folder's runs, attempt."""

    id: str
    parent: str | None = None
    ordinal: int = 1
    attempt: int = 1


@dataclass(frozen=True)
class Manifest:
    """What the bytes of a checkpoint are; docs/format.md, "The manifest", says each field."""

    id: str
    run: RunRef
    sequence: int
    progress: Progress
    metrics: Mapping[str, Score] = field(default_factory=dict)
    parts: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    what: str = "full"
    policies: tuple[str, ...] = ()
    reason: str = ""
    label: str | None = None
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    saved_at: float = 0.0
    tensors: tuple[TensorInfo, ...] = ()
    entries: tuple[EntryInfo, ...] = ()
    opaque: tuple[str, ...] = ()
    groups: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    healthy: bool = True

    def to_bytes(self) -> bytes:
        """The JSON of the manifest. Its length does not depend on the CRC-32s."""
        data = {
            "format": FORMAT,
            "id": self.id,
            "run": vars(self.run),
            "sequence": self.sequence,
            "progress": self.progress.to_json(),
            "metrics": {name: [number(s.value), s.step] for name, s in self.metrics.items()},
            "parts": {name: list(path) for name, path in self.parts.items()},
            "what": self.what,
            "policies": list(self.policies),
            "reason": self.reason,
            "label": self.label,
            "tallies": {name: {"fired": t.fired.to_json(), "armed": t.armed} for name, t in self.tallies.items()},
            "saved_at": self.saved_at,
            "tensors": [list(t) for t in self.tensors],
            "entries": [[e.name, e.offset, e.length, f"{e.crc:08x}"] for e in self.entries],
            "opaque": list(self.opaque),
            "groups": {name: [list(g) for g in groups] for name, groups in self.groups.items()},
            "types": dict(self.types),
            "versions": dict(self.versions),
            "healthy": self.healthy,
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Read and check a manifest.

        Raises:
            ManifestError: It is not JSON of this schema, of a later format, or contradicts itself.
        """
        data = parse(raw)
        known = data.get("format")
        if type(known) is not int or known != FORMAT:
            raise ManifestError(f"format {known!r:.80} is not {FORMAT}, the one this version reads")
        try:
            manifest = cls(
                id=_id(data["id"]),
                run=run_ref(data["run"]),
                sequence=count(data["sequence"]),
                progress=progress(data["progress"]),
                metrics={k: Score(real(v), count(s)) for k, (v, s) in data["metrics"].items()},
                parts={k: tuple(map(key, rows(v))) for k, v in data["parts"].items()},
                what=text(data["what"]),
                policies=tuple(map(text, rows(data["policies"]))),
                reason=text(data["reason"]),
                label=_optional(data["label"]),
                tallies={k: Tally(progress(v["fired"]), _optional(v["armed"])) for k, v in data["tallies"].items()},
                saved_at=real(data["saved_at"]),
                tensors=tuple(map(_tensor, rows(data["tensors"]))),
                entries=tuple(
                    EntryInfo(text(n), count(o), count(size), checksum(c)) for n, o, size, c in rows(data["entries"])
                ),
                opaque=tuple(map(text, rows(data["opaque"]))),
                groups={
                    k: tuple(tuple(map(text, rows(group))) for group in rows(v)) for k, v in data["groups"].items()
                },
                types={k: text(v) for k, v in data["types"].items()},
                versions={k: text(v) for k, v in data["versions"].items()},
                healthy=flag(data.get("healthy", True)),
            )
        except ManifestError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ManifestError(f"a field is missing or of the wrong kind: {error!r}") from error
        _check(manifest)
        return manifest

    def scores(self) -> dict[str, float]:
        """The metrics that were measured at this checkpoint's own step."""
        return {n: s.value for n, s in self.metrics.items() if s.step == self.progress.steps}


def number(value: float) -> float | str:
    """A number as JSON: those that it lacks become the strings ``nan``, ``inf`` and ``-inf``."""
    return value if math.isfinite(value) else str(float(value))


def real(value: object) -> float:
    """The number that ``number`` wrote, an int staying an int."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return value
    raise ManifestError(f"{value!r:.80} is not a number")


def run_ref(data: Any) -> RunRef:
    """Read a run as it stands in a manifest, or in the ledger.

    Raises:
        ManifestError: It is none; so say KeyError and TypeError.
    """
    return RunRef(
        id=_id(data["id"]),
        parent=None if data["parent"] is None else _id(data["parent"]),
        ordinal=count(data["ordinal"]),
        attempt=count(data["attempt"]),
    )


def progress(data: Any) -> Progress:
    """Read counters as they stand in a manifest, or in the ledger.

    Raises:
        ManifestError: They are none.
    """
    if not isinstance(data, dict):
        raise ManifestError(f"{data!r:.80} is not a progress")
    for name, default in vars(Progress()).items():
        value = data.get(name, default)
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ManifestError(f"{value!r:.80} is not true or false")
        if not isinstance(default, bool):
            count(value)
    return Progress.from_json(data)


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object that ``raw`` is; raises ManifestError where it is none, or is longer than a reader accepts."""
    if len(raw) > MAX_BYTES:
        raise ManifestError(f"{len(raw):,} bytes is more than a manifest may have ({MAX_BYTES:,})")
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ManifestError:
        raise
    except RecursionError as error:
        raise ManifestError("it is nested too deeply") from error
    except ValueError as error:
        raise ManifestError(f"it is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ManifestError("it is not a JSON object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ManifestError("it holds a key twice")
    return data


def _no_constant(name: str) -> float:
    raise ManifestError(f"{name} is not JSON")


def text(value: object) -> str:
    """The text that ``value`` is; raises ManifestError where it is none."""
    if not isinstance(value, str):
        raise ManifestError(f"{value!r:.80} is not text")
    return value


def flag(value: object) -> bool:
    """The truth that ``value`` is; raises ManifestError where it is none."""
    if not isinstance(value, bool):
        raise ManifestError(f"{value!r:.80} is not true or false")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else text(value)


def count(value: object) -> int:
    """The count that ``value`` is; raises ManifestError where it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ManifestError(f"{value!r:.80} is not a count")
    return value


def _id(value: object) -> str:
    if not re.fullmatch("[0-9a-f]{32}", text(value)):
        raise ManifestError(f"{value!r:.80} is not 32 hex digits")
    return text(value)


def checksum(value: object) -> int:
    """The CRC-32 that ``value`` spells; raises ManifestError where it spells none."""
    if not re.fullmatch("[0-9a-f]{8}", text(value)):
        raise ManifestError(f"{value!r:.80} is not 8 hex digits")
    return int(text(value), 16)


def rows(value: object) -> list[Any]:
    """The list that ``value`` is; raises ManifestError where it is none."""
    if not isinstance(value, list):
        raise ManifestError(f"{value!r:.80} is not a list")
    return value


def key(value: object) -> str | int:
    """The key of a dictionary, or the index of a list, that ``value`` is; raises ManifestError where it is none."""
    return value if isinstance(value, str) else count(value)


def _tensor(row: Sequence[Any]) -> TensorInfo:
    path, dtype, shape, stride, storage, offset = row
    info = TensorInfo(
        text(path),
        text(dtype),
        tuple(map(count, rows(shape))),
        tuple(map(count, rows(stride))),
        text(storage),
        count(offset),
    )
    if info.dtype not in ITEM_BYTES:
        raise ManifestError(f"tensor {info.path} has a data type that is not known: {info.dtype}")
    if len(info.shape) != len(info.stride) or len(info.shape) > 64:
        raise ManifestError(f"tensor {info.path} has a shape and a stride that do not fit")
    return info


def _check(manifest: Manifest) -> None:
    """What the fields say of each other: entries are those of a checkpoint, tensors lie inside them."""
    if not 0 <= manifest.saved_at < _YEAR_9999:
        raise ManifestError(f"{manifest.saved_at} is not a time")
    _check_entries(manifest)
    lengths = {entry.name: entry.length for entry in manifest.entries}
    for tensor in manifest.tensors:
        length = lengths.get(f"{layout.PREFIX}data/{tensor.storage}")
        if length is None:
            raise ManifestError(f"tensor {tensor.path} is in storage {tensor.storage}, which is not listed")
        if tensor.extent > length:
            raise ManifestError(f"tensor {tensor.path} reaches past the end of its storage {tensor.storage}")
    places = set(manifest.parts.values())
    if len(places) != len(manifest.parts) or any(p[:n] in places for p in places for n in range(len(p))):
        raise ManifestError("it places one part inside another")


def _check_entries(manifest: Manifest) -> None:
    names = [entry.name for entry in manifest.entries]
    if len(set(names)) != len(names):
        raise ManifestError("it lists an entry twice")
    storages = sum(name.startswith(layout.PREFIX + "data/") for name in names)
    expected = [
        layout.FORMAT_ENTRY,
        layout.PICKLE_ENTRY,
        layout.PREFIX + "byteorder",
        layout.PREFIX + "version",
    ]
    expected += [f"{layout.PREFIX}data/{key}" for key in range(storages)]
    expected += [layout.OPAQUE_ENTRY] if manifest.opaque else []
    if names != expected:
        raise ManifestError("it lists other entries than a checkpoint has")
    for entry in manifest.entries:
        content = layout.FIXED.get(entry.name)
        if content is not None and (entry.length, entry.crc) != (len(content), zlib.crc32(content)):
            raise ManifestError(f"its entry {entry.name} is not what it is in every checkpoint")
