"""One checkpoint as each rank of a host opens it; ``test_reading.py`` looks at what that takes."""

from __future__ import annotations

from pathlib import Path

from holdfast.training.resume import open_checkpoint


def said(file: str, what: str) -> int:
    """A figure of this process, as the system gives it."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def opened(path: str) -> dict[str, int]:
    """Bytes that came from the disk, and by which this process's own memory has grown, with the weights at hand."""
    disk, own = said("io", "read_bytes"), said("status", "RssAnon")
    weights = open_checkpoint(path).state["state_dict"]
    total = sum(float(weight.sum()) for weight in weights.values())
    assert total == sum(weight.numel() for weight in weights.values())
    return {"disk": said("io", "read_bytes") - disk, "own": (said("status", "RssAnon") - own) * 1024}
