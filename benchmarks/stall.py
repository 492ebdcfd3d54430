"""Measure what a save costs the training that goes on, beside other ways to save. Prints; asserts nothing.

    python benchmarks/stall.py [--megabytes 300] [--rounds 7] [--batch 128] [--arms A,B] [--peers PYTHON] [--json FILE]

Each arm is a process that trains the same network on one core and saves its model and AdamW state in one way; all arms
are durable and safe from what training changes meanwhile. The parent lets them go in turn, one round at a time: a few
steps, a save, the steps after it; the first round of each is not counted. A series whose longest step spreads more
than twofold is measured again, once; where it still does, it is marked.

"longest": the longest step while a save runs, above a step without one. "waits": how long the training thread stands
still for it: in the call that saves, and before the step of the optimizer until that may change the state. "safe": from
the trigger until the state may change. "durable": until a loss of power loses nothing. "lost": all that the steps
meanwhile took above as many without a save; what computes and writes beside the training takes its share.
"floor" is what was predicted for the wait, from what disk and memory gave just before.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import stall_arms
import write_read
from measuring import SPREAD, told, write_json

HOLDFAST = ("Holdfast Trainer", "Holdfast loop", "CPU burner, no save")
SYNCHRONOUS = ("Lightning sync", "torch.save", "dcp.save")
Series = dict[str, list[float]]


class Arm:
    """A process that trains, and stands still unless it is asked for a round."""

    def __init__(self, name: str, python: str, folder: Path, asked: argparse.Namespace) -> None:
        self.name = name
        place = Path(tempfile.mkdtemp(dir=folder))
        self.log = place.with_suffix(".log")
        script = str(Path(__file__).with_name("stall_arms.py"))
        sizes = [f"--{what}={getattr(asked, what)}" for what in ("megabytes", "batch", "steps")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, script, name, *sizes, f"--folder={place}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._answer()

    def round(self) -> dict[str, float]:
        """Let it train through one save."""
        os.sync()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        """End it, and what it has started."""
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def main() -> None:
    """Start the arms, measure, print a table and the goals, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=300, help="of model and AdamW state")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="in a round, four of them before the save")
    parser.add_argument("--batch", type=int, default=128, help="samples; what makes forward and backward long")
    parser.add_argument("--arms", default="", help="comma-separated words; those are measured whose names hold one")
    parser.add_argument("--peers", default=".venv-lightning/bin/python", help="the Python of Lightning and others")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which no further round begins")
    parser.add_argument("--folder", default="build", help="on the disk that is measured")
    parser.add_argument("--json", default="build/stall.json", help="where the raw figures go")
    asked = parser.parse_args()
    words = [word.strip() for word in asked.arms.split(";" if ";" in asked.arms else ",") if word.strip()]
    names = [name for name in stall_arms.ARMS if not words or any(word in name for word in words)]
    Path(asked.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder, ignore_cleanup_errors=True) as made:
        speeds = measure_floors(Path(made).resolve(), int(asked.megabytes * 1e6))
        taken = measure(names, Path(made).resolve(), asked)
    figures = {"megabytes": asked.megabytes, "batch": asked.batch, "rounds": asked.rounds, **speeds, "arms": taken}
    figures["ratios"] = ratios(taken)
    show(figures)
    write_json(asked.json, figures)
    print(f"\nraw: {asked.json}")


def measure(names: list[str], folder: Path, asked: argparse.Namespace) -> dict[str, Series]:
    """All arms in turn, each round beginning with another; then again those that spread."""
    arms: dict[str, Arm] = {}
    ends = time.monotonic() + asked.limit
    try:
        for name in names:
            arms[name] = Arm(name, sys.executable if name in HOLDFAST else asked.peers, folder, asked)
        for arm in arms.values():
            arm.round()
        taken = in_turn(arms, asked.rounds, ends)
        wide = [name for name, series in taken.items() if spread(series) > SPREAD]
        if time.monotonic() < ends:
            for name, series in in_turn({name: arms[name] for name in wide}, asked.rounds, ends).items():
                if len(series["longest"]) == asked.rounds and spread(series) < spread(taken[name]):
                    taken[name] = series
    finally:
        for arm in arms.values():
            arm.end()
    return taken


def in_turn(arms: dict[str, Arm], rounds: int, ends: float) -> dict[str, Series]:
    """So many rounds of each, fewer where the time is over."""
    names = list(arms)
    taken: dict[str, Series] = {name: {} for name in names}
    for number in range(rounds):
        if number and time.monotonic() > ends:
            break
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            for what, value in arms[name].round().items():
                taken[name].setdefault(what, []).append(value)
    return taken


def spread(series: Series) -> float:
    """How many times its best the worst of the longest steps is."""
    return max(series["longest"]) / min(series["longest"])


def measure_floors(folder: Path, size: int) -> dict[str, float]:
    """Bytes a second that the disk takes directly, and that one thread copies within memory that is in use."""
    import numpy as np

    tensors = {"w": write_read.torch.rand(max(size // 4, write_read.CHUNK))}
    buffers = [memoryview(mmap.mmap(-1, write_read.CHUNK)) for _ in range(2)]
    for buffer in buffers:
        buffer[:] = os.urandom(len(buffer))
    disk = min(write_read.anew(folder / "raw", lambda path: write_read.raw(path, tensors, buffers)) for _ in range(3))
    source = tensors["w"].numpy()
    target = np.zeros_like(source)
    copy = min(write_read.timed(lambda: np.copyto(target, source)) for _ in range(3))
    return {"disk": write_read.length(tensors) / disk, "memory": source.nbytes / copy}


def ratios(taken: dict[str, Series]) -> dict[str, float]:
    """What the goals are about: medians of ours over medians of others, of those that were measured."""
    found = {}
    for ours in HOLDFAST[:2]:
        for what, other in (
            ("above", "Lightning async"),
            ("above", "Lightning sync"),
            ("waited", "Lightning async"),
            ("above", "CPU burner, no save"),
            ("longest", "CPU burner, no save"),
        ):
            if ours in taken and other in taken:
                found[f"{ours} / {other}: {what}"] = median(taken[ours][what]) / median(taken[other][what])
    return found


def floor(name: str, figures: dict[str, Any]) -> float:
    """Seconds for which the training thread has to wait, by this way of saving, on this disk and memory."""
    size = figures["megabytes"] * 1e6
    if name in SYNCHRONOUS:
        return size / figures["disk"]
    series = next((figures["arms"][one] for one in HOLDFAST[1:] if one in figures["arms"]), None)
    window = max(0.0, median(series["base"]) - median(series["stepping"])) if series else 0.0
    if name == "Lightning async":
        return size / figures["memory"]
    if name in HOLDFAST:
        return 0.0 if name == HOLDFAST[2] else max(0.0, size / figures["disk"] - window)
    return max(0.0, size / figures["memory"] - window)


def show(figures: dict[str, Any]) -> None:
    """One line an arm, then the ratios."""
    taken = figures["arms"]
    print(f"\nsaving {figures['megabytes']:.0f} MB of model and AdamW state; seconds, median (lowest to highest):")
    print(f"{'':26}{'base':>7}{'longest, above base':>27}{'waits':>25}{'floor':>8}{'safe':>7}{'durable':>9}{'lost':>7}")
    for name, series in taken.items():
        mark = "*" if spread(series) > SPREAD else ""
        base, safe, durable, lost = (median(series[what]) for what in ("base", "safe", "durable", "lost"))
        above, waited = (told(series[what]).removesuffix(" *") for what in ("above", "waited"))
        line = f"{name:26}{base:7.3f}{above + mark:>27}{waited:>25}{floor(name, figures):8.3f}"
        print(f"{line}{safe:7.3f}{durable:9.3f}{lost:7.3f}")
    disk, memory = figures["disk"] / 1e9, figures["memory"] / 1e9
    print(f"disk {disk:.2f} GB/s, directly; memory {memory:.2f} GB/s, copied by one thread")
    for what, ratio in figures["ratios"].items():
        print(f"{what:60}{ratio:8.3f}")
    if any(spread(series) > SPREAD for series in taken.values()):
        print("* the longest step spread more than twofold, twice")


if __name__ == "__main__":
    main()
