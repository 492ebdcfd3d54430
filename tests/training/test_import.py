"""What importing the trainer loads, beyond what importing torch loads."""

from __future__ import annotations

import json
import subprocess
import sys

CHILD = """
import json, sys
import torch
before = set(sys.modules)
from holdfast import LightningModule, Trainer
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = ("rich", "tqdm", "fsspec", "torchmetrics", "tensorboard", "torch.distributed.checkpoint")


def test_the_import_of_the_trainer_loads_nothing_heavy():
    """Bars, remote stores, metrics and sharding are loaded by those who use them, and so is the engine that saves."""
    line = [sys.executable, "-W", "error", "-c", CHILD]
    loaded = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    assert "holdfast.training.trainer" in loaded
    assert [name for name in loaded if any(f"{name}.".startswith(f"{heavy}.") for heavy in HEAVY)] == []
    assert [name for name in loaded if name.startswith(("holdfast.store", "holdfast.catalog", "holdfast.cli"))] == []
