"""Nothing that a file names is imported or called by a safe load: watched by an audit hook, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHILD = '''
import argparse, datetime, json, pickle, sys, warnings
from enum import Enum
from pathlib import Path
import torch
from holdfast.errors import HoldfastError
sys.path.insert(0, {tests!r})
import small_modules
from small_modules import Mode, Net, saved
from holdfast.training.resume import open_checkpoint

folder = Path({folder!r})
called = []


class Evil:
    def __init__(self, target, *args):
        self.target, self.args = target, args

    def __reduce__(self):
        return self.target, self.args


class Named:
    """Pickles as whatever name it is given."""


def hostile(module, name, *args):
    made = type(name, (), {{"__module__": module, "__reduce__": lambda self: (type(self), args)}})
    stand = sys.modules.setdefault(module, type(sys)(module))
    setattr(stand, name, made)
    return made()


names = [("this_was_imported", "f"), ("this_was_imported.deeper", "C"), ("antigravity", "x"), ("this", "y")]
values = {{f"v{{i}}": hostile(module, name, i) for i, (module, name) in enumerate(names)}}
state = {{"state_dict": Net(3).state_dict(), "epoch": 1, "global_step": 4, "pytorch-lightning_version": "1.4.0"}}
cases = {{
    "hyperparameters": {{**state, "hyper_parameters": {{"width": 3, **values}}}},
    "instantiator": {{**state, "hyper_parameters": {{"width": 3, "_instantiator": "this_was_imported.f"}}}},
    "class path": {{**state, "hyper_parameters": {{
        "width": 3, "_class_path": "this_was_imported.C",
        "_instantiator": "lightning.pytorch.cli.instantiate_module"}}}},
    "type": {{**state, "hyper_parameters": {{"width": 3}}, "hparams_name": None,
              "hparams_type": type(hostile("this_was_imported", "T"))}},
    "callbacks": {{**state, "hyper_parameters": {{"width": 3}},
                   "callbacks": {{type(hostile("this_was_imported", "K")): {{"a": 1}}}}}},
    "weights": {{**state, "state_dict": {{"w": hostile("this_was_imported", "W")}}}},
    "calls": {{**state, "hyper_parameters": {{"width": Evil(print, "CALLED"), "lr": Evil(exec, "CALLED = 1")}}}},
    "getattr": {{**state, "hyper_parameters": {{"width": Evil(getattr, Net, "load_from_checkpoint")}}}},
}}
for name, root in cases.items():
    torch.save(root, folder / f"{{name}}.ckpt")
    torch.save(root, folder / f"{{name}}.old.ckpt", _use_new_zipfile_serialization=False)
saved(folder / "ours.ckpt", Net(3), hyper_parameters=cases["class path"]["hyper_parameters"])
for module, _ in names:
    sys.modules.pop(module, None)
sys.modules.pop("this_was_imported", None)
for zipped in (True, False):  # what our own code and torch load late is loaded now
    torch.save({{"state_dict": Net(3).state_dict()}}, folder / "warm.ckpt", _use_new_zipfile_serialization=zipped)
    Net.load_from_checkpoint(folder / "warm.ckpt", width=3)
    open_checkpoint(folder / "warm.ckpt")
(folder / "warm.ckpt").unlink()

seen = []
def watch(event, args):
    if event in ("import", "os.system", "subprocess.Popen", "pickle.find_class"):
        seen.append(f"{{event}} {{args!r:.80}}")
    if event == "compile" and "CALLED" in repr(args):  # others are the annotations of our own class
        seen.append(f"{{event}} {{args!r:.80}}")
sys.addaudithook(watch)
outcomes, gone_on = {{}}, {{}}
for path in sorted(folder.glob("*.ckpt")):
    try:
        made = Net.load_from_checkpoint(path, lr=0.1)
        outcomes[path.name] = "loaded"
    except HoldfastError as error:
        outcomes[path.name] = type(error).__name__
    except Exception as error:
        outcomes[path.name] = f"{{type(error).__name__}}: {{error}}"
    try:
        open_checkpoint(path)  # as a fit does that goes on
        gone_on[path.name] = "opened"
    except HoldfastError as error:
        gone_on[path.name] = type(error).__name__
print(json.dumps({{"seen": seen, "outcomes": outcomes, "gone on": gone_on}}))
'''


def test_pain_56_nothing_a_file_names_is_imported_or_called(tmp_path):
    """Files that name code everywhere, of either zip or older form: no import, no call, each loads or is refused."""
    tests = str(Path(__file__).parents[1])
    child = CHILD.format(folder=str(tmp_path), tests=tests)
    run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert "CALLED" not in run.stdout
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["seen"] == []
    new = {name: outcome for name, outcome in found["outcomes"].items() if not name.endswith("old.ckpt")}
    assert new == {
        "callbacks.ckpt": "loaded",
        "calls.ckpt": "Incompatible",
        "class path.ckpt": "ConfigError",
        "getattr.ckpt": "Incompatible",
        "hyperparameters.ckpt": "loaded",
        "instantiator.ckpt": "ConfigError",
        "ours.ckpt": "ConfigError",
        "type.ckpt": "loaded",
        "weights.ckpt": "Foreign",
    }
    refused = {"Foreign", "ConfigError", "Incompatible"}
    assert {outcome for name, outcome in found["outcomes"].items() if name.endswith("old.ckpt")} <= {"loaded", *refused}
    assert set(found["gone on"]) == set(found["outcomes"])
    assert set(found["gone on"].values()) <= {"opened", *refused}
    assert found["gone on"]["ours.ckpt"] == "opened"
