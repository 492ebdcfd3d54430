"""What ModelSummary prints: every layer down to a depth, what is shared counted once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from holdfast.callbacks import ModelSummary
from holdfast.callbacks.layer_sizes import sizes
from holdfast.callbacks.summary import layers
from holdfast.errors import ConfigError
from holdfast.state.precision import Precision


class Model(nn.Module):
    """A body with a frozen layer and buffers, a head tied to it, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10))
        self.head = nn.Linear(10, 10, bias=False)
        self.head.weight = self.body[0].weight
        self.scale = nn.Parameter(torch.ones(5))
        self.body[1].requires_grad_(False)


def test_layers_are_counted_with_all_below_them():
    """Parameters, trainable ones and bytes, with what is tied counted once in the total."""
    found = {layer.name: (layer.parameters, layer.trainable, layer.bytes) for layer in layers(Model(), max_depth=1)}

    running = 10 * 4 + 10 * 4 + 8  # the mean, the variance and the count of batches
    assert found == {
        "body": (120, 100, 480 + running),
        "head": (100, 100, 400),
        "its own": (5, 5, 20),
        "": (125, 105, 500 + running),
    }


@pytest.mark.parametrize(
    ("depth", "names"),
    [(1, ["body", "head"]), (2, ["body", "body.0", "body.1", "head"]), (-1, ["body", "body.0", "body.1", "head"])],
)
def test_the_depth_says_how_far_it_goes(depth, names):
    """1 is the layers of the module itself, -1 is all."""
    assert [layer.name for layer in layers(Model(), max_depth=depth)] == [*names, "its own", ""]


def test_lines_where_there_is_no_terminal(trainer, capsys):
    """Plain aligned text, without a box or a colour."""
    ModelSummary().on_fit_start(trainer, Model())

    assert capsys.readouterr().out.splitlines() == [
        "layer    type        parameters  trainable   MB",
        "body     Sequential         120        100  0.0",
        "head     Linear             100        100  0.0",
        "its own                       5          5  0.0",
        "all      Model              125        105  0.0",
    ]


def test_a_table_on_a_terminal(trainer, terminal):
    """Every cell is there."""
    ModelSummary().on_fit_start(trainer, Model())

    for word in ("layer", "parameters", "body", "Sequential", "its own", "all", "125"):
        assert word in terminal.text


def test_a_layer_without_a_shape_yet_says_so(trainer, capsys):
    """Lazy parameters count as nothing, and are marked."""
    ModelSummary().on_fit_start(trainer, nn.Sequential(nn.LazyLinear(3)))

    assert "0 + lazy" in capsys.readouterr().out


@pytest.mark.parametrize(("depth", "rank"), [(0, 0), (1, 1)])
def test_nothing_is_shown_where_nothing_is_wanted(making, capsys, depth, rank):
    """Depth 0 is off; other ranks are silent."""
    ModelSummary(depth).on_fit_start(making(global_rank=rank, is_global_zero=rank == 0), Model())

    assert capsys.readouterr().out == ""


def test_a_depth_that_is_none_is_refused():
    """-1 is the lowest."""
    with pytest.raises(ConfigError, match="max_depth"):
        ModelSummary(-2)


class Sized(nn.Module):
    """Layers that a list, a tuple and a word come out of; draws random numbers, and notes in which mode."""

    def __init__(self, example):
        super().__init__()
        self.example_input_array = example
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5).eval()
        self.lstm = nn.LSTM(4, 6)
        self.modes = []

    def forward(self, x, scale=1.0):
        self.modes.append((self.training, torch.is_grad_enabled(), x.dtype))
        torch.rand(1)
        return self.lstm(self.drop(self.norm(x)) * scale)


def test_an_example_gives_the_sizes_of_what_goes_in_and_out(making, capsys):
    """In the kind of numbers of the run; several tensors are a list of shapes."""
    precision = Precision("bf16-true", torch.device("cpu"))
    net = Sized(torch.ones(3, 4)).bfloat16()
    ModelSummary().on_fit_start(making(strategy=SimpleNamespace(spread=False, precision=precision)), net)

    lines = [line.split(maxsplit=5) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["layer", "norm", "drop", "lstm", "all"]
    assert [line[-1].split("  ")[0].strip() for line in lines[1:]] == ["[3, 4]"] * 4
    assert lines[3][-1].endswith("[[3, 6], [[1, 6], [1, 6]]]")
    assert net.modes == [(False, False, torch.bfloat16)]


@pytest.mark.parametrize("example", [torch.ones(3, 4), (torch.ones(3, 4), 2.0), {"x": torch.ones(3, 4), "scale": 2.0}])
def test_the_example_is_one_argument_or_several_and_leaves_no_trace(example):
    """Modes, buffers and random numbers are what they were, and no hook is left."""
    net = Sized(example).train()
    net.drop.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(3)
    found = sizes(net, example)
    drawn = torch.rand(2)

    assert found["norm"] == ([3, 4], [3, 4])
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), drawn)
    assert (net.training, net.norm.training, net.drop.training) == (True, True, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(layer._forward_hooks for layer in net.modules())


def test_an_example_that_does_not_fit_says_what_to_do():
    """The error is the module's own, with what it came from; no hook is left."""
    net = Sized(torch.ones(3, 5))
    with pytest.raises(ConfigError, match=r"through Sized, which raised .*enable_model_summary"):
        sizes(net, net.example_input_array)
    assert not any(layer._forward_hooks for layer in net.modules())
    assert net.training


def test_lazy_parameters_are_not_made_for_a_summary():
    """They are left to the program."""
    net = nn.Sequential(nn.LazyLinear(3))
    assert sizes(net, torch.ones(2, 5)) == {}
    assert net[0].has_uninitialized_params()


def test_parts_of_layers_have_no_sizes(making, capsys):
    """Where each rank holds a part of a layer, the example is not run."""
    net = Sized(torch.ones(3, 4))
    ModelSummary().on_fit_start(making(strategy=SimpleNamespace(spread=True)), net)
    assert "MB" in capsys.readouterr().out.splitlines()[0].split()[-1]
    assert net.modes == []
