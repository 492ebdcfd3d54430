"""Run by Lightning's own environment: record its hooks in each scenario and print them as JSON."""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

sys.path.insert(0, str(Path(__file__).parents[1]))
from hook_recorder import SCENARIOS, record

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
with tempfile.TemporaryDirectory() as folder:
    print(json.dumps({scenario: record(lightning, Callback, scenario, folder) for scenario in SCENARIOS}))
