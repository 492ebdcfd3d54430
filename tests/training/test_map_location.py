"""Where tensors go when a checkpoint is read: every form of map_location."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import ConfigError, Incompatible
from holdfast.training.loading import read_checkpoint
from sameness import same
from small_modules import Net, saved
from writing import write


@pytest.fixture
def path(tmp_path):
    """Where the checkpoint of a test goes."""
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize(
    "map_location",
    [
        None,
        "cpu",
        torch.device("cpu"),
        {"cpu": "cpu"},
        {"cuda:1": "cuda:0"},
        {torch.device("cuda", 3): 0},
        lambda storage, saved_from: storage,
        lambda storage, saved_from: None,
    ],
)
@pytest.mark.parametrize("whose", ["ours", "foreign"])
def test_every_form_of_map_location_is_taken(path, map_location, whose):
    """All forms of torch.load work, for our files and for others; what is saved from the CPU stays there."""
    net = Net(3)
    if whose == "ours":
        saved(path, net)
    else:
        torch.save({"state_dict": net.state_dict(), "hyper_parameters": {"width": 3}}, path)
    back = Net.load_from_checkpoint(path, map_location=map_location)
    assert same(back.state_dict(), net.state_dict())


@pytest.mark.parametrize("whose", ["ours", "foreign"])
def test_a_device_is_given_each_storage_once_with_its_origin(path, whose):
    """A function sees the storage and where it was saved from; tied tensors stay tied."""
    seen = []

    def place(storage, saved_from):
        seen.append((type(storage), saved_from))
        return storage

    weight = torch.ones(2)
    root = {"state_dict": {"a": weight, "b": weight}, "other": weight}
    write(path, root) if whose == "ours" else torch.save(root, path)
    state = read_checkpoint(path, map_location=place).state
    assert seen == [(torch.UntypedStorage, "cpu")]
    assert state["state_dict"]["a"].data_ptr() == state["state_dict"]["b"].data_ptr() == state["other"].data_ptr()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the machine has the device")
def test_a_device_that_is_not_here(path, monkeypatch, caplog):
    """Asked for, it is an error; saved from there, the CPU takes its place with one line that says so."""
    saved(path, Net(3))
    for asked in ("cuda", "cuda:0", {"cpu": "cuda:0"}):
        with pytest.raises(Incompatible, match=r"cannot be loaded to the device 'cuda.*map_location='cpu'"):
            Net.load_from_checkpoint(path, map_location=asked)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
    saved(path, Net(3))
    caplog.set_level("INFO", logger="holdfast")
    assert Net.load_from_checkpoint(path).body.weight.device.type == "cpu"
    assert caplog.text.count("was saved from cuda:1, which is not here: loaded to the CPU") == 1
    assert Net.load_from_checkpoint(path, map_location={"cuda:1": "cpu"}).body.weight.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_the_module_and_leaves_arrays(path):
    """With a GPU the module goes where its tensors were read to; arrays among hyperparameters stay on the host."""
    saved(path, Net(3), hyper_parameters={"width": 3, "lr": np.ones(2)})
    for asked in ("cuda", 0, torch.device("cuda:0"), {"cpu": "cuda:0"}, lambda storage, saved_from: storage.cuda()):
        back = Net.load_from_checkpoint(path, map_location=asked)
        assert {t.device.type for t in back.state_dict().values()} == {"cuda"}
        assert type(back.hparams.lr) is np.ndarray
    saved(path, Net(3).cuda())
    assert Net.load_from_checkpoint(path).body.weight.device == torch.device("cuda:0")
    assert Net.load_from_checkpoint(path, map_location={"cuda:0": "cpu"}).body.weight.device.type == "cpu"


@pytest.mark.parametrize("wrong", ["nowhere", 1.5, {"cpu": "nowhere"}, object()])
def test_what_is_no_map_location_is_refused(path, wrong):
    """Before anything is read, in a sentence."""
    saved(path, Net(3))
    with pytest.raises(ConfigError, match="map_location"):
        Net.load_from_checkpoint(path, map_location=wrong)
