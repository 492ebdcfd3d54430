"""The examples of the pages on checkpoints that start several processes: one checkpoint, written by one of them."""

from __future__ import annotations

from pathlib import Path

import torch

EXAMPLES = Path(__file__).parents[1] / "training" / "seed_examples"


def test_the_examples_of_several_processes_write_one_checkpoint(ranks, tmp_path):
    """On two ranks, as a launcher starts them; with ``strategy="ddp"`` and its older spelling."""
    examples = [path.stem for path in sorted(EXAMPLES.glob("ddp_*.py"))]
    assert examples == ["ddp_accelerator", "ddp_strategy"]
    for example in examples:
        (tmp_path / example).mkdir()
    ranks.run("scripts:run_each", str(EXAMPLES), str(tmp_path), *examples, size=2)
    for example in examples:
        home = tmp_path / example
        files = sorted(path.relative_to(home).as_posix() for path in home.rglob("*.ckpt"))
        assert files == ["example.ckpt", "lightning_logs/version_0/checkpoints/epoch=2-step=9.ckpt"]
        assert torch.load(home / "example.ckpt", weights_only=True)["global_step"] == 9
