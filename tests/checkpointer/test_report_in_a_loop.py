"""A loop of somebody's own is told what it goes on with, as a fit is."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Checkpointer, every


def run(folder, *, lr=0.1, size=4, ema=None, steps=3):
    """Train so many steps, from where the folder stands."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
    loader = DataLoader(TensorDataset(torch.ones(40, 4)), batch_size=size, shuffle=True)
    more = {} if ema is None else {"ema": ema}
    with Checkpointer(folder, when=every(steps=1)) as ckpt:
        ckpt.resume(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, fresh=list(more), **more)
        for _, (batch,) in zip(range(steps), ckpt.batches(loader), strict=False):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            ckpt.step()
        return optimizer.param_groups[0]["lr"]


def told(caplog):
    """The lines of the report that was told last."""
    found = [r.getMessage() for r in caplog.records if r.getMessage().startswith("what the run goes on with")]
    return found[-1].split("\n")[1:]


def test_a_loop_that_goes_on_as_it_was_is_told_so(tmp_path, caplog):
    """What was restored, that nothing differs, and that it is exact; a fresh start tells nothing."""
    caplog.set_level(logging.INFO, logger="holdfast")
    run(tmp_path)
    assert "what the run goes on with" not in caplog.text
    run(tmp_path)
    source, *rest = told(caplog)
    assert source.endswith(", step 3, epoch 0")
    assert rest == [
        "restored      model, optimizer, scheduler, loader, random state",
        "not restored  nothing is missing",
        "differs       nothing",
        "exact         yes: what follows is what would have followed without the stop, on the same data",
    ]


def test_pain_10_a_rate_that_the_checkpoint_replaces_is_told(tmp_path, caplog):
    """The objects get the checkpoint's state, as resume() says; and nobody is left to wonder, however often."""
    caplog.set_level(logging.INFO, logger="holdfast")
    run(tmp_path, lr=0.1)
    for _ in range(2):
        assert run(tmp_path, lr=0.7) == 0.1
        (line,) = [line for line in told(caplog) if line.startswith("learning rate")]
        assert line.split() == ["learning", "rate", "0.1", "0.7", "the", "checkpoint's"]


def test_pain_29_other_data_is_told(tmp_path, caplog):
    """The batch size, and why what follows is not exact."""
    caplog.set_level(logging.INFO, logger="holdfast")
    run(tmp_path)
    with pytest.warns(UserWarning, match="Going on is not exact: a batch of the DataLoader had 4 samples and has 8"):
        run(tmp_path, size=8)
    assert any(line.split() == ["batch", "size", "4", "8", "as", "it", "is", "now"] for line in told(caplog))
    assert told(caplog)[-1].startswith("exact         no: ")


def test_what_the_checkpoint_does_not_hold_is_told(tmp_path, caplog):
    """A part that is new."""
    caplog.set_level(logging.INFO, logger="holdfast")
    run(tmp_path)
    run(tmp_path, ema={"decay": 0.9})
    assert told(caplog)[2] == "not restored  ema"
