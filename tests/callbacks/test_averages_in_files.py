"""Weights and their average are two named parts of a checkpoint; a file of weights alone holds the average."""

from pathlib import Path

import pytest
import torch

from fitting import loader, net
from holdfast import Checkpointer, Trainer, never
from holdfast.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging


def part(path, name):
    """One part of a file."""
    return Checkpointer(Path(path).parent, when=never()).load(path, parts=[name])[name]


def fit(tmp_path, average, **options):
    saver = ModelCheckpoint(tmp_path, filename="state", **options)
    trainer = Trainer(
        max_epochs=2, callbacks=[average, saver], logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, accelerator="cpu",
    )  # fmt: skip
    module = net()
    trainer.fit(module, loader(), None)
    return module, saver.best_model_path


@pytest.mark.parametrize(
    "average", [lambda: EMAWeightAveraging(decay=0.5), lambda: StochasticWeightAveraging(0.05, swa_epoch_start=1)]
)
def test_model_and_average_are_two_parts_by_name(tmp_path, average):
    """Each can be loaded without the other, and they differ."""
    _, path = fit(tmp_path, average())
    model = part(path, "model")
    mean = part(path, "average")
    weight = "layers.0.weight"
    assert model[weight].shape == next(v for name, v in mean.items() if name.endswith(weight)).shape
    assert not torch.equal(model[weight], next(v for name, v in mean.items() if name.endswith(weight)))


def test_a_file_of_weights_alone_holds_the_average(tmp_path):
    """It is what is validated, and what others will use."""
    _, whole = fit(tmp_path / "whole", EMAWeightAveraging(decay=0.5))
    _, alone = fit(tmp_path / "alone", EMAWeightAveraging(decay=0.5), save_weights_only=True)
    mean, found = part(whole, "average"), part(alone, "model")
    assert mean.keys() == found.keys()
    assert all(torch.equal(mean[name], found[name]) for name in mean)
