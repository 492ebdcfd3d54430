"""Measure a durable save and a verified load beside the raw disk and other formats. Prints; asserts nothing.

    python benchmarks/write_read.py [--mebibytes 1024] [--rounds 7] [--again 1] [--json FILE]
    python benchmarks/write_read.py --memory 4 [--json FILE]

Every save ends when file and folder are synced; old files are removed off the clock. "raw" writes as many random bytes,
ready in aligned memory, directly into reserved space: what this disk gives. "copied" does the same with a copy into the
aligned buffers first, as any writer must whose tensors lie anywhere: the difference is the copy's share. Loads are of
files in the page cache. "into" copies what was loaded into tensors that are there, as ``load_state_dict`` does.

``--memory`` saves a state of so many GiB, and tells how far the anonymous memory of the process grew meanwhile.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from measuring import anonymous, interleaved, machine, sampling, timed, told, write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

import making
from holdfast.catalog import checksums
from holdfast.engine import archive, snapshot, statetree
from holdfast.engine.reader import CheckpointFile
from holdfast.store import LocalStore

MIB = 2**20
CHUNK = 4 * MIB
Tensors = dict[str, torch.Tensor]
FAST = f"Holdfast, {checksums.LIBRARY}"
SLOW = "Holdfast, zlib"


def main() -> None:
    """Measure, print two tables or one sentence, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--again", type=int, default=1, help="how often a series that spreads widely is repeated")
    parser.add_argument("--folder", default="build", help="on the disk that is measured")
    parser.add_argument("--memory", type=float, help="GiB to save while memory is watched; nothing else is measured")
    parser.add_argument("--json", default="build/write_read.json", help="where the raw figures go")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    Path(asked.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        if asked.memory:
            write_json(asked.json, watch_memory(Path(made), asked.memory))
            return
        tensors = state(asked.mebibytes * MIB)
        figures = {"mebibytes": asked.mebibytes, "tensors": len(tensors), "before": machine()}
        again = {"rounds": asked.rounds, "again": asked.again}
        written = interleaved(saves(Path(made), tensors), **again, between=os.sync)
        show(f"durable save of {asked.mebibytes:,} MiB in {len(tensors):,} tensors", written, base="raw")
        read = interleaved(loads(Path(made), tensors), **again)
        show("load, from the page cache", read, base="torch.load")
    write_json(asked.json, {**figures, "save": written, "load": read})
    print(f"\nraw: {asked.json}")


def state(size: int) -> Tensors:
    """Random numbers in tensors as a transformer's are: a few large ones a layer, and several small."""
    width = max(64, int((size / (16 * 12 * 4)) ** 0.5) // 16 * 16)
    shapes = {
        "attention": (3 * width, width),
        "out": (width, width),
        "up": (4 * width, width),
        "down": (width, 4 * width),
    }
    small = {"attention.bias": (3 * width,), "out.bias": (width,), "norm": (width,), "up.bias": (4 * width,)}
    torch.manual_seed(0)
    return {
        f"layers.{layer}.{name}": torch.randn(shape)
        for layer in range(16)
        for name, shape in {**shapes, **small}.items()
    }


def length(tensors: Tensors) -> int:
    """Bytes of all of them."""
    return sum(tensor.nbytes for tensor in tensors.values())


def show(what: str, taken: dict[str, list[float]], *, base: str) -> None:
    """One line an arm: seconds, and how many times as long as ``base`` it takes."""
    print(f"\n{what}; seconds (median, lowest to highest), times {base}:")
    for name, seconds in taken.items():
        print(f"  {name:34}{told(seconds):>32}{median(seconds) / median(taken[base]):8.2f}")


@contextmanager
def computed_by(crc32: Callable[..., int]) -> Iterator[None]:
    """Checksums by another library."""
    kept, checksums._crc32 = checksums._crc32, crc32
    try:
        yield
    finally:
        checksums._crc32 = kept


# Saving


def saves(folder: Path, tensors: Tensors) -> dict[str, Callable[[], float]]:
    """Each way to save them durably."""
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    def with_torch(path: Path) -> None:
        torch.save(tensors, path)
        sync(path)

    def with_safetensors(path: Path) -> None:
        save_file(tensors, path)
        sync(path)

    def with_dcp(path: Path) -> None:
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(path, single_file_per_rank=True))
        sync(path)

    def with_dcp_at_its_best(path: Path) -> None:
        writer = dcp.FileSystemWriter(path, single_file_per_rank=True, thread_count=2)
        dcp.save(dict(tensors), storage_writer=writer, planner=DefaultSavePlanner(enable_plan_caching=True))
        sync(path)

    def with_zlib(path: Path) -> None:
        with computed_by(zlib.crc32):
            with_holdfast(path, tensors)

    memory = [memoryview(mmap.mmap(-1, CHUNK)) for _ in range(4)]
    for buffer in memory:
        buffer[:] = os.urandom(CHUNK)
    ways: dict[str, Callable[[Path], None]] = {
        "raw": lambda path: raw(path, tensors, memory[:1]),
        "raw, two threads": lambda path: raw(path, tensors, memory[:2]),
        "raw, four threads": lambda path: raw(path, tensors, memory),
        "copied, four threads": lambda path: raw(path, tensors, memory, copied=True),
        FAST: lambda path: with_holdfast(path, tensors),
        SLOW: with_zlib,
        "torch.save, fsync": with_torch,
        "dcp.save, fsync": with_dcp,
        "dcp.save, two threads, plan cache": with_dcp_at_its_best,
        "safetensors, fsync": with_safetensors,
    }
    return {name: lambda way=way: anew(folder / "saved.ckpt", way) for name, way in ways.items()}


def anew(path: Path, way: Callable[[Path], None]) -> float:
    """Seconds to save where nothing stands; what is saved is removed again, off the clock."""
    try:
        return timed(lambda: way(path))
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file or the files in a folder durable, and the name."""
    for one in [*(path.iterdir() if path.is_dir() else ()), path, path.parent]:
        fd = os.open(one, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def raw(path: Path, tensors: Tensors, buffers: list[memoryview], *, copied: bool = False) -> None:
    """Write as many bytes as these, directly, on a thread for each buffer; for ``copied`` with a copy before each."""
    import numpy as np

    size = max(CHUNK, length(tensors) // CHUNK * CHUNK)
    source = max(tensors.values(), key=lambda tensor: tensor.nbytes).view(-1).view(torch.uint8).numpy()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    os.posix_fallocate(fd, 0, size)

    def write(number: int) -> None:
        target = np.frombuffer(buffers[number], np.uint8)
        for offset in range(number * CHUNK, size, len(buffers) * CHUNK):
            if copied:
                start = offset % max(1, len(source) - CHUNK)
                target[: min(CHUNK, len(source))] = source[start : start + CHUNK]
            os.pwrite(fd, buffers[number], offset)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(buffers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.fsync(fd)
    os.close(fd)
    sync(path)


def with_holdfast(path: Path, tensors: Tensors, **options: Any) -> None:
    """As a save in the background does, from the first look at the state to the folder's fsync; weights unexamined."""
    taken = snapshot.Snapshot(statetree.take_apart({"model": tensors}))
    laid_out = archive.lay_out(taken, replace(making.manifest(1), parts={"model": ("model",)}))
    sink = LocalStore(path.parent).create(path.name, owner="benchmark", size=laid_out.bytes)
    archive.write(laid_out, sink, **options)
    sink.publish(path.name, replace=False)


# Loading


def loads(folder: Path, tensors: Tensors) -> dict[str, Callable[[], float]]:
    """Each way to load them, and to open ours; the files are made, and so in the page cache after the first round."""
    from safetensors.torch import load_file, save_file

    ours, theirs, third = folder / "ours.ckpt", folder / "theirs.pt", folder / "third.safetensors"
    with_holdfast(ours, tensors)
    torch.save(tensors, theirs)
    save_file(tensors, third)
    live = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    def into(loaded: Tensors) -> None:
        for name, tensor in live.items():
            tensor.copy_(loaded[name])

    def with_zlib(*, mapped: bool) -> None:
        with computed_by(zlib.crc32):
            load(ours, mapped=mapped)

    ways: dict[str, Callable[[], Any]] = {
        "torch.load": lambda: torch.load(theirs, weights_only=True),
        FAST: lambda: load(ours),
        SLOW: lambda: with_zlib(mapped=False),
        f"{FAST}, mapped": lambda: load(ours, mapped=True),
        f"{SLOW}, mapped": lambda: with_zlib(mapped=True),
        "torch.load, mapped, not verified": lambda: torch.load(theirs, weights_only=True, mmap=True),
        "safetensors, not verified": lambda: load_file(third),
        "torch.load, into": lambda: into(torch.load(theirs, weights_only=True)),
        f"{FAST}, mapped, into": lambda: into(load(ours, mapped=True)),
        "torch.load, mapped, not verified, into": lambda: into(torch.load(theirs, weights_only=True, mmap=True)),
        "Holdfast, opening": lambda: load(ours, parts=()),
    }
    return {name: lambda way=way: timed(way) for name, way in ways.items()}


def load(path: Path, *, mapped: bool = False, parts: tuple[str, ...] = ("model",)) -> Any:
    """Open, and read what is asked for, verified."""
    with LocalStore(path.parent).open(path.name) as reader:
        file = CheckpointFile(reader, name=path.name)
        return file.parts(parts, mapped=parts if mapped else ())[parts[0]] if parts else None


# Memory


def watch_memory(folder: Path, gibibytes: float) -> dict[str, Any]:
    """Save a large state; print and return by how much anonymous memory grew, at its most."""
    tensors = {f"w{n}": torch.ones(int(gibibytes * 2**30 / 64 / 4)) for n in range(64)}
    with_holdfast(folder / "first.ckpt", {"w": torch.ones(MIB)})  # whatever is imported or set up once
    before = anonymous()
    with sampling(anonymous) as found:
        with_holdfast(folder / "saved.ckpt", tensors)
    grown, size = max(found) - before, length(tensors)
    goal = archive.MEMORY * 1.05
    print(
        f"saving {size / 2**30:.1f} GiB took {grown / MIB:.1f} MiB of anonymous memory at most, of {len(found):,} looks"
    )
    print(f"(goal: {goal / MIB:.1f} MiB)")
    return {"bytes": size, "grown": grown, "looks": len(found), "goal": goal}


if __name__ == "__main__":
    main()
