"""The few figures by which a user chooses, of all that was measured: what the README shows. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import reporting

NEEDS = {"stall-300", "write", "step_cost"}
"""The benchmarks that have to have run."""
OTHERS = {
    "Lightning async": "Lightning's `AsyncCheckpointIO`",
    "Lightning sync": "Lightning",
    "dcp.async_save, process": "`dcp.async_save`",
    "torch_checkpointing": "`torch_checkpointing`",
    "CPU burner, no save": "any thread that writes as much",
    "torch.save, fsync": "`torch.save` and fsync",
    "dcp.save, two threads, plan cache": "`dcp.save`",
    "safetensors, fsync": "safetensors and fsync",
    "disk": "the raw disk",
    "torch.load": "`torch.load`, which verifies nothing",
    "lightning": "Lightning",
}
"""What is shown beside ours, by the name that its benchmark gives it."""


def table(results: dict[str, Any]) -> reporting.Table:
    """One row a figure."""
    rows = []
    for what, digits, ours, took in figures(results):
        others = [f"{shown} {took[name]:.{digits}f}" for name, shown in OTHERS.items() if name in took]
        rows.append([what, f"{took[ours]:.{digits}f}", ", ".join(others)])
    return reporting.Table("", ["", "Holdfast", "others"], rows)


def figures(results: dict[str, Any]) -> Iterator[tuple[str, int, str, dict[str, float]]]:
    """What each is, its digits, the name of ours, and medians by name."""
    for key, what in (
        ("above", "saving 300 MB of model and AdamW state: how much longer the longest step is, s"),
        ("waited", "for how long of that the training thread waits, s"),
    ):
        took = {name: median(series[key]) for name, series in results["stall-300"]["arms"].items()}
        yield what, 3, "Holdfast Trainer", took
    for key, what in (("save", "a durable save of 1 GiB, s"), ("load", "a verified load of 1 GiB, s")):
        took = {name: median(seconds) for name, seconds in results["write"][key].items()}
        raw = [seconds for name, seconds in took.items() if name.startswith("raw")]
        yield what, 2, reporting.holdfast(took)[0], {**took, **({"disk": min(raw)} if raw else {})}
    above = reporting.above_plain(results["step_cost"])
    yield (
        "a step of the Trainer above the plain loop's, ms",
        3,
        "holdfast",
        {name: median(settings["bare"]) for name, settings in above.items()},
    )
