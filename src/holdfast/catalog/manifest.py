"""The manifest: what the bytes of one checkpoint are. Immutable, inside the file, plain JSON; no torch, no I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holdfast.policy.values import Progress, Score, Tally

FORMAT = 1
MAX_BYTES = 256 * 2**20

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
    """One tensor: dotted path in the state, data type by name, shape, stride, storage key, offset (elements)."""

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
    """Which run a checkpoint is of: id, the checkpoint it began from, place among its folder's runs, attempt."""

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
            "tallies": {
                name: {"fired": t.fired.to_json(), "armed": t.armed} for name, t in self.tallies.items()
            },
            "saved_at": self.saved_at,
            "tensors": [list(t) for t in self.tensors],
            "entries": [[e.name, e.offset, e.length, f"{e.crc:08x}"] for e in self.entries],
            "opaque": list(self.opaque),
            "groups": {name: [list(g) for g in groups] for name, groups in self.groups.items()},
            "types": dict(self.types),
            "versions": dict(self.versions),
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Read and check a manifest.

        Raises:
            ManifestError: It is not JSON of this schema, of a later format, or contradicts itself.
        """
        data = _parse(raw)
        if data.get("format") != FORMAT:
            raise ManifestError(f"format {data.get('format')!r} is not {FORMAT}, the one this version reads")
        try:
            manifest = cls(
                id=_text(data["id"]),
                run=RunRef(
                    id=_text(data["run"]["id"]),
                    parent=_optional(data["run"]["parent"]),
                    ordinal=_count(data["run"]["ordinal"]),
                    attempt=_count(data["run"]["attempt"]),
                ),
                sequence=_count(data["sequence"]),
                progress=Progress.from_json(data["progress"]),
                metrics={k: Score(real(v), _count(s)) for k, (v, s) in data["metrics"].items()},
                parts={k: tuple(_key(i) for i in v) for k, v in data["parts"].items()},
                what=_text(data["what"]),
                policies=tuple(map(_text, data["policies"])),
                reason=_text(data["reason"]),
                label=_optional(data["label"]),
                tallies={
                    k: Tally(Progress.from_json(v["fired"]), _optional(v["armed"]))
                    for k, v in data["tallies"].items()
                },
                saved_at=real(data["saved_at"]),
                tensors=tuple(map(_tensor, data["tensors"])),
                entries=tuple(
                    EntryInfo(_text(n), _count(o), _count(size), int(_text(c), 16))
                    for n, o, size, c in data["entries"]
                ),
                opaque=tuple(map(_text, data["opaque"])),
                groups={
                    k: tuple(tuple(map(_text, group)) for group in v) for k, v in data["groups"].items()
                },
                types={k: _text(v) for k, v in data["types"].items()},
                versions={k: _text(v) for k, v in data["versions"].items()},
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
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise ManifestError(f"{value!r} is not a number")


def _parse(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BYTES:
        raise ManifestError(f"{len(raw):,} bytes is more than a manifest may have ({MAX_BYTES:,})")
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
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


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ManifestError(f"{value!r:.80} is not text")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ManifestError(f"{value!r:.80} is not a count")
    return value


def _key(value: object) -> str | int:
    return value if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _tensor(row: Sequence[Any]) -> TensorInfo:
    path, dtype, shape, stride, storage, offset = row
    info = TensorInfo(
        _text(path),
        _text(dtype),
        tuple(map(_count, shape)),
        tuple(map(_count, stride)),
        _text(storage),
        _count(offset),
    )
    if info.dtype not in ITEM_BYTES:
        raise ManifestError(f"tensor {info.path} has a data type that is not known: {info.dtype}")
    if len(info.shape) != len(info.stride) or len(info.shape) > 64:
        raise ManifestError(f"tensor {info.path} has a shape and a stride that do not fit")
    return info


def _check(manifest: Manifest) -> None:
    """What the fields say of each other: entries are unique and tensors lie inside their storages."""
    lengths = {entry.name: entry.length for entry in manifest.entries}
    if len(lengths) != len(manifest.entries):
        raise ManifestError("it lists an entry twice")
    for tensor in manifest.tensors:
        length = lengths.get(f"archive/data/{tensor.storage}")
        if length is None:
            raise ManifestError(f"tensor {tensor.path} is in storage {tensor.storage}, which is not listed")
        if tensor.extent > length:
            raise ManifestError(f"tensor {tensor.path} reaches past the end of its storage {tensor.storage}")
