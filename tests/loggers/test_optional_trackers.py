"""Trackers are optional: each is loaded by the one module named after it, and only when something is logged there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

LOGGERS = {"tensorboard": "TensorBoardLogger", "wandb": "WandbLogger", "mlflow": "MLFlowLogger"}

WITHOUT = """
import json, os, sys
for package in ("tensorboard", "wandb", "mlflow"):
    sys.modules[package] = None
    os.mkdir(package)  # wandb makes such a folder where it writes: it is no package
import torch
from holdfast import ConfigError, Trainer, loggers
said = {}
for package, kind in json.loads(sys.argv[1]).items():
    try:
        getattr(loggers, kind)("here")
    except ConfigError as error:
        said[package] = str(error)
print(json.dumps([said, type(Trainer(accelerator="cpu").logger).__name__, sorted(os.listdir("."))]))
"""

MADE = """
import json, sys
from holdfast import Trainer, loggers
trainer = Trainer(accelerator="cpu")
made = [loggers.TensorBoardLogger("x"), loggers.WandbLogger(), loggers.MLFlowLogger()]
print(json.dumps([type(trainer.logger).__name__, sorted({"tensorboard", "wandb", "mlflow"} & set(sys.modules))]))
"""


def run(program, folder, *arguments):
    """What a program printed, as JSON."""
    line = [sys.executable, "-W", "error", "-c", program, *arguments]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True, cwd=folder).stdout)


def test_a_tracker_that_is_not_installed_is_one_clear_error(tmp_path):
    """It names the install command; the default logger is the CSV file then, and nothing was touched."""
    said, default, there = run(WITHOUT, tmp_path, json.dumps(LOGGERS))

    assert said == {
        package: f"{kind} needs {package}. Install it: pip install 'holdfast[{package}]'"
        for package, kind in LOGGERS.items()
    }
    assert default == "CSVLogger"
    assert there == sorted(LOGGERS)


def test_making_loggers_loads_no_tracker(tmp_path):
    """Neither does a trainer that makes its default one, which is TensorBoard's where that is installed."""
    assert run(MADE, tmp_path) == ["TensorBoardLogger", []]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", LOGGERS)
def test_one_module_alone_imports_a_tracker(package):
    """The one named after it; torch's writer counts as TensorBoard."""
    source = Path(holdfast.__file__).parent
    importing = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            if any(package in name.removeprefix("torch.utils.").split(".")[:1] for name in names):
                importing.add(path.relative_to(source).as_posix())
    assert importing == {f"loggers/{package}.py"}
