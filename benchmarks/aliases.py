"""Count what is written when several rules want one step: ``save_last`` beside top-k, three callbacks, three folders.

    python benchmarks/aliases.py [--megabytes 30] [--peers PYTHON] [--json FILE]

Either trainer saves every five steps of twenty, in a process of its own. Bytes are those that the process handed to the
kernel's write calls while it fitted, by ``/proc/self/io`` (``wchar``), so that a file that is written and removed
counts; files are distinct inodes that are left. Nothing is timed; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import stall_arms
import torch
from measuring import write_json

STEPS, EVERY = 20, 5
BEST = {"monitor": "loss", "save_top_k": 2, "every_n_train_steps": EVERY}
THREE: list[dict[str, Any]] = [
    {**BEST, "filename": "best-{step}"},
    {"filename": "all-{step}", "save_top_k": -1, "every_n_train_steps": EVERY},
    {"filename": "newest-{step}", "monitor": "step", "mode": "max", "every_n_train_steps": EVERY},
]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "top-k": [BEST],
    "top-k, save_last": [{**BEST, "save_last": True}],
    "top-k, save_last='link'": [{**BEST, "save_last": "link"}],
    "three callbacks": THREE,
    "three callbacks, three folders": [{**options, "dirpath": str(n)} for n, options in enumerate(THREE)],
}
"""Arguments of each callback; ``dirpath`` is below the folder of the fit."""


def main() -> None:
    """Let either trainer fit in each setting, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--peers", default=".venv-lightning/bin/python", help="Lightning's Python; '' leaves it out")
    parser.add_argument("--folder", default="build")
    parser.add_argument("--json", default="build/aliases.json", help="where the raw figures go")
    parser.add_argument("--measure", choices=("holdfast", "lightning"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        Path(asked.json).write_text(json.dumps(measure(asked.measure, asked.megabytes, Path(asked.folder))))
        return
    pythons = {"holdfast": sys.executable, **({"lightning": asked.peers} if asked.peers else {})}
    Path(asked.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        found = {name: in_a_process(python, name, asked.megabytes, Path(made)) for name, python in pythons.items()}
    saves = STEPS // EVERY
    print(f"{saves} saves of {asked.megabytes:.0f} MB; megabytes written (times one checkpoint a save), files left:")
    for name, settings in found.items():
        for setting, one in settings.items():
            times = one["written"] / (saves * one["size"])
            print(f"{name:12}{setting:32}{one['written'] / 1e6:9.1f} ({times:4.2f}){one['files']:4}")
    write_json(asked.json, {"megabytes": asked.megabytes, "saves": saves, "trainers": found})
    print(f"\nraw: {asked.json}")


def in_a_process(python: str, name: str, megabytes: float, folder: Path) -> dict[str, Any]:
    """What one trainer writes."""
    answer = folder / f"{name}.json"
    options = [f"--measure={name}", f"--megabytes={megabytes}", f"--folder={folder}", f"--json={answer}"]
    done = subprocess.run([python, __file__, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(answer.read_text())


def measure(name: str, megabytes: float, folder: Path) -> dict[str, Any]:
    """Bytes written, files left and the size of one, for each setting."""
    if name == "holdfast":
        import holdfast as package
        from holdfast.callbacks import ModelCheckpoint
    else:
        import lightning as package
        from lightning.pytorch.callbacks import ModelCheckpoint
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {}
    for setting, callbacks in SETTINGS.items():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            trainer = package.Trainer(
                max_steps=STEPS,
                accelerator="cpu",
                devices=1,
                logger=False,
                callbacks=[
                    ModelCheckpoint(**{**options, "dirpath": Path(made, options.get("dirpath", ""))})
                    for options in callbacks
                ],
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=made,
            )
            model = module(package, megabytes)
            before = written()
            trainer.fit(model, torch.utils.data.DataLoader(torch.randn(2 * STEPS, model.model[0].in_features)))
            left = {file.stat().st_ino: file.stat().st_size for file in Path(made).rglob("*.ckpt")}
            found[setting] = {"written": written() - before, "files": len(left), "size": max(left.values())}
    return found


def module(package: Any, megabytes: float) -> Any:
    """A network whose loss falls with each step, so that each is the best."""

    class Falling(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = stall_arms.network(megabytes)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.log("loss", 1.0 / (batch_idx + 1))
            return stall_arms.loss_of(self.model, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    return Falling()


def written() -> int:
    """Bytes that this process has given to write calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
