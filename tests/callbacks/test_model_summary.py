"""What ModelSummary prints: every layer down to a depth, what is shared counted once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.callbacks import ModelSummary
from holdfast.callbacks.summary import layers
from holdfast.errors import ConfigError


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
