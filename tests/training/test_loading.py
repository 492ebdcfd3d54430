"""How load_from_checkpoint builds a module: hyperparameters, given arguments, the order of its steps."""

from __future__ import annotations

from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import ConfigError, Corrupt, Incompatible
from holdfast.training.hparams import AttributeDict
from making import overwrite
from sameness import same
from small_modules import Conf, Mode, Module, Net, saved
from writing import write


@pytest.fixture
def path(tmp_path):
    """Where the checkpoint of a test goes."""
    return tmp_path / "a.ckpt"


def test_a_module_comes_back_as_it_was(path):
    """Weights, buffers and hyperparameters are those that were saved; an Enum is itself again."""
    net = Net(3, mode=Mode.SLOW)
    net.norm.running_mean.fill_(7.0)
    back = Net.load_from_checkpoint(saved(path, net))
    assert type(back) is Net
    assert same(back.state_dict(), net.state_dict())
    assert back.hparams == net.hparams
    assert back.hparams.mode is Mode.SLOW
    assert back.training


def test_given_arguments_win(path):
    """Keyword arguments replace stored ones, one by one."""
    back = Net.load_from_checkpoint(str(saved(path, Net(3, lr=0.5))), lr=9.0, mode=Mode.SLOW)
    assert dict(back.hparams) == {"width": 3, "lr": 9.0, "mode": Mode.SLOW}


def test_everyday_types_come_back_from_a_safe_load(path):
    """Paths, NumPy scalars and arrays, timedeltas, Namespaces, dtypes and devices keep their types."""

    class Any(Module):
        def __init__(self, **anything):
            super().__init__()
            self.save_hyperparameters()

    given = {
        "path": Path("x/y"), "seed": np.int64(3), "wait": timedelta(seconds=2), "space": Namespace(a=Path("z")),
        "dtype": torch.bfloat16, "device": torch.device("cpu"), "shape": (1, 2), "nested": {"rate": np.float32(0.5)},
    }  # fmt: skip
    back = Any.load_from_checkpoint(saved(path, Any(**given)))
    assert dict(back.hparams) == given
    assert {k: type(v) for k, v in back.hparams.items()} == {k: type(v) for k, v in given.items()}
    assert type(back.hparams.nested["rate"]) is np.float32


def test_arrays_come_back_though_tensors_go_elsewhere(path):
    """map_location moves tensors; an array among the hyperparameters is one of host memory again."""

    class Weighted(Module):
        def __init__(self, weights):
            super().__init__()
            self.save_hyperparameters()

    back = Weighted.load_from_checkpoint(saved(path, Weighted(np.arange(3))), map_location="cpu")
    assert type(back.hparams.weights) is np.ndarray
    assert back.hparams.weights.tolist() == [0, 1, 2]


@pytest.mark.parametrize("given", [Namespace(width=3, lr=0.5), {"width": 3, "lr": 0.5}, Conf(3, Mode.SLOW)])
def test_one_argument_comes_back_as_one(path, given):
    """What was one Namespace or dict is one again, readable as it was; given values go into it."""

    class Net(Module):
        def __init__(self, conf, other=1):
            super().__init__()
            self.conf = conf
            self.other = other
            self.save_hyperparameters(conf)

    saved(path, Net(given))
    back = Net.load_from_checkpoint(path, width=8, other=2)
    assert back.conf.width == back.hparams.width == 8
    assert back.other == 2
    assert type(back.conf) is (Namespace if isinstance(given, Namespace) else AttributeDict)
    replaced = Net.load_from_checkpoint(path, conf={"width": 5})
    assert replaced.conf == {"width": 5}


def test_one_dataclass_comes_back_as_itself_where_it_is_named(path):
    """The annotation names it, so the argument is that dataclass again, with its Enum."""

    class Net(Module):
        def __init__(self, conf: Conf):
            super().__init__()
            self.conf = conf
            self.save_hyperparameters(conf)

    Net.__init__.__annotations__["conf"] = Conf
    assert Net.load_from_checkpoint(saved(path, Net(Conf(2, Mode.SLOW)))).conf == Conf(2, Mode.SLOW)


def test_what_the_class_does_not_take_is_left_out(path, caplog):
    """Stored extras go quietly, as the class has changed; a given one that is not taken is said."""
    saved(path, Net(3), hyper_parameters={"width": 3, "gone": 1})
    back = Net.load_from_checkpoint(path, widht=4)
    assert back.hparams.width == 3
    assert "Net.__init__ takes no widht, which is left out; it takes: width, lr, mode" in caplog.text


class Open(Module):
    def __init__(self, **anything):
        super().__init__()
        self.anything = anything


class Opener(Open):
    pass


CLI = "lightning.pytorch.cli.instantiate_module"


def test_keys_that_name_code_are_never_arguments(path):
    """What Lightning's command line writes to have something called is not called, nor handed on as text."""
    saved(path, Open(), hyper_parameters={"a": 1, "_instantiator": CLI})
    assert Open.load_from_checkpoint(path).anything == {"a": 1}


def test_a_file_of_the_command_line_may_name_a_subclass_that_is_there(path):
    """It is looked up among what is imported; another class, or one that is not there, is refused."""
    here = f"{__name__}.Opener"
    saved(path, Open(), hyper_parameters={"a": 1, "_instantiator": CLI, "_class_path": here})
    made = Open.load_from_checkpoint(path)
    assert (type(made), made.anything) == (Opener, {"a": 1})
    saved(path, Open(), hyper_parameters={"_instantiator": CLI, "_class_path": f"{__name__}.Open"})
    with pytest.raises(ConfigError, match="no subclass of Opener that is imported"):
        Opener.load_from_checkpoint(path)
    for named in ("os.system", "no_such_module.Net", 3, "Net"):
        saved(path, Open(), hyper_parameters={"_instantiator": CLI, "_class_path": named})
        with pytest.raises(ConfigError, match="no subclass of Open that is imported"):
            Open.load_from_checkpoint(path)


@pytest.mark.parametrize("named", ["os.system", "lightning.pytorch.cli.instantiate_module.more", 3])
def test_what_else_a_file_names_to_build_the_module_is_refused(path, named):
    """Only what Lightning's own command line writes is known; nothing is called either way."""
    saved(path, Open(), hyper_parameters={"a": 1, "_instantiator": named})
    with pytest.raises(ConfigError, match=r"as what builds the Open.*It was not called"):
        Open.load_from_checkpoint(path)


def test_missing_arguments_are_one_error(path):
    """All of them are named, with both ways out."""

    class Two(Module):
        def __init__(self, width, /, depth, *, lr=1):
            super().__init__()

    saved(path, Two(1, 2))
    with pytest.raises(Incompatible) as caught:
        Two.load_from_checkpoint(path)
    text = str(caught.value)
    assert "has no value for width, depth, which" in text
    assert "Two.load_from_checkpoint(path, width=..., depth=...); or call save_hyperparameters()" in text
    assert isinstance(Two.load_from_checkpoint(path, width=1, depth=2), Two)


def test_an_enum_that_has_lost_its_member_is_said(path):
    """The error is of the checkpoint, and says which argument to give."""
    saved(path, Net(3), hyper_parameters={"width": 3, "mode": "other"})
    with pytest.raises(Incompatible, match=r"a\.ckpt' holds a hyperparameter .*'mode' of Net .*keyword argument"):
        Net.load_from_checkpoint(path)
    assert Net.load_from_checkpoint(path, mode=Mode.SLOW).hparams.mode is Mode.SLOW


def test_the_order_is_build_configure_hook_load(path):
    """configure_model comes before the hook, and the hook's edits of the whole dictionary are what is loaded."""
    calls = []

    class Late(Module):
        def __init__(self, width):
            super().__init__()
            calls.append("init")

        def configure_model(self):
            calls.append("configure_model")
            self.body = nn.Linear(2, 2, bias=False)

        def on_load_checkpoint(self, checkpoint):
            calls.append(f"on_load_checkpoint {sorted(checkpoint)}")
            checkpoint["state_dict"] = {"body.weight": checkpoint["extra"]["weight"]}

        def load_state_dict(self, state, strict=True, assign=False):
            calls.append("load_state_dict")
            return super().load_state_dict(state, strict, assign)

    extra = {"weight": torch.eye(2), "when": timedelta(1)}
    write(path, {"state_dict": {}, "hyper_parameters": {"width": 1}, "extra": extra, "epoch": 1})
    back = Late.load_from_checkpoint(path)
    assert calls == [
        "init",
        "configure_model",
        "on_load_checkpoint ['epoch', 'extra', 'hyper_parameters', 'state_dict']",
        "load_state_dict",
    ]
    assert torch.equal(back.body.weight, torch.eye(2))


def test_without_a_hook_only_what_is_needed_is_read(path):
    """Damage in another part of the file stands in nobody's way, unless a hook is to see the whole."""

    class Curious(Net):
        def on_load_checkpoint(self, checkpoint):
            pass

    saved(path, Net(3), optimizer_states=[{"state": torch.arange(1000.0)}])
    with path.open("rb") as file:
        at = file.read().index(torch.arange(1000.0).numpy().tobytes())
    overwrite(path, at, b"\xff")
    assert isinstance(Net.load_from_checkpoint(path), Net)
    with pytest.raises(Corrupt, match="optimizer_states"):
        Curious.load_from_checkpoint(path)


def test_calling_it_on_an_instance_is_refused(path):
    """The result would be lost: a TypeError says what to write instead. Looking at it is no error."""
    net = Net(3)
    assert callable(net.load_from_checkpoint)
    with pytest.raises(TypeError, match=r"call it on the class, and keep what it returns: loaded = Net\.load_from"):
        net.load_from_checkpoint(path)
    assert Net.load_from_checkpoint.__doc__ == "Build it."


def test_a_subclass_may_override_and_call_on(path):
    """super() works in a subclass's classmethod."""

    class Sub(Net):
        @classmethod
        def load_from_checkpoint(cls, path, **kwargs):
            return super().load_from_checkpoint(path, lr=4.0, **kwargs)

    back = Sub.load_from_checkpoint(saved(path, Net(3)))
    assert type(back) is Sub
    assert back.hparams.lr == 4.0
