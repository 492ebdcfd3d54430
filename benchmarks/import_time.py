"""Measure what `from holdfast import Trainer` costs above `import torch`. Prints; asserts nothing.

    python benchmarks/import_time.py [--rounds 7]

Own modules are measured with -X importtime, which slows imports: the sum of the time that each module of Holdfast takes
by itself. The whole is the processor time of a process that imports one or the other, in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

TRAINER, TORCH = "from holdfast import Trainer", "import torch"


def own_milliseconds() -> float:
    """The time of our own modules, without what they import."""
    line = [sys.executable, "-X", "importtime", "-c", TRAINER]
    report = subprocess.run(line, check=True, capture_output=True, text=True).stderr
    rows = [row.removeprefix("import time:").split("|") for row in report.splitlines() if row.count("|") == 2]
    return sum(int(own) for own, _, name in rows if name.strip().partition(".")[0] == "holdfast") / 1e3


def seconds(statement: str) -> float:
    """Processor time of a whole process that runs a statement."""
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", default="build/import_time.json", help="where the raw figures go")
    asked = parser.parse_args()
    own_milliseconds()  # after it everything is compiled
    taken: dict[str, list[float]] = {"own": [], TORCH: [], TRAINER: []}
    for _ in range(asked.rounds):
        taken["own"].append(own_milliseconds())
        for statement in (TORCH, TRAINER):
            taken[statement].append(seconds(statement))
    Path(asked.json).parent.mkdir(parents=True, exist_ok=True)
    Path(asked.json).write_text(json.dumps(taken, indent=1))
    own, torch, both = (median(each) for each in taken.values())
    print(f"own modules: {own:.0f} ms ({min(taken['own']):.0f} to {max(taken['own']):.0f})")
    print(f"{TORCH}: {torch:.2f} s, {TRAINER}: {both:.2f} s of processor time: {both / torch:.3f} times")
    print(f"{asked.rounds} rounds; raw: {asked.json}")


if __name__ == "__main__":
    main()
