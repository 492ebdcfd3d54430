"""Measure what saves cost a training on a GPU: waits, slower steps, memory, and how fast they are durable.

    python benchmarks/gpu.py [--parameters 1e9] [--saves 4] [--every 10] [--memory 64,1024,16384] [--json FILE]

One process trains a network with AdamW by a plain loop, first without saves, then with one every so many steps, for
each size of the host memory that a save may take, in MiB: the more it is, the further reading runs ahead of the disk.
"waits": how long the thread that trains stands still for a save, in the call and before the step of the optimizer. In
the call it waits until the GPU has done what it was asked before; no time is lost while the GPU is busy.
"a step": what a step takes, all saves and waits included, beside one without saves. "GPU memory": the peak above that
without saves. Beside them stand what a copy into pinned memory and the raw disk give. With ``--device cpu`` it runs
anywhere, for a trial. Asserts nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import write_read
from measuring import write_json

from holdfast import Checkpointer, every, last, never

WARM_UP, BATCH = 5, 64
now = time.perf_counter


class Course:
    """A network that is trained, and what its steps took.

    Args:
        parameters: About how many.
        device: Where.
    """

    def __init__(self, parameters: float, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, width = device, max(8, min(4096, int((parameters / 4) ** 0.5)))
        layers = max(1, round(parameters / width**2))
        self.model = torch.nn.Sequential(*(torch.nn.Linear(width, width, device=device) for _ in range(layers)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(BATCH, width, device=device)
        self.waited = 0.0

    def step(self, ckpt: Checkpointer | None = None) -> None:
        """One step, and what the checkpointer does after it."""
        self.optimizer.zero_grad()
        self.model(self.batch).square().mean().backward()
        began = now()
        if ckpt is not None:
            ckpt.fence()
        between = now()
        self.optimizer.step()
        again = now()
        if ckpt is not None:
            ckpt.step()
        self.waited += between - began + now() - again

    def steps(self, count: int, ckpt: Checkpointer | None = None) -> float:
        """Seconds for each of so many."""
        self.synchronise()
        began = now()
        for _ in range(count):
            self.step(ckpt)
        self.synchronise()
        return (now() - began) / count

    def synchronise(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self) -> int:
        """The most bytes of the GPU that tensors have taken since the last call."""
        if self.device.type != "cuda":
            return 0
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak

    @property
    def bytes(self) -> int:
        """Of parameters and their state."""
        return 3 * sum(p.nbytes for p in self.model.parameters())


def pinned(device: torch.device, size: int) -> float:
    """Bytes a second into pinned memory; the best of five."""
    there = torch.empty(size, dtype=torch.uint8, device=device)
    here = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def copy() -> None:
        here.copy_(there, non_blocking=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return size / min(write_read.timed(copy) for _ in range(5))


def saving(course: Course, memory: int, asked: argparse.Namespace) -> dict[str, float]:
    """What saves cost with so many bytes of host memory for each."""
    durable: list[float] = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        with Checkpointer(folder, when=every(steps=asked.every), which=last(1), memory=memory) as ckpt:
            ckpt.resume("fresh", model=course.model, optimizer=course.optimizer)
            course.steps(asked.every, ckpt)  # the first save is not counted
            course.waited = 0.0
            course.peak()
            taken = course.steps(asked.saves * asked.every, ckpt)
        waited, peak = course.waited / asked.saves, course.peak()
        with Checkpointer(Path(folder) / "alone", when=never(), memory=memory) as ckpt:
            ckpt.resume("fresh", model=course.model, optimizer=course.optimizer)
            for label in ("one", "two", "three"):
                course.step(ckpt)  # what is on disk already is not written again
                course.synchronise()
                began = now()
                ckpt.save(label)
                durable.append(now() - began)
    return {"step": taken, "waited": waited, "peak": peak, "durable": median(durable)}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--every", type=int, default=10, help="steps")
    parser.add_argument("--memory", default="64,1024,16384", help="MiB of host memory for a save, comma-separated")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", default="build", help="on the disk that is measured")
    parser.add_argument("--json", default="build/gpu.json", help="where the raw figures go")
    asked = parser.parse_args()
    Path(asked.folder).mkdir(parents=True, exist_ok=True)
    course = Course(asked.parameters, torch.device(asked.device))
    course.steps(WARM_UP)
    course.peak()
    base = course.steps(asked.saves * asked.every)
    figures: dict[str, Any] = {"bytes": course.bytes, "step": base, "peak": course.peak(), "options": vars(asked)}
    figures["pinned"] = pinned(course.device, min(course.bytes, 2**30))
    tensors = {"w": torch.rand(min(course.bytes, 2**30) // 4)}
    buffers = [memoryview(write_read.mmap.mmap(-1, write_read.CHUNK)) for _ in range(2)]
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        took = min(write_read.timed(lambda: write_read.raw(Path(made) / "raw", tensors, buffers)) for _ in range(3))
    figures["disk"] = write_read.length(tensors) / took
    figures["saves"] = {mib: saving(course, int(float(mib) * 2**20), asked) for mib in asked.memory.split(",")}
    show(figures, asked)
    write_json(asked.json, figures)
    print(f"raw: {asked.json}")


def show(figures: dict[str, Any], asked: argparse.Namespace) -> None:
    """One line a size of memory."""
    size = figures["bytes"]
    print(f"{size / 1e9:.2f} GB of parameters and AdamW state on {asked.device}; a step takes {figures['step']:.4f} s")
    print(f"into pinned memory {figures['pinned'] / 1e9:.1f} GB/s; disk {figures['disk'] / 1e9:.2f} GB/s, directly")
    print(f"a save every {asked.every} steps:")
    for mib, one in figures["saves"].items():
        slower, more = one["step"] / figures["step"], (one["peak"] - figures["peak"]) / 2**20
        speed = size / one["durable"]
        print(
            f"  {mib:>6} MiB: waits {one['waited']:.3f} s a save; a step {slower:.3f} times; "
            f"GPU memory {more:+.1f} MiB; durable in {one['durable']:.2f} s, {speed / 1e9:.2f} GB/s, "
            f"{speed / figures['disk']:.2f} of the disk"
        )


if __name__ == "__main__":
    main()
