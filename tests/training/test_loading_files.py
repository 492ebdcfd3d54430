"""Which files can be read: ours, foreign, damaged, missing; and that nothing in them is imported."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast as L
from holdfast.catalog.folder import Folder
from holdfast.errors import ConfigError, Corrupt, Foreign, Incompatible, NotFound
from holdfast.store import LocalStore
from holdfast.training.loading import read_checkpoint
from making import overwrite
from sameness import same
from small_modules import Mode, Module, Net, saved
from writing import write


class Odd(Module):
    def __init__(self, act=None, width=1):
        super().__init__()
        self.save_hyperparameters()


class Needs(Module):
    def __init__(self, act, width):
        super().__init__()


@pytest.fixture
def path(tmp_path):
    """Where the checkpoint of a test goes."""
    return tmp_path / "a.ckpt"


def test_a_foreign_file_is_read_safely(path):
    """A file of torch.save with these keys loads; what it names is made only where the class names it too."""
    net = Net(3)
    torch.save({"state_dict": net.state_dict(), "hyper_parameters": {"width": 3}, "epoch": 1}, path)
    assert same(Net.load_from_checkpoint(path).state_dict(), net.state_dict())
    torch.save({"state_dict": net.state_dict(), "hyper_parameters": {"width": 3, "mode": Mode.SLOW}}, path)
    for weights_only in (None, True, False):
        assert Net.load_from_checkpoint(path, weights_only=weights_only).hparams.mode is Mode.SLOW


def test_a_foreign_value_that_is_not_plain_needs_trust(path, caplog):
    """It is left out of a safe load, and said; needed, it is an error that names weights_only=False."""
    torch.save({"state_dict": {}, "hyper_parameters": {"act": nn.ReLU, "width": 2, "mode": Mode.SLOW}}, path)
    assert dict(Odd.load_from_checkpoint(path).hparams) == {"act": None, "width": 2}
    assert "not plain, which a safe load leaves out: act" in caplog.text
    assert Odd.load_from_checkpoint(path, weights_only=False).hparams.act is nn.ReLU
    with pytest.raises(Incompatible, match=r"has no value for act.*act is in it.*weights_only=False"):
        Needs.load_from_checkpoint(path)
    torch.save({"state_dict": {"body.weight": nn.Linear(1, 1)}}, path)
    with pytest.raises(Foreign, match=r"cannot be read safely: state_dict\.body\.weight.*weights_only=False"):
        Odd.load_from_checkpoint(path)


def test_a_foreign_file_may_be_anything(path):
    """Rubbish, a list and bare weights are each refused in a sentence that names the file."""
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(Foreign, match=r"a\.ckpt' was not written by Holdfast, and PyTorch cannot read it"):
        Net.load_from_checkpoint(path)
    for rubbish in (b"", b"rubbish", b"hello world\n" * 20, b"garbage" * 100):
        path.write_bytes(rubbish)
        with pytest.raises(Foreign, match="PyTorch cannot read it: it is no checkpoint, or only a piece of one"):
            Net.load_from_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(Incompatible, match="holds a list, not a dictionary"):
        Net.load_from_checkpoint(path)
    torch.save(Net(3).state_dict(), path)
    with pytest.raises(Incompatible, match=r"holds no 'state_dict'. It holds: body.weight.*torch.load"):
        Net.load_from_checkpoint(path, width=3)


def test_values_that_are_not_plain_need_trust(path, caplog):
    """A hyperparameter that only pickle holds is left out of a safe load and said; trust gives it back."""
    with pytest.warns(UserWarning, match="neither plain nor tensors: hyper_parameters.act"):
        saved(path, Odd(nn.ReLU, 2))
    back = Odd.load_from_checkpoint(path)
    assert dict(back.hparams) == {"act": None, "width": 2}
    assert "not plain, which a safe load leaves out: act" in caplog.text
    assert Odd.load_from_checkpoint(path, weights_only=False).hparams.act is nn.ReLU
    caplog.clear()
    assert Odd.load_from_checkpoint(path, act=nn.GELU).hparams.act is nn.GELU
    assert not caplog.text
    with pytest.raises(Incompatible, match=r"has no value for act.*act is in it, but not as a plain value"):
        Needs.load_from_checkpoint(path)


def test_damage_is_an_error_that_names_what_is_good(tmp_path):
    """A flipped byte in a tensor is found; next to a ledger, the newest other checkpoint is named."""
    path = saved(tmp_path / "a.ckpt", Net(3))
    saved(tmp_path / "b.ckpt", Net(3))
    weight = read_checkpoint(path).state["state_dict"]["body.weight"].numpy().tobytes()
    overwrite(path, path.read_bytes().index(weight), b"\x00\x01")
    with pytest.raises(Corrupt, match=r"model\.body\.weight has CRC-32 .*Nothing was loaded") as caught:
        Net.load_from_checkpoint(path)
    assert "newest" not in str(caught.value)
    Folder(LocalStore(tmp_path)).ledger.write("labelled", id="none", label="x")
    with pytest.raises(Corrupt, match=r"'b\.ckpt' \(step 3\) is the newest other one"):
        Net.load_from_checkpoint(path)


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("none.ckpt", NotFound, r"does not exist\.$"),
        ("no/none.ckpt", NotFound, r"does not exist: there is no folder '.*/no'"),
        ("", NotFound, "is a folder"),
        ("nothing://bucket/a.ckpt", ConfigError, "fsspec has nothing for 'nothing'"),
        (b"a.ckpt", ConfigError, "not as a bytes"),
        (None, ConfigError, "not as a NoneType"),
    ],
)
def test_where_there_is_no_checkpoint(tmp_path, monkeypatch, source, error, says):
    """A missing file, a folder, a URL and what is no path each get a sentence."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        Net.load_from_checkpoint(source)


def test_a_missing_file_is_told_with_what_there_is_instead(tmp_path):
    """As a fit tells it; a folder without a ledger may be anybody's, and is not looked through."""
    saved(tmp_path / "a.ckpt", Net(3))
    with pytest.raises(NotFound, match=r"none\.ckpt' does not exist\.$"):
        Net.load_from_checkpoint(tmp_path / "none.ckpt")
    Folder(LocalStore(tmp_path)).ledger.write("labelled", id="none", label="x")
    with pytest.raises(NotFound, match=r"none\.ckpt' does not exist\. The folder holds a\.ckpt\.$"):
        Net.load_from_checkpoint(tmp_path / "none.ckpt")


def test_home_is_expanded(tmp_path, monkeypatch):
    """A path may begin with ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "a.ckpt", Net(3))
    assert Net.load_from_checkpoint("~/a.ckpt").hparams.width == 3


def test_the_whole_dictionary_has_the_keys_that_other_readers_see(path):
    """Read whole, our file is what torch.load gives, with exact types on top; asked for keys, it has those."""
    root = {"state_dict": Net(3).state_dict(), "epoch": 2, "wait": timedelta(1), "hyper_parameters": {"p": Path("x")}}
    write(path, root)
    state = read_checkpoint(path).state
    stock = torch.load(path, weights_only=True)
    assert list(state) == list(stock) == list(root)
    assert (state["wait"], stock["wait"]) == (timedelta(1), 86400.0)
    assert (state["hyper_parameters"], stock["hyper_parameters"]) == ({"p": Path("x")}, {"p": "x"})
    assert same(state["state_dict"], stock["state_dict"])
    assert list(read_checkpoint(path, ["epoch", "none"]).state) == ["epoch"]


class Words(L.LightningDataModule):
    def __init__(self, root, size=1):
        super().__init__()
        self.save_hyperparameters()
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_datamodule_comes_back_from_a_foreign_file(path):
    """Its hyperparameters, with their types, and the state under its name; given arguments win."""
    theirs = {"datamodule_hyper_parameters": {"root": Path("x"), "size": 2}, "datamodule_hparams_name": "kwargs"}
    torch.save({"state_dict": {}, **theirs, "Words": {"at": 5}}, path)
    back = Words.load_from_checkpoint(path, size=3)
    assert (back.hparams.root, back.hparams.size, back.at) == (Path("x"), 3, 5)
