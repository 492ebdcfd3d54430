"""Read back what loggers wrote, by the trackers' own formats."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

_HEADING, _BLOCK, _RECORD = 7, 32768, struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def rows(folder):
    """The rows of a folder's metrics.csv, as dicts of text without the empty cells."""
    with open(Path(folder, "metrics.csv"), newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def events(folder):
    """TensorBoard's own view of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def scalars(folder, name):
    """What TensorBoard shows under a name: (step, value) of each point."""
    return [(point.step, point.value) for point in events(folder).Scalars(name)]


def end_wandb():
    """End the run of wandb, and wait for the process that writes its file: finish() alone does not."""
    import wandb

    wandb.finish()
    wandb.teardown()


def wandb_records(folder, kind):
    """The records of a kind in the one offline run below a folder, in order."""
    from wandb.proto import wandb_internal_pb2 as proto

    [path] = Path(folder).glob("wandb/offline-run-*/run-*.wandb")
    data, at, parts, found = path.read_bytes(), _HEADING, b"", []
    while at + _RECORD.size <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _RECORD.size:
            at += room
            continue
        _, length, part = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        parts += data[at : at + length]
        at += length
        if part in (_FULL, _LAST):
            record = proto.Record()
            record.ParseFromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def wandb_history(folder):
    """What was logged in the one offline run below a folder: by call, the values by name."""
    calls = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.item}
        for record in wandb_records(folder, "history")
    ]
    return [{name: value for name, value in call.items() if not name.startswith("_")} for call in calls]
