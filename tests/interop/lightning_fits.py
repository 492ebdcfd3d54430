"""Run by Lightning's own environment: do the fits that a JSON list asks for, and print what happened."""

import argparse
import datetime
import json
import logging
import pickle
import sys
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging

sys.path.insert(0, str(Path(__file__).parents[1]))
from both_ways import fit

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Any(lightning.LightningModule):
    def __init__(self, **anything):
        super().__init__()
        self.save_hyperparameters()


def hyperparameters(path):
    """Save everyday values as Lightning does; whether it refuses its own file, and what they were."""
    values = {
        "path": Path("x/y"), "space": argparse.Namespace(a=Path("z"), b=[1, (2, 3)]), "rate": np.float64(0.5),
        "seed": np.int64(3), "flag": np.bool_(True), "when": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "wait": datetime.timedelta(seconds=2.5), "day": datetime.date(2026, 1, 2), "dtype": torch.bfloat16,
        "device": torch.device("cpu"), "table": np.arange(6.0).reshape(2, 3), "name": "a", "nothing": None,
    }  # fmt: skip
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(Any(**values))
    trainer.save_checkpoint(path)
    try:
        Any.load_from_checkpoint(path)
        refused = False
    except pickle.UnpicklingError:
        refused = True
    told = {name: [type(value).__name__, repr(value)] for name, value in values.items()}
    return {"refused": refused, "values": told}


answers = []
for job in json.loads(sys.argv[1]):
    if "hyperparameters" in job:
        answers.append(hyperparameters(job["hyperparameters"]))
        continue
    try:
        answers.append(fit(lightning, ModelCheckpoint, stopping=EarlyStopping, averaging=WeightAveraging, **job))
    except Exception as error:
        answers.append({"error": f"{type(error).__name__}: {error}"})
print(json.dumps(answers))
