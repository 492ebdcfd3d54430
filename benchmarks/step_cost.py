"""Measure what a training step costs above a plain PyTorch loop, with Holdfast and with Lightning. Asserts nothing.

    python benchmarks/step_cost.py [--rounds 7] [--steps 500] [--lightning .venv-lightning/bin/python] [--json FILE]

Each round starts one process of either environment, in turn. Each process measures every setting, twice. Whenever the
trainer asks for a batch, a step of the plain loop is taken first, so that both are measured step by step under the same
conditions, whatever the processor's clock and other programs do; what is shown is the median over the rounds of the
mean difference. The trainers get the same settings, the same model and ready-made batches. Neither the start nor the
end of a fit counts, but everything between two batches does: drawing and writing too. The processes have a terminal,
whose output is read and dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from statistics import mean, median
from typing import Any

WARM_UP, REPEAT = 60, 2
LIMIT = 150
"""Seconds after which no further round begins: on a machine that others use, there are fewer then."""
SETTINGS = {
    "bare": "no log, no bar, no checkpoints",
    "checkpoints": "bare, and checkpoints as by default",
    "log": "checkpoints, the CSV logger, self.log of one value a step",
    "bar": "log, and its value in the progress bar",
}
Figures = list[dict[str, Any]]


# In the parent


def main() -> None:
    """Let processes of both environments measure in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lightning", default=".venv-lightning/bin/python", help="its Python; '' leaves it out")
    parser.add_argument("--json", default="build/step_cost.json", help="where the raw figures go")
    parser.add_argument("--measure", choices=("holdfast", "lightning"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        Path(asked.json).write_text(json.dumps(measure(asked.measure, asked.steps)))
        return
    pythons = {"holdfast": sys.executable, **({"lightning": asked.lightning} if asked.lightning else {})}
    began = time.monotonic()
    taken: dict[str, list[Figures]] = {name: [] for name in pythons}
    for _ in range(asked.rounds):
        if time.monotonic() - began > LIMIT:
            break
        for name, python in pythons.items():
            taken[name].append(in_a_terminal(python, name, asked.steps))
    Path(asked.json).parent.mkdir(parents=True, exist_ok=True)
    Path(asked.json).write_text(json.dumps({"steps": asked.steps, "milliseconds": taken}, indent=1))
    show(taken)
    how = f"{len(taken['holdfast'])} rounds of {REPEAT} x {asked.steps:,} steps, {time.monotonic() - began:.0f} s"
    print(f"\n{how}; raw: {asked.json}")


def in_a_terminal(python: str, name: str, steps: int) -> Figures:
    """What one process measures, while a terminal of 120 columns stands behind its stdout and stderr."""
    here, there = pty.openpty()
    with tempfile.TemporaryDirectory() as made:
        answer = Path(made) / "answer.json"
        line = [python, __file__, "--measure", name, "--steps", str(steps), "--json", str(answer)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        screen: list[bytes] = []
        reader = threading.Thread(target=drain, args=(here, screen))
        with subprocess.Popen(line, stdout=there, stderr=there, cwd=Path(__file__).parents[1], env=env) as child:
            os.close(there)
            reader.start()
        reader.join()
        os.close(here)
        if child.returncode:
            raise SystemExit(f"{name} failed:\n{b''.join(screen).decode(errors='replace')[-4000:]}")
        return json.loads(answer.read_text())


def drain(terminal: int, screen: list[bytes]) -> None:
    """Read until the other side is closed, as a terminal does."""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody holds the other side any more
            return
        if not read:
            return
        screen.append(read)


def show(taken: dict[str, list[Figures]]) -> None:
    """One line a setting; milliseconds a step."""
    raw = median(one["raw"] for rounds in taken.values() for figures in rounds for one in figures)
    print(f"\nthe plain loop takes {raw:.3f} ms a step; above it, in ms a step (median, lowest to highest):")
    print(f"{'':12}" + "".join(f"{name:>26}" for name in taken) + f"{'ratio':>8}")
    for setting, meaning in SETTINGS.items():
        above = [[above_raw(figures, setting) for figures in rounds] for rounds in taken.values()]
        cells = "".join(f"{f'{median(a):.3f} ({min(a):.3f} to {max(a):.3f})':>26}" for a in above)
        middle = [median(a) for a in above]
        ratio = f"{middle[0] / middle[1]:8.3f}" if len(middle) == 2 else ""
        print(f"{setting:12}{cells}{ratio}   {meaning}")


def above_raw(figures: Figures, setting: str) -> float:
    """What one process measured for a setting, above the plain loop."""
    return mean(one["trainer"] - one["raw"] for one in figures if one["setting"] == setting)


# In a child


def measure(name: str, steps: int) -> Figures:
    """Milliseconds a step of the plain loop and of the trainer, for each setting."""
    import torch

    torch.set_num_threads(1)
    if name == "holdfast":
        import holdfast as package
        from holdfast.loggers import CSVLogger
    else:
        import lightning as package
        from lightning.pytorch.loggers import CSVLogger
    warnings.simplefilter("ignore")
    batches = Timed([torch.randn(16, 32) for _ in range(64)], WARM_UP + steps + 1)
    measured = []
    for setting in [*SETTINGS] * REPEAT:
        with tempfile.TemporaryDirectory() as root:
            trainer = package.Trainer(
                max_steps=len(batches),
                max_epochs=-1,
                accelerator="cpu",
                logger=CSVLogger(root) if setting in ("log", "bar") else False,
                enable_checkpointing=setting != "bare",
                enable_progress_bar=setting == "bar",
                enable_model_summary=False,
                default_root_dir=root,
            )
            trainer.fit(module(package, logs=setting in ("log", "bar"), shows=setting == "bar"), batches)
        measured.append({"setting": setting, **batches.taken})
    return measured


class Timed:
    """So many ready-made batches, with a step of the plain loop before each; ``taken`` tells how long either needs."""

    def __init__(self, ready, number):
        self.ready, self.number, self.taken = ready, number, {}

    def __len__(self):
        return self.number

    def __iter__(self):
        step, now = plain_step(network()), time.perf_counter
        plain, fitted, asked = [], [], now()
        for index in range(self.number):
            batch = self.ready[index % len(self.ready)]
            began = now()
            fitted.append(began - asked)
            if index == self.number - 1:
                self.taken = {"raw": 1e3 * mean(plain[WARM_UP:]), "trainer": 1e3 * mean(fitted[WARM_UP + 1 :])}
            step(batch)
            asked = now()
            plain.append(asked - began)
            yield batch


def network():
    """A network so small that a step is nearly all overhead of torch's own."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def plain_step(model):
    """A step of training it without any trainer."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(batch):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()

    return step


def module(package, *, logs, shows):
    """The same for a trainer."""
    import torch

    class Tiny(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, batch_idx):
            loss = self.model(batch).square().mean()
            if logs:
                self.log("loss", loss, prog_bar=shows)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Tiny()


if __name__ == "__main__":
    main()
