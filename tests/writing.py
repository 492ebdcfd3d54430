"""Write a state to a checkpoint file of ours, as the engine does, without a run or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.catalog.manifest import RunRef
from holdfast.engine.job import Captured, prepare
from holdfast.policy.values import Event, Moment, Progress
from holdfast.policy.what import What, full
from holdfast.store import LocalStore

HPARAM_KEYS = ("hyper_parameters", "datamodule_hyper_parameters")


def write(path: Path, root: Mapping[str, Any], *, what: What = full) -> Path:
    """Write ``root`` to ``path``; its state dict is the part ``model``, its hyperparameters are parts by their keys."""
    places: dict[str, tuple[str | int, ...]] = {key: (key,) for key in HPARAM_KEYS if key in root}
    if "state_dict" in root:
        places["model"] = ("state_dict",)
    moment = Moment(frozenset({Event.MANUAL}), Progress(steps=3, batches=3))
    job = prepare(
        Captured(dict(root), places), what, moment, run=RunRef("1" * 32), sequence=1, tallies={}, reason="by hand"
    )
    job.write(LocalStore(path.parent), path.name, sinks := [])
    sinks[0].publish(path.name, replace=True)
    return path
