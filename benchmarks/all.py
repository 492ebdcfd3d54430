"""Run every benchmark, the most telling first; print the tables, write JSON and pictures, and fill in the page.

    python benchmarks/all.py [--only stall-300,write] [--rounds 7] [--minutes 60] [--short] [--quick] [--report]

Raw figures and pictures go to ``benchmarks/results``; ``last.json`` there, which alone is kept in git, holds what
docs/performance.md and the README show. A benchmark that is not run leaves its last results and tables as they are.
``--short`` takes some twelve minutes. ``--quick`` is a trial: tiny sizes, into ``build``, and no page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import headline
import reporting
from measuring import machine
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "performance.md", HERE.parent / "README.md"
LIGHTNING = "Trainer;loop;burner;Lightning"


def commands(asked: argparse.Namespace) -> dict[str, list[str]]:
    """Each by its name, as script and options; in the order of what they tell."""
    if asked.quick:
        return whole(asked, {"stall-300": 6, "stall-1200": 12, "write": 16, "memory": 0.05, "aliases": 3}, quick=True)
    sizes = {"stall-300": 300, "stall-1200": 1200, "write": 1024, "memory": 4, "aliases": 30}
    return short(asked, sizes) if asked.short else whole(asked, sizes)


def whole(asked: argparse.Namespace, size: dict[str, float], *, quick: bool = False) -> dict[str, list[str]]:
    """Everything there is."""
    rounds, peers = f"--rounds={asked.rounds}", f"--peers={asked.peers}"
    return {
        "stall-300": ["stall.py", f"--megabytes={size['stall-300']}", rounds, peers, "--limit=1200"],
        "write": ["write_read.py", f"--mebibytes={size['write']}", rounds],
        "memory": ["write_read.py", f"--memory={size['memory']}"],
        "aliases": ["aliases.py", f"--megabytes={size['aliases']}", peers],
        "stall-1200": ["stall.py", f"--megabytes={size['stall-1200']}", rounds, peers, f"--arms={LIGHTNING}"],
        "step_cost": ["step_cost.py", rounds, f"--steps={20 if quick else 500}", f"--lightning={asked.peers}"],
        "import_time": ["import_time.py", rounds],
        "listing": ["listing.py", *(["--checkpoints=20", "--tensors=4"] if quick else [])],
        "loader_cost": ["loader_cost.py", rounds, *(["--batches=1000"] if quick else [])],
    }


def short(asked: argparse.Namespace, size: dict[str, float]) -> dict[str, list[str]]:
    """The goals of saving and loading, in some twelve minutes of an idle machine."""
    peers, big = f"--peers={asked.peers}", f"--megabytes={size['stall-1200']}"
    three = "--arms=Trainer;burner;Lightning async"
    return {
        "stall-300": ["stall.py", "--rounds=5", peers, "--limit=300"],
        "write": ["write_read.py", f"--mebibytes={size['write']}", "--rounds=5", "--again=0"],
        "memory": ["write_read.py", f"--memory={size['memory']}"],
        "aliases": ["aliases.py", f"--megabytes={size['aliases']}", peers],
        "stall-1200": ["stall.py", big, "--rounds=3", peers, three, "--limit=150"],
    }


def main() -> None:
    """Run, report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names, comma-separated; all of them otherwise")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=60, help="after which no further benchmark begins")
    parser.add_argument("--peers", default=".venv-lightning/bin/python", help="Python of Lightning and the others")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--short", action="store_true", help="the goals of saving and loading alone, fewer rounds")
    parser.add_argument("--report", action="store_true", help="run nothing: tables from the results that there are")
    parser.add_argument("--no-page", action="store_true", help="leave last.json and the pages as they are")
    asked = parser.parse_args()
    results = Path("build/quick") if asked.quick else HERE / "results"
    results.mkdir(parents=True, exist_ok=True)
    known = commands(asked)
    wanted = [] if asked.report else [name for name in asked.only.split(",") if name] or list(known)
    failed = run({name: known[name] for name in wanted}, results, asked.minutes)
    found = reporting.read(results)
    tables = reporting.report(found)
    if found.keys() >= headline.NEEDS:
        tables["headline"] = headline.table(found)
    show(tables)
    if asked.peers:
        subprocess.run([asked.peers, HERE / "plots.py", results], check=False)
    if not asked.quick and not asked.no_page:
        keep(results / "last.json", tables)
    if failed:
        raise SystemExit(f"failed, and left as it was before: {', '.join(failed)}")


def run(lines: dict[str, list[str]], results: Path, minutes: float) -> list[str]:
    """One after the other, each into its own file; the names of those that failed."""
    ends, failed = time.monotonic() + 60 * minutes, []
    for name, (script, *options) in lines.items():
        if time.monotonic() > ends:
            print(f"no time left for {name}")
            continue
        print(f"\n== {name}: {script} {' '.join(options)}", flush=True)
        began = time.monotonic()
        line = [sys.executable, str(HERE / script), *options, f"--json={results / name}.json"]
        if subprocess.run(line, check=False).returncode:
            failed.append(name)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return failed


def show(tables: dict[str, reporting.Table]) -> None:
    """All tables in the terminal."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    for name, table in tables.items():
        drawn = Table(*table.head, title=table.caption or name)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def keep(last: Path, tables: dict[str, reporting.Table]) -> None:
    """The last tables, for git and for the page."""
    made = {name: table._asdict() for name, table in tables.items()}
    last.write_text(json.dumps({"machine": machine(), "tables": made}, indent=1) + "\n")
    for page in PAGES:
        reporting.fill_in(page, tables)


if __name__ == "__main__":
    main()
