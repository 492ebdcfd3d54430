"""Hyperparameters given as OmegaConf containers: saved as plain values, read as containers where OmegaConf is there."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch

from holdfast.engine import containers
from holdfast.training.hparams import AttributeDict, checkpoint_entries
from small_modules import Module, saved

omegaconf = pytest.importorskip("omegaconf")
OmegaConf, DictConfig, ListConfig = omegaconf.OmegaConf, omegaconf.DictConfig, omegaconf.ListConfig


class Whole(Module):
    def __init__(self, cfg, other=1):
        super().__init__()
        self.save_hyperparameters(cfg)
        self.cfg = cfg


class Parts(Module):
    def __init__(self, optim, sizes=(), lr=0.1):
        super().__init__()
        self.save_hyperparameters()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ckpt"


@pytest.fixture
def cfg():
    return OmegaConf.create(
        {"lr": 0.1, "model": {"width": 3, "twice": "${model.width}${model.width}"}, "sizes": [1, 2]}
    )


def test_one_container_is_one_again(path, cfg):
    """Its items are attributes at every level, given ones go into it, and interpolations of its parts stay such."""
    net = Whole(cfg)
    assert (net.hparams.lr, net.hparams.model.width, net.hparams["sizes"]) == (0.1, 3, [1, 2])
    back = Whole.load_from_checkpoint(saved(path, net), lr=0.5)
    assert isinstance(back.cfg, DictConfig)
    assert (back.cfg.lr, back.cfg.model.width, back.cfg.sizes) == (0.5, 3, [1, 2])
    back.cfg.model.width = 4
    assert back.cfg.model.twice == "44"


def test_the_file_holds_plain_values(path, cfg):
    """Stock PyTorch reads it; what kind of object it was is a word."""
    state = torch.load(saved(path, Whole(cfg)), weights_only=True)
    assert type(state["hyper_parameters"]) is dict
    assert type(state["hyper_parameters"]["model"]) is dict
    assert (state["hparams_name"], state["hparams_type"]) == ("cfg", "omegaconf.DictConfig")


def test_containers_among_the_arguments_come_back(path):
    """Dicts and lists, each as it was."""
    given = {"optim": OmegaConf.create({"name": "sgd"}), "sizes": OmegaConf.create([1, 2])}
    back = Parts.load_from_checkpoint(saved(path, Parts(**given)))
    assert dict(back.hparams) == {**given, "lr": 0.1}
    assert (type(back.hparams.optim), type(back.hparams.sizes)) == (DictConfig, ListConfig)


def test_what_is_missing_in_it_stays_missing(path):
    """A mandatory value that nobody has given yet is no reason to refuse a save."""
    back = Whole.load_from_checkpoint(saved(path, Whole(OmegaConf.create({"lr": "???"}))))
    assert OmegaConf.is_missing(back.cfg, "lr")


def test_without_omegaconf_they_are_dictionaries(path, cfg, monkeypatch):
    """Items are attributes of the one that was the whole."""
    saved(path, Whole(cfg))
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    assert containers.container({}) is None
    back = Whole.load_from_checkpoint(path)
    assert type(back.cfg) is AttributeDict
    assert back.cfg.model["width"] == 3


def test_a_file_of_lightning_with_a_container_is_read_safely(path, cfg, monkeypatch):
    """It pickles the container and its class: both are read without a call, interpolations as they are written."""
    foreign = {"state_dict": {}, "hyper_parameters": cfg, "hparams_name": "cfg", "hparams_type": DictConfig}
    torch.save(foreign, path)
    back = Whole.load_from_checkpoint(path)
    assert isinstance(back.cfg, DictConfig)
    assert OmegaConf.to_container(back.cfg) == OmegaConf.to_container(cfg)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_entries_of_a_checkpoint_do_not_change_what_was_given(cfg):
    """Saving leaves the container as it is."""
    before = OmegaConf.to_yaml(cfg)
    checkpoint_entries(Whole(cfg))
    assert OmegaConf.to_yaml(cfg) == before
