"""Project a manifest to the record that policies see, and write that as JSON. The only such projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.catalog.manifest import Manifest, flag, number, progress, real, text
from holdfast.policy.values import Record


def project(manifest: Manifest, *, bytes: int, names: tuple[str, ...] = ()) -> Record:
    """The record of a checkpoint whose manifest is ``manifest`` and whose file has ``bytes`` bytes."""
    return Record(
        id=manifest.id,
        names=names,
        run=manifest.run.id,
        run_ordinal=manifest.run.ordinal,
        sequence=manifest.sequence,
        progress=manifest.progress,
        scores=manifest.scores(),
        parts=tuple(sorted(manifest.parts)),
        bytes=bytes,
        saved_at=manifest.saved_at,
        policies=manifest.policies,
        reason=manifest.reason,
        label=manifest.label,
        what=manifest.what,
        healthy=manifest.healthy,
    )


def to_json(record: Record) -> dict[str, Any]:
    """The record by field name, without its names and pin: those change, and have facts of their own."""
    data = dict(vars(record))
    del data["names"], data["pinned"]
    data["progress"] = record.progress.to_json()
    data["scores"] = {name: number(value) for name, value in record.scores.items()}
    return data


def from_json(data: Mapping[str, Any]) -> Record:
    """The record that ``to_json`` wrote. Unknown names are ignored.

    Raises:
        KeyError: A field is missing; TypeError or ValueError where it is none that a record has.
    """
    known = {name: data[name] for name in _FIELDS}
    for name, value in known.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise TypeError(f"a record's {name} is {value!r:.80}")
    known["progress"] = progress(known["progress"])
    known["scores"] = {name: real(value) for name, value in known["scores"].items()}
    known["healthy"] = flag(data.get("healthy", True))
    known["parts"], known["policies"] = tuple(map(text, known["parts"])), tuple(map(text, known["policies"]))
    return Record(**known)


_FIELDS = tuple(name for name in Record.__dataclass_fields__ if name not in ("names", "pinned", "healthy"))
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "run", "reason", "what"), str),
    **dict.fromkeys(("sequence", "run_ordinal", "bytes"), int),
    **dict.fromkeys(("progress", "scores"), dict),
    **dict.fromkeys(("parts", "policies"), (list, tuple)),
    "saved_at": (int, float),
    "label": (str, type(None)),
}
