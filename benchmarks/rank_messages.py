"""Count what a save of several ranks sends through torch's key-value store, and what it writes; fit a line to it.

    python benchmarks/rank_messages.py [--ranks 2 4 8 16 32] [--saves 4] [--strategies ddp fsdp sharded] [--json FILE]

Each rank is a real process over gloo on this host. A fit of a tiny module saves after each of so many steps; another
one of as many steps saves once. The difference, divided by the number of saves between them, is what one save takes.
What a poll between saves takes is counted by itself.
Every call of a rank on the store is counted where Holdfast makes it, with the bytes of its key and value, but for the
looks whether something has come, of which there are more the longer a rank waits. Asserts nothing, measures no time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import socket
import tempfile
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from holdfast import LightningModule, Trainer
from holdfast.callbacks import ModelCheckpoint
from holdfast.engine import group as groups
from holdfast.strategies import FSDPStrategy

STRATEGIES = {"ddp": "ddp", "fsdp": "fsdp", "sharded": FSDPStrategy(state_dict_type="sharded")}
_POLL = re.compile(r"(\d+)/(\w+)/poll/")
COUNTED = ("set", "get", "delete_key", "compare_set")


class Counting:
    """A store whose calls are counted: how many, and the bytes of what was sent."""

    def __init__(self, store: Any, seen: Counter[tuple[str, str]]) -> None:
        self._store, self._seen = store, seen

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in COUNTED:
            return call

        def counted(key: str, *values: str) -> Any:
            self._seen[_phase(key), "messages"] += 1
            if poll := _POLL.match(key):
                self._seen[f"poll, {poll[2]}", poll[1]] += 1
            self._seen[_phase(key), "bytes"] += len(key) + sum(len(value) for value in values)
            answer = call(key, *values)
            if name == "get":
                self._seen[_phase(key), "bytes"] += len(answer)
            return answer

        return counted


def _phase(key: str) -> str:
    """What the ranks were doing: the third part of a key of the group's own; that of the commit's mailbox."""
    numbered = re.match(r"\d+/\w+/(.+?)(/done)?/\d+\Z", key)
    return numbered[1] if numbered else "commit" if key.startswith("save/") else "other"


class Tiny(LightningModule):
    """A few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 8)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """A loss."""
        loss: torch.Tensor = self.net(batch[0]).pow(2).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The usual one."""
        return torch.optim.AdamW(self.parameters())


def fit(strategy: str, folder: str, steps: int, every: int) -> None:
    """One fit."""
    rows = DataLoader(TensorDataset(torch.zeros(steps * int(os.environ["WORLD_SIZE"]), 8)), batch_size=1)
    Trainer(
        accelerator="cpu", strategy=STRATEGIES[strategy], devices="auto", max_epochs=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1)],
    ).fit(Tiny(), rows)  # fmt: skip


def rank(number: int, size: int, port: int, strategy: str, folder: str, saves: int, out: Queue[Any]) -> None:
    """One of the ranks: both fits, and what this rank sent in each."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    made, seen = groups._StoreMailbox.__init__, Counter[tuple[str, str]]()

    def counting(self: Any, store: Any, *rest: Any) -> None:
        made(self, Counting(store, seen), *rest)

    groups._StoreMailbox.__init__ = counting  # type: ignore[method-assign]
    sent = []
    for name, every in (("one", saves), ("all", 1)):
        seen.clear()
        fit(strategy, f"{folder}/{name}", saves, every)
        sent.append(dict(seen))
    out.put((number, sent))


def world(size: int, strategy: str, saves: int) -> dict[str, Any]:
    """What one save takes on so many ranks."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = [
            context.Process(target=rank, args=(number, size, port, strategy, folder, saves, out))
            for number in range(size)
        ]
        for child in children:
            child.start()
        sent = [out.get(timeout=600)[1] for _ in children]
        for child in children:
            child.join()
        files = {name: _files(Path(folder, name)) for name in ("one", "all")}
    more = saves - 1
    phases: Counter[tuple[str, str]] = Counter()
    for one, every in sent:
        phases.update(every)
        phases.subtract(one)
    found = {
        f"{phase} {what}": count / more
        for (phase, what), count in sorted(phases.items())
        if phase in ("plan", "state of each rank", "commit")
    }
    for what in ("messages", "bytes"):
        found[what] = sum(value for name, value in found.items() if name.endswith(what))
    for number, what in enumerate(("files", "bytes on disk")):
        found[what] = (files["all"][number] - files["one"][number]) / more
    found["poll messages"] = _of_a_poll([every for _, every in sent])
    return found


def _of_a_poll(sent: list[dict[tuple[str, str], int]]) -> int:
    """Messages of one poll: of any but the last, for what it leaves in the store the next one removes."""
    calls: Counter[tuple[str, str]] = Counter()
    for one in sent:
        calls.update({call: count for call, count in one.items() if call[0].startswith("poll, ")})
    most: Counter[str] = Counter()
    for (verb, _), count in calls.items():
        most[verb] = max(most[verb], count)
    return sum(most.values())


def _files(folder: Path) -> tuple[int, int]:
    """The files of checkpoints, and their bytes."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".holdfast" not in path.parts]
    return len(paths), sum(path.stat().st_size for path in paths)


def line(sizes: list[int], values: list[float]) -> tuple[float, float, float]:
    """The line of least squares through the counts, and how far the worst of them lies beside it."""
    a = torch.tensor([[1.0, size] for size in sizes], dtype=torch.float64)
    b = torch.tensor(values, dtype=torch.float64)[:, None]
    first, slope = torch.linalg.lstsq(a, b).solution.flatten().tolist()
    return first, slope, max(abs(first + slope * size - value) for size, value in zip(sizes, values, strict=True))


def main() -> None:
    """Print a table for each strategy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    everything: dict[str, Any] = {}
    for strategy in asked.strategies:
        found = {size: world(size, strategy, asked.saves) for size in asked.ranks}
        everything[strategy] = found
        print(
            f"\n{strategy}: of one save, by ranks\n\n| | {' | '.join(map(str, asked.ranks))} | law, R ranks | off by |"
        )
        print("|---|" + "---|" * (len(asked.ranks) + 2))
        for name in found[asked.ranks[0]]:
            values = [found[size][name] for size in asked.ranks]
            first, slope, off = line(asked.ranks, values)
            cells = " | ".join(f"{value:,.0f}" for value in values)
            print(f"| {name} | {cells} | {slope:,.1f} R {first:+,.1f} | {off:,.1f} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
