"""Files written by Holdfast, opened by real Lightning in an environment of its own."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from holdfast import Checkpointer, every

PYTHON = Path(__file__).parents[2] / ".venv-lightning" / "bin" / "python"
pytestmark = pytest.mark.interop


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))


def test_lightning_loads_a_model_from_our_file(tmp_path):
    """Both of its packages' load_from_checkpoint give the weights, buffers and names that were saved, bit for bit."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2])
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(model=net, optimizer=optimizer, scheduler=scheduler)
        for _ in range(3):
            optimizer.zero_grad()
            net.layers(torch.randn(5, 4)).sum().backward()
            optimizer.step()
            scheduler.step()
            ckpt.step()
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())

    script = Path(__file__).with_name("lightning_reads.py")
    run = subprocess.run([PYTHON, script, tmp_path / "last.ckpt"], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["lightning"] == found["pytorch_lightning"] == digest.hexdigest()
    assert found["step"] == 3
    assert found["version"] == "2.6.6"
    assert set(found["keys"]) >= {"state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"}
