"""Measure how long it takes to list 1,000 checkpoints of 400 parameters each. Prints; asserts nothing.

    python benchmarks/listing.py [--checkpoints 1000] [--tensors 400] [--repeat 5] [--json FILE]

"warm" is with the ledger; "lost" is with the ledger gone, when every file is opened. The files themselves are
in the operating system's cache throughout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from measuring import timed, write_json

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


def show(what: str, action: Callable[[], object], repeat: int) -> list[float]:
    """Print the median and the worst of several runs; return the seconds of each."""
    taken = [timed(action) for _ in range(repeat)]
    print(f"{what:19}median {median(taken):.3f} s, worst {max(taken):.3f} s of {repeat}")
    return taken


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
    parser.add_argument("--json", default="build/listing.json", help="where the raw figures go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "checkpoints"
        fill(root, asked.checkpoints, asked.tensors)
        print(f"{asked.checkpoints:,} checkpoints of {asked.tensors:,} parameters")
        ways: dict[str, Callable[[], object]] = {
            "scan, warm": lambda: Folder(LocalStore(root)).scan(),
            "ls, warm": lambda: command(root),
            "ls --json, warm": lambda: command(root, "--json"),
        }
        taken = {what: show(what, way, asked.repeat) for what, way in ways.items()}
        (root / LEDGER).unlink()
        taken["scan, ledger lost"] = show("scan, ledger lost", ways["scan, warm"], asked.repeat)
    write_json(asked.json, {"checkpoints": asked.checkpoints, "tensors": asked.tensors, "seconds": taken})


if __name__ == "__main__":
    main()
