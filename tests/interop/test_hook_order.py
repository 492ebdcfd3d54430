"""Hooks in the order of real Lightning, with the same arguments, epochs and steps."""

import json
import subprocess
from pathlib import Path

import pytest

import holdfast
from hook_recorder import SCENARIOS, record

PYTHON = Path(__file__).parents[2] / ".venv-lightning" / "bin" / "python"
pytestmark = pytest.mark.interop
LOADERS = ("data train_dataloader", "data val_dataloader")
"""Asked for earlier than in Lightning, so that wrong ones are refused before anything is built: docs/hooks.md."""


@pytest.fixture(scope="module")
def theirs():
    script = Path(__file__).with_name("lightning_hooks.py")
    run = subprocess.run([PYTHON, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_hooks_come_as_in_lightning(scenario, theirs, tmp_path):
    """Every call of module, callback and datamodule is the same, the calls for loaders of a fit aside."""
    ours = record(holdfast, holdfast.Callback, scenario, tmp_path)
    expected = theirs[scenario]
    if scenario.startswith("fit"):
        ours = [call for call in ours if not call.startswith(LOADERS)]
        expected = [call for call in expected if not call.startswith(LOADERS)]

    assert ours == expected
    assert list(tmp_path.iterdir()) == []
