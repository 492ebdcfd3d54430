"""Each benchmark runs from end to end with tiny sizes, and says and keeps what it measured. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = "--arms=Holdfast loop;burner"
TRIALS = {
    "stall.py": (["--megabytes=3", "--rounds=1", "--batch=4", OWN], "Holdfast loop", "arms"),
    "write_read.py": (["--mebibytes=2", "--rounds=1", "--again=0"], "safetensors, fsync", "save"),
    "step_cost.py": (["--rounds=1", "--steps=5", "--lightning="], "a step; above it", "milliseconds"),
    "gpu.py": (["--device=cpu", "--parameters=1e4", "--saves=1", "--memory=1", "--every=2"], "waits", "saves"),
    "import_time.py": (["--rounds=1"], "own modules", "own"),
    "listing.py": (["--checkpoints=3", "--tensors=2", "--repeat=1"], "scan, ledger lost", "seconds"),
}


def run(script: str, *options: str) -> str:
    """What it prints, once it has ended well."""
    line = [sys.executable, ROOT / "benchmarks" / script, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("script", TRIALS)
def test_a_benchmark_prints_its_table_and_keeps_its_figures(script, tmp_path):
    """The way from the command line to a table and to raw JSON is whole, whatever the figures are."""
    options, row, key = TRIALS[script]
    raw = tmp_path / "raw.json"
    printed = run(script, *options, f"--json={raw}")
    assert row in printed
    assert key in json.loads(raw.read_text())


def test_memory_is_watched_while_a_state_is_saved(tmp_path):
    """The other mode of the same benchmark tells by how much anonymous memory grew, and of how many looks."""
    raw = tmp_path / "raw.json"
    run("write_read.py", "--memory=0.01", f"--json={raw}")
    figures = json.loads(raw.read_text())
    assert figures["bytes"] > 10 * 2**20 * 0.9
    assert figures["looks"] >= 1


def test_every_rule_of_ours_for_one_step_writes_one_file(tmp_path):
    """``save_last`` beside top-k, and three callbacks in one folder or three: one checkpoint a step, and no second."""
    raw = tmp_path / "raw.json"
    assert "three callbacks, three folders" in run("aliases.py", "--megabytes=2", "--peers=", f"--json={raw}")
    figures = json.loads(raw.read_text())
    for one in figures["trainers"]["holdfast"].values():
        assert one["written"] // (0.9 * figures["saves"] * one["size"]) == 1


def test_one_command_runs_what_is_named_and_shows_its_tables():
    """``all.py`` starts the benchmarks, reads what they kept, and draws the tables of it."""
    printed = run("all.py", "--quick", "--only=memory", "--peers=")
    assert "== memory: write_read.py" in printed
    assert "extra anonymous memory" in printed


def test_the_page_takes_the_tables_of_the_results(tmp_path):
    """Tables go between their marks, and the words around them stay."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import reporting
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: save -->\nold\n<!-- end: save -->\nafter\n")
    table = reporting.Table("Saved:", ["", "seconds"], [["ours", "1"]])
    reporting.fill_in(page, {"save": table, "load": table})
    shown = "Saved:\n\n|  | seconds |\n| --- | --- |\n| ours | 1 |"
    assert page.read_text() == f"before\n<!-- measured: save -->\n{shown}\n<!-- end: save -->\nafter\n"
