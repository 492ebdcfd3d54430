"""What each rank alone knows of a run, gathered for a checkpoint and handed out again: random state, data, metrics."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import torch

from holdfast.engine.group import Group


def gathered(group: Group, own: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank but 0 holds, by rank, on rank 0; an empty list elsewhere and where there is one rank.

    Args:
        group: The ranks.
        own: What this one holds: plain values and tensors.
    """
    if group.size == 1:
        return []
    values = group.gather("" if group.rank == 0 else _text(own), phase="state of each rank")
    return [_value(text) for text in values[1:]]


def union(group: Group, own: list[list[Any]]) -> list[list[Any]]:
    """What any rank tells, on every rank: sorted, each thing once.

    Args:
        group: The ranks.
        own: What this one tells: values that JSON can hold.
    """
    told = group.gather(own, phase="metrics")
    texts = sorted({json.dumps(one, sort_keys=True) for each in told for one in each})
    known: list[str] = group.broadcast(texts, phase="metrics")
    return [json.loads(text) for text in known]


def each(group: Group, own: Any) -> list[Any]:
    """What every rank tells, by rank, on every rank.

    Args:
        group: The ranks.
        own: What this one tells: what JSON can hold.
    """
    told = group.gather(own, phase="metrics")
    everywhere: list[Any] = group.broadcast(told or None, phase="metrics")
    return everywhere


def any_rank(group: Group, own: bool) -> bool:
    """Whether it is so on any rank, on every rank."""
    if group.size == 1:
        return own
    answer: bool = group.broadcast(any(group.gather(own, phase="setup")), phase="setup")
    return answer


def own_part(own: dict[str, Any], *, rank: int, size: int) -> dict[str, Any]:
    """What this rank held, of all that a checkpoint holds of the ranks.

    Args:
        own: The checkpoint's: that of rank 0, and under ``"ranks"`` that of the others.
        rank: This rank.
        size: How many there are now.
    """
    if rank == 0:
        return own
    if size == ranks_of(own):
        return {**own, **own["ranks"][rank - 1]}
    # Of another number of ranks, what each had seen cannot be told apart: rank 0 goes on with its part.
    return {"loop": {**own.get("loop", {}), "metrics": {}}}


def ranks_of(own: dict[str, Any]) -> int:
    """How many ranks a checkpoint was saved on."""
    return 1 + len(own.get("ranks", []))


def _text(value: Any) -> str:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b85encode(buffer.getvalue()).decode()


def _value(text: str) -> Any:
    return torch.load(io.BytesIO(base64.b85decode(text)), weights_only=True)
