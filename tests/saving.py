"""Save a state to a store and load it back, by the engine's own steps; and say whether two states are one."""

from __future__ import annotations

import argparse
import datetime
import struct
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import making
from holdfast.catalog.manifest import Manifest
from holdfast.engine import archive, snapshot, statetree
from holdfast.engine.job import Captured
from holdfast.engine.reader import CheckpointFile
from holdfast.formats import lightning
from holdfast.policy.values import Progress
from holdfast.store import MemoryStore, Store

NAME = "a.ckpt"


def save(store: Store, parts: dict[str, Any], *, name: str = NAME) -> Manifest:
    """Write one checkpoint of these parts."""
    root, places = lightning.arrange(parts, Progress(epoch=1, steps=2))
    taken = snapshot.take(statetree.take_apart(root, name=Captured(root, places).name))
    laid_out = archive.lay_out(taken, replace(making.manifest(1), parts=places))
    sink = store.create(name, owner=laid_out.manifest.run.id, size=laid_out.bytes)
    written = archive.write(laid_out, sink)
    sink.publish(name, replace=True)
    return written


def load(store: Store, *, name: str = NAME) -> dict[str, Any]:
    """All parts of a checkpoint."""
    with store.open(name) as reader:
        file = CheckpointFile(reader, name=name)
        return file.parts(sorted(file.manifest.parts))


def file_of(parts: dict[str, Any]) -> bytes:
    """All bytes of the checkpoint of these parts."""
    store = MemoryStore()
    save(store, parts)
    with store.open(NAME) as reader:
        return reader.read_at(0, reader.bytes)


def there_and_back(state: Any) -> Any:
    """The state as it is after a save and a load."""
    store = MemoryStore()
    save(store, {"state": state})
    return load(store)["state"]


def bits(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor as bytes, in the order of its dimensions."""
    values = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    row = torch.empty(values.numel(), dtype=values.dtype, device="cpu").copy_(values)
    return row.view(torch.uint8).numpy().tobytes()


def difference(a: Any, b: Any, path: str = "state") -> str | None:
    """Where two states differ first, in value, exact type, order of keys or single bits; None where they do not."""
    if isinstance(a, torch.Tensor):
        # A parameter comes back as a tensor: which module it belongs to is the module's own knowledge.
        if not isinstance(b, torch.Tensor):
            return f"{path}: a tensor became a {type(b).__name__}"
        kinds = [(t.dtype, t.shape, t.requires_grad, t.device) for t in (a, b)]
        return None if kinds[0] == kinds[1] and bits(a) == bits(b) else f"{path}: {a} became {b}"
    if type(a) is not type(b):
        return f"{path}: a {type(a).__name__} became a {type(b).__name__}"
    if isinstance(a, argparse.Namespace):
        a, b = vars(a), vars(b)
    if isinstance(a, dict):
        if list(map(repr, a)) != list(map(repr, b)):
            return f"{path}: keys {list(a)} became {list(b)}"
        pairs = [(f"{path}.{k!r}", x, y) for (k, x), y in zip(a.items(), b.values(), strict=True)]
        if isinstance(a, OrderedDict):
            pairs.append((f"{path}._metadata", getattr(a, "_metadata", None), getattr(b, "_metadata", None)))
    elif isinstance(a, (list, tuple)) and not isinstance(a, torch.Size):
        if len(a) != len(b):
            return f"{path}: {len(a)} items became {len(b)}"
        pairs = [(f"{path}.{i}", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if _atom(a) == _atom(b) else f"{path}: {a!r} became {b!r}"
    return next((found for p, x, y in pairs if (found := difference(x, y, p)) is not None), None)


def _atom(value: Any) -> Any:
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, complex):
        return struct.pack("<dd", value.real, value.imag)
    if isinstance(value, (np.ndarray, np.generic)):
        return (value.dtype, value.shape, value.tobytes())
    if isinstance(value, datetime.datetime):
        return (value, value.utcoffset())
    if isinstance(value, set):
        return sorted(map(repr, value))
    return value
