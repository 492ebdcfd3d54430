"""Holdfast in an environment that has real Lightning: each program gets the one that it asks for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-lightning" / "bin" / "python"
pytestmark = pytest.mark.interop

PROGRAM = """
import lightning, pytorch_lightning
from lightning.pytorch.demos.boring_classes import BoringModel
print(lightning.Trainer.__module__, pytorch_lightning.Trainer.__module__, BoringModel.__module__)
"""
HOLDFAST = "from holdfast.cli import main; main()"


def test_each_program_gets_the_one_it_asks_for(tmp_path):
    """``holdfast run`` ours, python itself theirs, and install() ours from then on."""
    script = tmp_path / "whose.py"
    script.write_text(PROGRAM)
    installs = tmp_path / "installs.py"
    installs.write_text(f"from holdfast import compat\ncompat.install()\n{PROGRAM}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

    def printed(*words):
        done = subprocess.run([PYTHON, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    ours = ["holdfast.training.trainer", "holdfast.training.trainer", "holdfast.compat.boring_classes"]
    theirs = [
        "lightning.pytorch.trainer.trainer",
        "pytorch_lightning.trainer.trainer",
        "lightning.pytorch.demos.boring_classes",
    ]
    assert printed("-c", HOLDFAST, "run", script) == ours
    assert printed(script) == theirs
    assert printed(installs) == ours


OLDER = [f"lightning.pytorch.utilities.seed.{n}" for n in ("pl_worker_init_function", "reset_seed", "seed_everything")]


def test_what_is_served_is_what_lightning_calls_so():
    """Every module of the table, and every name in it, is there in real Lightning; or was, in 1.x."""
    program = """
import importlib, warnings
warnings.simplefilter("ignore")
from holdfast.compat.table import MODULES, OLD
for module, homes in MODULES.items():
    real = importlib.import_module(module)
    for names in homes.values():
        for name in names:
            if not hasattr(real, name.partition("=")[0]):
                print(f"{module}.{name}")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == OLDER
