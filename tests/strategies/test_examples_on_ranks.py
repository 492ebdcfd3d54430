"""The examples of the pages on checkpoints that start several processes: one checkpoint, written by one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "training" / "seed_examples"


@pytest.mark.parametrize("example", ["ddp_strategy", "ddp_accelerator"])
def test_the_example_of_several_processes_writes_one_checkpoint(example, ranks, tmp_path):
    """On two ranks, as a launcher starts them; with ``strategy="ddp"`` and its older spelling."""
    ranks.run("scripts:run_script", str(EXAMPLES / f"{example}.py"), str(tmp_path), size=2)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.ckpt"))
    assert files == ["example.ckpt", "lightning_logs/version_0/checkpoints/epoch=2-step=9.ckpt"]
    assert torch.load(tmp_path / "example.ckpt", weights_only=True)["global_step"] == 9
