"""Hyperparameters from a file of their own, .yaml or .csv."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.errors import ConfigError
from small_modules import Mode, Module, Net, saved
from writing import write


@pytest.fixture
def path(tmp_path):
    """Where the checkpoint of a test goes."""
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.yaml", "width: 3\nlr: 0.5\nmode: slow\n"),
        ("h.yml", "{width: 3, lr: 0.5, mode: slow}"),
        ("h.csv", "key,value\nwidth,3\nlr,0.5\nmode,slow\n"),
    ],
)
def test_hyperparameters_may_come_from_a_file(path, tmp_path, name, text):
    """They take the place of the checkpoint's; what is given still wins."""
    write(path, {"state_dict": Net(3).state_dict(), "hyper_parameters": {"width": 77, "lr": 8}})
    (tmp_path / name).write_text(text)
    back = Net.load_from_checkpoint(path, hparams_file=tmp_path / name, lr=0.25)
    assert dict(back.hparams) == {"width": 3, "lr": 0.25, "mode": Mode.SLOW}


def test_a_hierarchical_file_may_be_one_argument(path, tmp_path):
    """A class whose only required argument takes them all gets them as one, readable by key and by attribute."""

    class Nested(Module):
        def __init__(self, hparams, other=2):
            super().__init__()
            self.body = nn.Linear(hparams["model"]["width"], 1)
            self.rate = hparams.lr

    (tmp_path / "h.yaml").write_text("lr: 0.5\nmodel:\n  width: 3\n")
    write(path, {"state_dict": {"body.weight": torch.ones(1, 3), "body.bias": torch.ones(1)}})
    back = Nested.load_from_checkpoint(path, hparams_file=str(tmp_path / "h.yaml"), lr=4)
    assert back.rate == 4


def test_a_file_of_lightnings_logger_may_hold_tuples(path, tmp_path):
    """It writes them with a tag of Python's, and complex numbers too; no other tag is known."""

    class Shaped(Module):
        def __init__(self, shape, nested, phase):
            super().__init__()
            self.found = shape, nested, phase

    text = "shape: !!python/tuple\n- 1\n- 2\nnested:\n  pair: !!python/tuple [a, [b]]\nphase: !!python/complex '1.0j'\n"
    (tmp_path / "h.yaml").write_text(text)
    write(path, {"state_dict": {}})
    back = Shaped.load_from_checkpoint(path, hparams_file=tmp_path / "h.yaml")
    assert back.found == ((1, 2), {"pair": ("a", ["b"])}, 1j)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("h.json", "{}", "neither a .yaml nor a .csv"),
        ("h.yaml", "- 1\n", "no mapping from names to values"),
        ("h.yaml", "a: !!python/object/apply:os.system ['true']\n", "cannot be read.*without tags"),
        ("h.csv", "a,b\n1,2\n", "no columns named key and value"),
        (None, "", "There is no hparams_file"),
    ],
)
def test_a_file_of_hyperparameters_that_cannot_be_used(path, tmp_path, name, text, says):
    """Each is refused in a sentence, and no tag builds an object."""
    saved(path, Net(3))
    if name is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        Net.load_from_checkpoint(path, hparams_file=tmp_path / (name or "none.yaml"))


def test_yaml_is_an_extra(path, tmp_path, monkeypatch):
    """Without PyYAML the error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "h.yaml").write_text("width: 3\n")
    saved(path, Net(3))
    with pytest.raises(ConfigError, match=r"needs PyYAML\. Install it: pip install pyyaml"):
        Net.load_from_checkpoint(path, hparams_file=tmp_path / "h.yaml")
