"""Measure how long it takes to list 1,000 checkpoints of 400 parameters each. Prints; asserts nothing.

    python benchmarks/listing.py [--checkpoints 1000] [--tensors 400] [--repeat 5]

"warm" is with the ledger; "lost" is with the ledger gone, when every file is opened. The files themselves are
in the operating system's cache throughout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.policy.which import best, every
from holdfast.store import LocalStore
from making import Shape, manifest, put, rules, run


def fill(root: Path, checkpoints: int, tensors: int) -> None:
    """One run's checkpoints, and a ledger that tells of all of them."""
    folder = Folder(LocalStore(root))
    rules(folder, run(), rules=best(3, "val_loss") | every(100))
    shape = Shape(tensors=tensors, storages=4)
    for place in range(1, checkpoints + 1):
        put(folder, manifest(100 * place, scores={"val_loss": 1 / place}, shape=shape))


def seconds(action: Callable[[], object], repeat: int) -> str:
    """The median and the worst of several runs."""
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return f"median {median(taken):.3f} s, worst {max(taken):.3f} s of {repeat}"


def command(root: Path, *options: str) -> None:
    """The whole command in a process of its own."""
    line = [sys.executable, "-c", "from holdfast.cli import main; main()", "ls", str(root), *options]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Fill a folder, list it in each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--tensors", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "checkpoints"
        fill(root, asked.checkpoints, asked.tensors)
        print(f"{asked.checkpoints:,} checkpoints of {asked.tensors:,} parameters")
        print("scan, warm:        ", seconds(lambda: Folder(LocalStore(root)).scan(), asked.repeat))
        print("ls, warm:          ", seconds(lambda: command(root), asked.repeat))
        print("ls --json, warm:   ", seconds(lambda: command(root, "--json"), asked.repeat))
        (root / LEDGER).unlink()
        print("scan, ledger lost: ", seconds(lambda: Folder(LocalStore(root)).scan(), asked.repeat))


if __name__ == "__main__":
    main()
