"""Scripts as users wrote them for Lightning, unmodified on Holdfast: the same metrics, names, and files that load."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).with_name("scripts")
PYTHON = Path(__file__).parents[2] / ".venv-lightning" / "bin" / "python"
HOLDFAST = Path(sys.executable).with_name("holdfast")
pytestmark = pytest.mark.interop

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


@dataclass
class Ran:
    """What a script left: the metrics that it printed last, and its files."""

    root: Path
    printed: Any = None
    files: set[str] = field(default_factory=set)

    def checkpoints(self) -> list[Path]:
        return sorted(self.root.rglob("*.ckpt"))


def printed(words: list[Any], cwd: Path) -> Any:
    """The JSON in the last line that a program prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def on_lightning(script: str) -> list[Any]:
    return [PYTHON, SCRIPTS / f"{script}.py"]


def on_holdfast(script: str) -> list[Any]:
    return [HOLDFAST, "run", SCRIPTS / f"{script}.py"]


def ran(words: list[Any], root: Path) -> Ran:
    """The script run once, with its files in ``root``."""
    result = Ran(root, printed([*words, "--root", root], root.parent))
    paths = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir()]
    result.files = {path.as_posix() for path in paths if ".holdfast" not in path.parts}
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[[str], tuple[Ran, Ran]]:
    """What comes of a script on Lightning, and on Holdfast. Each is run once."""

    @cache
    def of(script: str) -> tuple[Ran, Ran]:
        folder = tmp_path_factory.mktemp(script)
        return ran(on_lightning(script), folder / "theirs"), ran(on_holdfast(script), folder / "ours")

    return of


@pytest.fixture(params=NAMES)
def both(request, runs) -> tuple[str, Ran, Ran]:
    """A script, what came of it on Lightning, and on Holdfast."""
    return request.param, *runs(request.param)


def differences(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """Where two results differ: numbers by more than a millionth, everything else at all."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [key for key in {**theirs, **ours} if key not in theirs or key not in ours]
        shared = [key for key in theirs if key in ours]
        return [f"{where}.{key}: not in both" for key in keys] + [
            line for key in shared for line in differences(theirs[key], ours[key], f"{where}.{key}")
        ]
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = enumerate(zip(theirs, ours, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{where}[{i}]")]
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (theirs, ours))
    same = math.isclose(theirs, ours, rel_tol=1e-6, abs_tol=1e-6) if numbers else theirs == ours
    return [] if same else [f"{where}: {theirs!r} on Lightning, {ours!r} on Holdfast"]


def rows(file: Path) -> list[dict[str, float]]:
    """What a metrics.csv says, whatever the order of its columns."""
    with file.open(newline="") as text:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text)]


def test_a_run_goes_on_from_the_others_file_as_from_its_own(runs, tmp_path):
    """Weights, momentum, scheduler, datamodule, module and counters: two more epochs are the same in all four ways."""
    starts = {"theirs": on_lightning, "ours": on_holdfast}
    begun = dict(zip(starts, runs("shards"), strict=True))

    went_on = {}
    for name, start in starts.items():
        for source, run in begun.items():
            asked = ["--max-epochs", 8, "--resume", run.root / "best" / "last.ckpt"]
            went_on[name, source] = ran([*start("shards"), *asked], tmp_path / f"{name} from {source}")

    for way in went_on.values():
        # Of another folder's best, Lightning forgets the score.
        way.printed.pop("best")
        assert differences(went_on["theirs", "theirs"].printed, way.printed) == []
        assert way.printed["global_step"] == 48


def test_scripts_are_as_long_as_users_write_them():
    """Each of the five has 150 lines and more."""
    assert len(NAMES) == 5
    assert [name for name in NAMES if len((SCRIPTS / f"{name}.py").read_text().splitlines()) < 150] == []


def test_metrics_are_the_same(both):
    """All that the script prints: metrics, scores, steps, rates, names, sums of weights."""
    _, theirs, ours = both
    assert differences(theirs.printed, ours.printed) == []


def test_files_have_the_same_names(both):
    """Checkpoints, logs and what the script itself writes; only .holdfast is more."""
    _, theirs, ours = both
    assert ours.files == theirs.files
    assert theirs.checkpoints()


def test_logged_values_are_the_same(both):
    """Line by line in every metrics.csv: the same values at the same steps."""
    _, theirs, ours = both
    logs = sorted(path for path in theirs.files if path.endswith("metrics.csv"))
    assert logs
    found = {log: differences(rows(theirs.root / log), rows(ours.root / log)) for log in logs}
    assert {log: different for log, different in found.items() if different} == {}


def test_their_files_load_here_and_ours_there(both):
    """Every checkpoint of each, loaded and evaluated by the script on the other, gives what it gives at home."""
    script, theirs, ours = both
    files = [*theirs.checkpoints(), *ours.checkpoints()]
    asked = ["--root", ours.root, "--evaluate", *files]
    there, here = (printed([*start(script), *asked], ours.root) for start in (on_lightning, on_holdfast))
    assert set(there) == set(map(str, files))
    assert differences(there, here) == []
    moved = {path.replace(str(theirs.root), str(ours.root)): value for path, value in here.items()}
    assert len(moved) == len(files) // 2
    assert differences(moved, {path: here[path] for path in moved}) == []
