"""How a state dict is put into a module: what fits, what is said, what is an error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.errors import Incompatible
from holdfast.policy.what import trainable_only
from sameness import same
from small_modules import Module, Net, saved
from writing import write


@pytest.fixture
def path(tmp_path):
    """Where the checkpoint of a test goes."""
    return tmp_path / "a.ckpt"


def test_all_that_does_not_fit_is_one_error(path):
    """Missing, left over and misshapen keys are in one error, which says that nothing on disk changed."""
    state = Net(3).state_dict()
    state["body.weight"] = torch.zeros(2, 5)
    state["head.bias"] = state.pop("norm.weight")
    write(path, {"state_dict": state, "hyper_parameters": {"width": 3}})
    with pytest.raises(Incompatible) as caught:
        Net.load_from_checkpoint(path)
    text = str(caught.value)
    assert "missing: norm.weight" in text
    assert "not in the module: head.bias" in text
    assert "of another shape: body.weight ([2, 5] there, [2, 3] here)" in text
    with pytest.raises(Incompatible, match=r"does not fit Net: of another shape: body.weight [^;]*\. The"):
        Net.load_from_checkpoint(path, strict=False)


@pytest.mark.parametrize("by", ["argument", "attribute"])
def test_a_partial_load_says_how_much(path, caplog, by):
    """strict=False, or strict_loading of the module, loads what fits; one line counts it and lists the rest."""

    class Lenient(Net):
        strict_loading = by == "argument"

    state = Net(3).state_dict()
    state["head.bias"] = state.pop("norm.weight")
    write(path, {"state_dict": state, "hyper_parameters": {"width": 3}})
    caplog.set_level("INFO", logger="holdfast")
    back = Lenient.load_from_checkpoint(path, strict=False if by == "argument" else None)
    assert torch.equal(back.body.weight, state["body.weight"])
    assert "loaded 6 of the 7 tensors of Lenient from" in caplog.text
    assert "not in the checkpoint: norm.weight; not in the module: head.bias" in caplog.text


def test_a_partial_load_of_nothing_is_an_error(path):
    """strict=False does not hide that not one tensor fits; both sides' names are shown."""
    write(path, {"state_dict": {"a.b": torch.zeros(1)}, "hyper_parameters": {"width": 3}})
    with pytest.raises(
        Incompatible, match=r"none of the module's 7 tensors.*It holds a\.b; the module has body\.weight"
    ):
        Net.load_from_checkpoint(path, strict=False)


def test_a_file_of_trained_weights_alone_says_how_to_load_it(path):
    """Keys that were never saved are no damage: the error says so."""
    net = Net(3)
    write(
        path,
        {"state_dict": net.state_dict(), "hyper_parameters": {"width": 3}},
        what=trainable_only.excluding("*.norm.*"),
    )
    with pytest.raises(Incompatible, match=r"a part of the weights only \(trainable only.*strict=False"):
        Net.load_from_checkpoint(path)
    assert torch.equal(Net.load_from_checkpoint(path, strict=False).body.weight, net.body.weight)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module.{key}",
        lambda key: f"module._orig_mod.{key}",
        lambda key: key.replace("body.", "body._orig_mod."),
    ],
)
def test_the_names_of_wrappers_do_not_matter(path, caplog, rename):
    """Keys saved from a compiled or wrapped module load into a bare one, and that is said."""
    net = Net(3)
    state = {rename(key): value for key, value in net.state_dict().items()}
    write(path, {"state_dict": state, "hyper_parameters": {"width": 3}})
    caplog.set_level("INFO", logger="holdfast")
    back = Net.load_from_checkpoint(path)
    assert same(back.state_dict(), net.state_dict())
    assert "keys but for _orig_mod. and module." in caplog.text


def test_a_wrapped_module_loads_bare_keys(path):
    """It works the other way round too, and a submodule that is really called module keeps its name."""

    class Wrapped(Module):
        def __init__(self):
            super().__init__()
            self._orig_mod = nn.Linear(2, 2)
            self.module = nn.Linear(2, 2)

    class Bare(Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    wrapped = Wrapped()
    state = wrapped.state_dict()
    back = Wrapped.load_from_checkpoint(saved(path, wrapped))
    assert same(back.state_dict(), state)
    # Both of the file's pairs are called weight and bias without wrappers' names: there is a choice, so none is made.
    write(path, {"state_dict": {"weight": torch.ones(2, 2), "_orig_mod.weight": torch.zeros(2, 2)}})
    with pytest.raises(Incompatible, match=r"missing: module\.weight, module\.bias; not in the module: weight"):
        Bare.load_from_checkpoint(path)
    write(path, {"state_dict": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}})
    assert torch.equal(Bare.load_from_checkpoint(path).module.weight, torch.ones(2, 2))


def test_versions_of_submodules_are_found_under_wrappers_names(path):
    """A batch norm of the current version is read as that, though its key has another prefix."""
    versions = []

    class Watching(nn.Linear):
        _version = 5

        def _load_from_state_dict(self, state, prefix, local_metadata, *rest):
            versions.append(local_metadata.get("version"))
            super()._load_from_state_dict(state, prefix, local_metadata, *rest)

    class Net(Module):
        def __init__(self):
            super().__init__()
            self.body = Watching(1, 1)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self._orig_mod = Net()

    write(path, {"state_dict": Outer().state_dict()})
    Net.load_from_checkpoint(path)
    assert versions == [5]
