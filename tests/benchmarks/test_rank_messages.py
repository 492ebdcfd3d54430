"""What the page on many ranks says of messages and files is what is counted, at the sizes that a test can afford."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = (2, 4)
COUNTED = {
    "plan: messages": "plan messages",
    "each rank's own state: messages": "state of each rank messages",
    "commit: messages": "commit messages",
    "messages in all": "messages",
    "a poll between saves: messages": "poll messages",
    "files": "files",
}
"""A row of the page to what the benchmark calls it."""


def law(text: str, ranks: int) -> int:
    """What a law such as ``5 R - 2`` comes to."""
    factor, _, rest = text.partition(" R")
    return int(factor) * ranks + int(rest.replace(" ", "") or 0) if _ else int(text)


def said(heading: str) -> dict[str, dict[int, int]]:
    """What the page's table under a heading says by row and number of ranks; the law, where it has one."""
    section = (ROOT / "docs/scale.md").read_text().split(f"## {heading}")[1].split("\n## ")[0]
    lines = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"]
    (_, *sizes), found = lines[0], {}
    for name, *cells in lines[2:]:
        by_law = dict(zip(sizes, cells, strict=True))["law"]
        for size, cell in zip(sizes, cells, strict=True):
            if name in COUNTED and size.isdigit() and cell.isdigit():
                count = found.setdefault(name, {})[int(size)] = int(cell)
                if re.fullmatch(r"\d+( R( [+-] \d+)?)?", by_law):
                    assert law(by_law, int(size)) == count, f"{name} at {size} ranks"
    return found


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """What the benchmark counts, by strategy and ranks."""
    raw = tmp_path_factory.mktemp("counted") / "raw.json"
    line = [sys.executable, ROOT / "benchmarks/rank_messages.py", "--saves=2", f"--json={raw}"]
    line += ["--ranks", *map(str, SIZES), "--strategies", "ddp", "sharded"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(raw.read_text())


@pytest.mark.parametrize(("strategy", "heading"), [("ddp", "One file"), ("sharded", "A folder")])
def test_the_page_says_what_is_counted_and_its_laws_hold(counted, strategy, heading):
    """Messages and files, by equality; bytes differ by a few with ports and times, and are the page's alone."""
    page = said(heading)
    for row, name in COUNTED.items():
        if row in page:
            assert {size: page[row][size] for size in SIZES} == {
                size: counted[strategy][str(size)][name] for size in SIZES
            }, row
    assert {"commit: messages", "messages in all", "files"} <= set(page)
