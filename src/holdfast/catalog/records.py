"""Project a manifest, and what the ledger adds to it, to the record that policies see. The only such projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.catalog.manifest import Manifest, number, real
from holdfast.policy.values import Progress, Record


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
        parts=tuple(manifest.parts),
        bytes=bytes,
        saved_at=manifest.saved_at,
        policies=manifest.policies,
        reason=manifest.reason,
        label=manifest.label,
        what=manifest.what,
    )


def to_json(record: Record) -> dict[str, Any]:
    """The record by field name, without its names and pin: those change, and have facts of their own."""
    data = dict(vars(record))
    del data["names"], data["pinned"]
    data["progress"] = record.progress.to_json()
    data["scores"] = {name: number(value) for name, value in record.scores.items()}
    return data


def from_json(data: Mapping[str, Any]) -> Record:
    """The record that ``to_json`` wrote. Unknown names are ignored; raises KeyError or TypeError on nonsense."""
    known = {name: data[name] for name in _FIELDS if name in data}
    record = Record(id=known.pop("id"))
    known["progress"] = Progress.from_json(known["progress"])
    known["scores"] = {name: real(value) for name, value in known["scores"].items()}
    known["parts"], known["policies"] = tuple(known["parts"]), tuple(known["policies"])
    return replace(record, **known)


_FIELDS = tuple(name for name in Record.__dataclass_fields__ if name not in ("names", "pinned"))
