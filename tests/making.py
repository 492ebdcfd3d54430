"""Make valid checkpoints by the kilobyte, without torch: for what looks at folders of them."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.catalog import layout, records
from holdfast.catalog.folder import Folder, file_fact
from holdfast.catalog.manifest import ITEM_BYTES, EntryInfo, Manifest, RunRef, TensorInfo
from holdfast.policy.values import Progress, Record, Score
from holdfast.policy.which import Which

SAVED_AT = 1_700_000_000.0  # 2023-11-14T22:13:20Z
_ELEMENTS = 4  # of each tensor


@dataclass(frozen=True)
class Shape:
    """How much is in a checkpoint: so many tensors of 16 bytes, dealt out to so many storages."""

    tensors: int = 4
    storages: int = 2


def run(ordinal: int = 1, *, attempt: int = 1) -> RunRef:
    """The run of that place in its folder: its id is ``11111111...``, ``22222222...`` and so on."""
    return RunRef(id=f"{ordinal:x}"[-1] * 32, ordinal=ordinal, attempt=attempt)


def manifest(
    step: int,
    *,
    of: RunRef | None = None,
    epoch: int = 0,
    scores: Mapping[str, float] | None = None,
    policies: tuple[str, ...] = ("rules",),
    reason: str = "every 100 steps",
    label: str | None = None,
    what: str = "full",
    saved_at: float = SAVED_AT,
    shape: Shape | None = None,
) -> Manifest:
    """The manifest of a checkpoint of ``step``, without entries: ``image`` fills those in."""
    of, shape = of or run(), shape or Shape()
    tensors = [
        TensorInfo(
            f"model.layer{i}.weight",
            "float32",
            (_ELEMENTS,),
            (1,),
            str(i % shape.storages),
            i // shape.storages * _ELEMENTS,
        )
        for i in range(shape.tensors)
    ]
    return Manifest(
        id=f"{of.ordinal:016x}{step:016x}",
        run=of,
        sequence=step,
        progress=Progress(epoch=epoch, batch=step, batches=step, steps=step),
        metrics={name: Score(value, step) for name, value in (scores or {}).items()},
        parts={"model": ("state_dict",)},
        what=what,
        policies=policies,
        reason=reason,
        label=label,
        saved_at=saved_at,
        tensors=tuple(tensors),
        versions={"holdfast": "0", "torch": "0", "python": "0"},
    )


def image(of: Manifest) -> tuple[Manifest, bytes]:
    """The whole manifest, and all bytes of the file that it describes."""
    contents = {
        layout.FORMAT_ENTRY: layout.FORMAT_SIGN,
        layout.PICKLE_ENTRY: pickle.dumps({}, protocol=2),
        layout.PREFIX + "byteorder": b"little",
        layout.PREFIX + "version": b"3\n",
    }
    for key in sorted({t.storage for t in of.tensors}, key=int):
        length = max(t.offset + _ELEMENTS for t in of.tensors if t.storage == key) * ITEM_BYTES["float32"]
        contents[f"{layout.PREFIX}data/{key}"] = (bytes.fromhex(of.id) * (length // 16 + 1))[:length]
    slots = layout.compute([(name, len(data)) for name, data in contents.items()]).slots
    entries = tuple(EntryInfo(s.name, s.offset, s.length, zlib.crc32(contents[s.name])) for s in slots)
    whole = replace(of, entries=entries)
    contents[layout.MANIFEST_ENTRY] = whole.to_bytes()
    place = layout.compute([(name, len(data)) for name, data in contents.items()])
    crcs = [zlib.crc32(data) for data in contents.values()]
    file = bytearray(place.bytes)
    for offset, piece in layout.skeleton(place, crcs):
        file[offset : offset + len(piece)] = piece
    for slot in place.slots:
        file[slot.offset : slot.offset + slot.length] = contents[slot.name]
    return whole, bytes(file)


def put(folder: Folder, of: Manifest, *names: str, told: bool = True) -> Record:
    """Put a checkpoint into a folder.

    Args:
        folder: Where.
        of: What it is.
        names: Its names, the first its own; ``epoch=E-step=S.ckpt`` by default.
        told: Whether the ledger hears of it.
    """
    first, *others = names or (f"epoch={of.progress.epoch}-step={of.progress.steps}.ckpt",)
    whole, file = image(of)
    sink = folder.store.create(first, owner=of.run.id, size=len(file))
    sink.write_at(0, file)
    entries = [sink.publish(first, replace=False)]
    entries += [folder.store.link(first, name, replace=True) for name in others]
    record = records.project(whole, bytes=len(file), names=(first, *others))
    if told:
        files = [file_fact(e) for e in entries]
        folder.ledger.write("committed", record=records.to_json(record), files=files)
    return record


def rules(folder: Folder, of: RunRef, **policies: Which) -> None:
    """Tell the ledger what the policies of a run keep."""
    folder.ledger.write("rules", run=of.id, policies={name: w.to_json() for name, w in policies.items()})


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a published file in place, as no program of ours would."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def storage_offset(of: Manifest, key: str) -> int:
    """Where the bytes of a storage begin in the file of ``image``."""
    whole, _ = image(of)
    return next(e.offset for e in whole.entries if e.name == f"{layout.PREFIX}data/{key}")
