"""What MetricLog promises to those who log, to those who look, and to the loop, which must not wait."""

import json
import math
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.errors import ConfigError
from holdfast.policy.values import Score
from holdfast.training.metrics import MetricLog, numbers
from holdfast.training.module import LightningModule

ROOT = Path(__file__).parents[2]
LIGHTNING = ROOT / ".venv-lightning" / "bin" / "python"


def begun(stage="train", **options):
    """A log within a stage and a batch of four samples."""
    log = MetricLog()
    log.begin_stage(stage, **options)
    log.begin_batch(torch.zeros(4, 2))
    return log


def epoch(log, values, *, stage="validate", hook="validation_step", sizes=None, **options):
    """Log one value in each batch of a whole stage; what it gives for loggers, as plain numbers."""
    log.begin_stage(stage)
    for step, value in enumerate(values):
        log.begin_batch(torch.zeros(sizes[step] if sizes else 1))
        log.log("x", value, hook=hook, **options)
        log.end_batch(step)
    return numbers(log.end_stage(len(values)))


class Summed:
    """A metric object with torchmetrics' verbs."""

    def __init__(self):
        self._forward_cache = None
        self.reset()

    def reset(self):
        self.total = torch.tensor(0.0)

    def update(self, value):
        self.total += value

    def __call__(self, value):
        self.update(value)
        self._forward_cache = torch.tensor(float(value))

    def compute(self):
        return self.total


# Where, and under which names


@pytest.mark.parametrize(
    ("hook", "stage", "step", "of_epoch"),
    [
        ("training_step", "train", True, False),
        ("on_train_batch_start", "train", True, False),
        ("on_train_batch_end", "train", True, False),
        ("on_before_backward", "train", True, False),
        ("on_after_backward", "train", True, False),
        ("on_before_optimizer_step", "train", True, False),
        ("optimizer_step", "train", True, False),
        ("configure_gradient_clipping", "train", True, False),
        ("on_before_zero_grad", "train", True, False),
        ("on_train_start", "train", False, True),
        ("on_train_epoch_start", "train", False, True),
        ("on_train_epoch_end", "train", False, True),
        ("validation_step", "validate", False, True),
        ("on_validation_batch_start", "validate", False, True),
        ("on_validation_batch_end", "validate", False, True),
        ("on_validation_start", "validate", False, True),
        ("on_validation_epoch_start", "validate", False, True),
        ("on_validation_epoch_end", "validate", False, True),
        ("test_step", "test", False, True),
        ("on_test_batch_end", "test", False, True),
        ("on_test_epoch_end", "test", False, True),
    ],
)
def test_the_hook_decides_between_step_and_epoch(hook, stage, step, of_epoch):
    """Training batches log their steps, all else the value of the epoch."""
    log = begun(stage)
    log.log("x", 2.0, hook=hook)
    log.end_batch(1)
    assert log.step_values() == ({"x": 2.0} if step else {})
    assert log.end_stage(1) == ({"x": 2.0} if of_epoch else {})


@pytest.mark.parametrize(
    "hook",
    ["setup", "configure_optimizers", "on_fit_start", "on_fit_end", "on_train_end", "on_validation_end", "on_test_end",
     "on_sanity_check_start", "on_save_checkpoint", "predict_step", "on_predict_epoch_end", "lr_scheduler_step", ""],
)  # fmt: skip
def test_a_hook_that_is_no_place_to_log_is_named(hook):
    """The error says which metric and which hook."""
    with pytest.raises(ConfigError, match=f"log\\('x'\\) was called .*{hook or 'outside of all hooks'}"):
        begun().log("x", 1.0, hook=hook)


@pytest.mark.parametrize(
    ("hook", "options", "message"),
    [
        ("training_step", {"on_step": False}, "asks for nothing"),
        ("validation_step", {"on_epoch": False}, "asks for nothing"),
        ("on_train_epoch_end", {"on_step": True}, "belongs to no step"),
        ("on_validation_start", {"on_epoch": False}, "belongs to no step"),
        ("training_step", {"reduce_fx": "median"}, "no such reduction"),
        ("training_step", {"reduce_fx": None}, "no such reduction"),
        ("training_step", {"on_epoch": True, "batch_size": -1}, "whole number"),
        ("training_step", {"on_epoch": True, "batch_size": 2.5}, "whole number"),
    ],
)
def test_arguments_that_contradict_themselves_are_refused(hook, options, message):
    """At the first call, with the metric's name."""
    with pytest.raises(ConfigError, match=message) as error:
        begun().log("my_metric", 1.0, hook=hook, **options)
    assert "'my_metric'" in str(error.value)


def test_a_step_can_be_called_where_no_trainer_runs():
    """As tests of a module do: what it logs is dropped, and a warning says so."""

    class Logs(LightningModule):
        def training_step(self, batch, batch_idx):
            self.log_dict({"loss": 1.0})
            return batch

    with pytest.warns(UserWarning, match=r"log\('loss'\) on a Logs that no trainer runs: nothing is logged"):
        assert Logs().training_step(3, 0) == 3


def test_nothing_can_be_logged_while_nothing_runs():
    """Before a stage, and after its end."""
    log = MetricLog()
    with pytest.raises(ConfigError, match="no training, validation or test"):
        log.log("x", 1.0, hook="training_step")
    log.begin_stage("test")
    log.end_stage(0)
    with pytest.raises(ConfigError, match="no training, validation or test"):
        log.log("x", 1.0, hook="test_step")


def test_steps_and_epochs_have_names_of_their_own():
    """With both, monitors find the epoch's value under the plain name, never that of a step."""
    log = begun()
    log.log("loss", 3.0, hook="training_step", on_epoch=True, prog_bar=True)
    assert log.callback == {"loss_step": 3.0}
    log.end_batch(1)
    log.begin_batch(torch.zeros(4))
    log.log("loss", 5.0, hook="training_step", on_epoch=True, prog_bar=True)
    log.end_batch(2)
    assert log.step_values() == {"loss_step": 5.0}
    assert log.end_stage(2) == {"loss_epoch": 4.0}
    assert log.callback == {"loss_step": 5.0, "loss_epoch": 4.0, "loss": 4.0}
    assert log.progress_bar == {"loss_step": 5.0, "loss_epoch": 4.0}
    assert log.logged == {"loss_step": 5.0, "loss_epoch": 4.0}


def test_single_values_of_a_validation_are_not_for_monitors():
    """They go to loggers and the bar only."""
    log = begun("validate")
    log.log("v", 1.0, hook="validation_step", on_step=True, prog_bar=True)
    log.log("w", 2.0, hook="validation_step", on_step=True, on_epoch=False)
    log.end_batch(7)
    assert log.callback == {}
    assert log.progress_bar == {"v_step": 1.0}
    assert log.step_values() == {"v_step": 1.0, "w": 2.0}
    log.end_stage(7)
    assert log.callback == {"v": 1.0, "v_epoch": 1.0}


def test_several_data_loaders_are_told_apart():
    """By a suffix, unless the user gives names of their own; the hooks around them have none."""
    log = MetricLog()
    log.begin_stage("validate", dataloaders=2)
    for loader, value in enumerate((1.0, 3.0)):
        log.begin_batch(torch.zeros(2), loader)
        log.log("v", value, hook="validation_step", on_step=True)
        log.log(f"own{loader}", value, hook="validation_step", add_dataloader_idx=False)
        log.end_batch(0)
    assert log.step_values() == {"v_step/dataloader_idx_0": 1.0, "v_step/dataloader_idx_1": 3.0}
    log.end_batches(0)
    log.log("whole", 9.0, hook="on_validation_epoch_end")
    assert log.end_stage(0) == {
        "v_epoch/dataloader_idx_0": 1.0,
        "v_epoch/dataloader_idx_1": 3.0,
        "own0": 1.0,
        "own1": 3.0,
        "whole": 9.0,
    }
    assert log.callback["v/dataloader_idx_1"] == 3.0


def test_one_name_from_two_data_loaders_is_refused():
    """Without the index the second would hide the first."""
    log = begun("validate", dataloaders=2)
    log.log("v", 1.0, hook="validation_step", add_dataloader_idx=False)
    log.begin_batch(torch.zeros(2), 1)
    with pytest.raises(ConfigError, match="Data loaders 0 and 1 both log 'v'"):
        log.log("v", 1.0, hook="validation_step", add_dataloader_idx=False)
    with pytest.raises(ConfigError, match="added to the name already"):
        log.log("v/dataloader_idx_1", 1.0, hook="validation_step")


def test_a_metric_is_logged_with_the_same_arguments_each_time():
    """Also from another hook; a default spelled out is the same argument."""
    log = begun()
    log.log("x", 1.0, hook="training_step")
    log.log("x", 1.0, hook="training_step", on_step=True, logger=True)
    log.log("x", 1.0, hook="training_step")
    with pytest.raises(ConfigError, match="'x' is logged in training_step with prog_bar=False and prog_bar=True"):
        log.log("x", 1.0, hook="training_step", prog_bar=True)
    with pytest.raises(ConfigError, match="in training_step and in on_train_epoch_end with on_step=True and on_step=F"):
        log.log("x", 1.0, hook="on_train_epoch_end")


def test_the_later_of_two_hooks_with_the_same_arguments_is_published():
    """As users of this API have it: what the epoch's end logs replaces what its batches gave."""
    log = begun("validate")
    log.log("x", 1.0, hook="validation_step")
    log.end_batches(3)
    assert log.callback == {"x": 1.0}
    log.log("x", 77.0, hook="on_validation_epoch_end")
    assert log.end_stage(3) == {"x": 77.0}
    assert log.callback == {"x": 77.0}


def test_two_metrics_never_share_a_published_name():
    """The name that one gets by a suffix may not be another's own."""
    log = begun()
    log.log("loss", 1.0, hook="training_step", on_epoch=True)
    with pytest.raises(ConfigError, match="'loss_step' would stand for two metrics"):
        log.log("loss_step", 1.0, hook="training_step")


# Values


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", "is a str"),
        (None, "is a NoneType"),
        ([1.0], "is a list"),
        ({"a": 1.0}, "Use log_dict"),
        (1j, "is a complex"),
        (torch.ones(3), r"shape \(3,\) and dtype float32"),
        (torch.ones(0), r"shape \(0,\)"),
        (torch.tensor(1j), "dtype complex64"),
        (np.ones(1), "is a ndarray"),
    ],
)
def test_what_is_not_one_real_number_is_refused(value, message):
    """At the call, with the metric's name."""
    with pytest.raises(ConfigError, match=message) as error:
        begun().log("my_metric", value, hook="training_step")
    assert "'my_metric'" in str(error.value)


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (3, 3),
        (0.1, 0.1),
        (True, 1),
        (2**70, float(2**70)),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (torch.tensor(3), 3),
        (torch.tensor(True), 1),
        (torch.tensor([[0.5]]), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(0.1, dtype=torch.float64), 0.1),
    ],
)
def test_a_number_is_kept_as_it_is(value, score):
    """An int stays an int and no digit is lost; callbacks see a tensor without dimensions."""
    log = begun()
    log.log("x", value, hook="training_step")
    log.end_batch(5)
    assert log.callback["x"].shape == ()
    found = log.scores(5)["x"]
    assert found == Score(score, 5)
    assert type(found.value) is type(score)


VALUES = (2.0, 1.0, 4.0)
SIZES = (1, 2, 5)


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["numbers", "tensors"])
@pytest.mark.parametrize(
    ("reduce_fx", "expected"),
    [
        ("mean", 3.0),
        ("avg", 3.0),
        ("MEAN", 3.0),
        (torch.mean, 3.0),
        ("sum", 7.0),
        (torch.sum, 7.0),
        (sum, 7.0),
        ("min", 1.0),
        (torch.min, 1.0),
        (min, 1.0),
        ("max", 4.0),
        (torch.max, 4.0),
        (max, 4.0),
        (lambda values: values[-1] - values[0], 2.0),
        (lambda values: len(values), 3),
    ],
)
def test_an_epoch_is_reduced(reduce_fx, expected, kind):
    """Averages weigh by batch size, all else does not; two epochs in turn give the same."""
    log = MetricLog()
    for _ in range(2):
        values = [kind(value) for value in VALUES]
        assert epoch(log, values, sizes=SIZES, reduce_fx=reduce_fx) == {"x": expected}


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["numbers", "tensors"])
@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max", torch.median])
@pytest.mark.parametrize("place", range(3))
def test_one_nan_shows(reduce_fx, place, kind):
    """Wherever it comes, the epoch's value is NaN."""
    values = [kind(math.nan if step == place else value) for step, value in enumerate(VALUES)]
    assert math.isnan(epoch(MetricLog(), values, reduce_fx=reduce_fx)["x"])


def test_numbers_and_tensors_of_all_dtypes_mix():
    """In one epoch of one metric, to one exact value."""
    mixed = [1, torch.tensor(2), torch.tensor(0.5), 3.0, torch.tensor(2.5, dtype=torch.float64), torch.tensor(True)]
    expected = {"sum": 10.0, "mean": 10.0 / 6, "min": 0.5, "max": 3.0, torch.numel: 6}
    for reduce_fx, value in expected.items():
        assert epoch(MetricLog(), mixed, reduce_fx=reduce_fx) == {"x": value}


@pytest.mark.parametrize(
    ("dtype", "reduce_fx", "expected"),
    [
        (torch.float32, "mean", torch.float32),
        (torch.bfloat16, "mean", torch.float32),
        (torch.float16, "sum", torch.float32),
        (torch.float64, "mean", torch.float64),
        (torch.int64, "mean", torch.float64),
        (torch.int32, "sum", torch.int64),
        (torch.bool, "sum", torch.int64),
        (torch.int32, "max", torch.int32),
    ],
)
def test_the_dtype_of_an_epoch(dtype, reduce_fx, expected):
    """At least float32; integers stay integers, but for their average."""
    log = MetricLog()
    epoch(log, [torch.ones((), dtype=dtype)] * 2, reduce_fx=reduce_fx)
    assert log.callback["x"].dtype is expected


def test_a_long_epoch_loses_no_digits():
    """A float32 sum would stand still at 2**24."""
    log = begun("validate")
    for value in [2.0**24] + [1.0] * 10:
        log.log("x", torch.tensor(value), hook="validation_step", reduce_fx="sum")
    assert numbers(log.end_stage(0)) == {"x": 2**24 + 10}


@dataclass
class Sample:
    image: torch.Tensor
    label: int


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 7), 3),
        ((torch.zeros(3, 7), torch.zeros(3)), 3),
        ([[torch.zeros(3)], torch.zeros(3)], 3),
        ({"ids": torch.zeros(3, 7), "mask": torch.zeros(3, 7)}, 3),
        ((["a", "b", "c"], torch.zeros(3)), 3),
        (({}, [], torch.zeros(3)), 3),
        (Sample(torch.zeros(3, 2), 1), 3),
        (torch.tensor(5.0), 1),
        (None, 1),
    ],
)
def test_the_size_of_a_batch_is_that_of_its_first_tensor(batch, size):
    """Searched through dicts, lists, tuples and dataclasses."""
    log = MetricLog()
    log.begin_stage("validate")
    log.begin_batch(batch)
    log.log("x", 1.0, hook="validation_step")
    log.begin_batch(torch.zeros(1))
    log.log("x", 0.0, hook="validation_step")
    assert numbers(log.end_stage(0)) == {"x": size / (size + 1)}


def test_a_batch_of_several_sizes_is_warned_of_once():
    """And weighted by the first; batch_size= silences it."""
    log = begun("validate")
    log.begin_batch((torch.zeros(3), torch.zeros(9)))
    log.log("quiet", 1.0, hook="validation_step", batch_size=9)
    with pytest.warns(UserWarning, match="'x' is weighted by the first one's, 3"):
        log.log("x", 1.0, hook="validation_step")
    log.begin_batch((torch.zeros(4), torch.zeros(9)))
    log.log("x", 8.0, hook="validation_step")
    assert numbers(log.end_stage(0))["x"] == (3 * 1 + 4 * 8) / 7


@pytest.mark.parametrize("batch", [["a", "b"], [], {}, "text", 5, iter([torch.zeros(3)])])
def test_a_batch_without_a_tensor_needs_a_size(batch):
    """Where an average over the epoch is asked for, and only there; an iterator is not used up."""
    log = begun("validate")
    log.begin_batch(batch)
    log.log("y", 1.0, hook="validation_step", reduce_fx="max")
    log.log("z", 1.0, hook="validation_step", batch_size=2)
    with pytest.raises(ConfigError, match=r"'x' is averaged.*Give batch_size="):
        log.log("x", 1.0, hook="validation_step")


def test_an_epoch_end_hook_is_not_weighted():
    """No batch is under way there: every value counts once, unless the user gives a size."""
    log = begun("validate")
    log.begin_batch(["no tensor"])
    log.end_batches(0)
    for value, size in ((1.0, None), (4.0, 2)):
        log.log("y", value, hook="on_validation_epoch_end", batch_size=size)
    assert log.end_stage(0) == {"y": 3.0}


# What the loop needs


def test_a_tensor_may_be_changed_after_it_was_logged():
    """Every way of logging has taken its value by then."""
    log, running = begun(), torch.tensor(0.0)
    for _ in range(3):
        running += 1
        log.log("step", running, hook="training_step")
        for reduce_fx in ("mean", "sum", "min", "max", torch.median):
            name = f"{getattr(reduce_fx, '__name__', reduce_fx)}"
            log.log(name, running, hook="training_step", on_step=False, on_epoch=True, reduce_fx=reduce_fx)
        running += 10
    log.end_batch(1)
    assert log.step_values() == {"step": 23.0}
    assert log.end_stage(1) == {"mean": 12.0, "sum": 36.0, "min": 1.0, "max": 23.0, "median": 12.0}


def test_what_was_published_does_not_change():
    """A user may keep what a callback saw."""
    log, metric = begun(), Summed()
    for value in (1.0, 2.0):
        metric(value)
        log.log("m", metric, hook="training_step", on_epoch=True)
        log.log("x", torch.tensor(value), hook="training_step", on_epoch=True, reduce_fx="max")
    log.end_batches(1)
    seen = dict(log.callback)
    metric(5.0)
    log.log("x", torch.tensor(9.0), hook="training_step", on_epoch=True, reduce_fx="max")
    assert seen == {"m_step": 2.0, "m_epoch": 3.0, "m": 3.0, "x_step": 2.0, "x_epoch": 2.0, "x": 2.0}


def test_the_loop_reads_no_tensor():
    """Tensors without data go all the way through a step and an epoch: whoever read one would fail."""
    log = begun()
    for step in range(130):
        log.begin_batch(torch.zeros(4))
        value = torch.tensor(1.0, device="meta", requires_grad=True) * 2
        log.log("loss", value, hook="training_step", on_epoch=True, prog_bar=True)
        for name, reduce_fx in (("sum", "sum"), ("min", "min"), ("max", "max"), ("first", lambda values: values[0])):
            log.log(name, value, hook="training_step", on_epoch=True, reduce_fx=reduce_fx)
        log.end_batch(step)
        assert log.callback["loss_step"].device.type == "meta"
    assert log.step_values()["loss_step"].device.type == "meta"
    assert log.state_dict()["entries"]
    assert log.end_stage(130)["loss_epoch"].device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta"):
        log.scores(130)


@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max"])
def test_an_epoch_may_begin_on_the_host_and_go_on_elsewhere(reduce_fx):
    """The sum moves to the device and is never pulled back."""
    log = begun("validate")
    for device in ("cpu", "meta", "cpu"):
        log.log("x", torch.tensor(1.0, device=device), hook="validation_step", reduce_fx=reduce_fx)
    assert log.end_stage(0)["x"].device.type == "meta"


def test_no_graph_is_kept_unless_asked_for():
    """The value of a step keeps it with enable_graph=True, that of an epoch never."""
    weight = torch.ones((), requires_grad=True)
    for graph in (False, True):
        log = begun()
        log.log("x", weight * 2, hook="training_step", on_epoch=True, enable_graph=graph)
        log.end_batch(0)
        assert log.callback["x_step"].requires_grad is graph
        assert not log.end_stage(0)["x_epoch"].requires_grad


@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max", torch.median])
def test_inference_mode_leaves_no_mark(reduce_fx):
    """What a validation publishes can be used where gradients are recorded, and its metric logged outside."""
    log = begun("validate")
    with torch.inference_mode():
        log.log("x", torch.ones(()), hook="validation_step", reduce_fx=reduce_fx)
        log.end_batch(0)
    log.begin_batch(torch.zeros(4))
    log.log("x", torch.ones(()), hook="validation_step", reduce_fx=reduce_fx)
    with torch.inference_mode():
        log.end_stage(0)
    (torch.ones((), requires_grad=True) * log.callback["x"]).backward()


# Who looks, and when


def test_a_score_keeps_the_step_at_which_it_was_measured():
    """Those of the batch under way, and those put in by hand, belong to now."""
    log = begun()
    log.log("loss", 1.0, hook="training_step")
    log.end_batch(10)
    log.begin_batch(torch.zeros(4))
    log.end_batch(11)
    log.callback["by_hand"] = torch.tensor(5.0)
    assert log.scores(11) == {"loss": Score(1.0, 10), "by_hand": Score(5.0, 11)}
    log.begin_batch(torch.zeros(4))
    log.log("loss", 2.0, hook="training_step")
    assert log.callback["loss"] == 2.0
    assert log.scores(11) == {"loss": Score(2.0, 11), "by_hand": Score(5.0, 11)}
    log.end_batch(12)
    assert log.scores(13) == {"loss": Score(2.0, 12), "by_hand": Score(5.0, 11)}


def test_what_is_logged_after_a_batch_has_ended_belongs_to_its_step():
    """Such as in on_train_batch_end, where the loop has counted the step already."""
    log = begun()
    log.end_batch(10)
    log.log("norm", 1.0, hook="on_train_batch_end")
    log.begin_batch(torch.zeros(4))
    log.end_batch(11)
    assert log.scores(11) == {"norm": Score(1.0, 10)}


def test_an_epoch_without_the_metric_leaves_the_old_value_and_its_step():
    """Nothing is published anew that was not logged anew."""
    log = MetricLog()
    epoch(log, [1.0, 3.0])
    assert epoch(log, []) == {}
    assert log.scores(9) == {"x": Score(2.0, 2)}


def test_only_single_numbers_are_scores():
    """What a user puts into the dict may be anything."""
    log = begun()
    log.callback.update({"table": torch.ones(3), "text": "x", "number": 3, "complex": torch.tensor(1j)})
    assert log.scores(1) == {"number": Score(3, 1)}


def test_loggers_get_each_value_once():
    """The newest since they last asked, and nothing that is not for them."""
    log = begun()
    for step, value in enumerate((1.0, 2.0)):
        log.begin_batch(torch.zeros(1))
        log.log("x", value, hook="training_step")
        log.log("silent", value, hook="training_step", on_epoch=True, logger=False)
        log.end_batch(step)
    assert log.step_values() == {"x": 2.0}
    assert log.step_values() == {}
    assert log.end_stage(2) == {}
    assert log.logged == {"x": 2.0}
    assert log.callback["silent"] == 1.5


def test_hooks_at_the_end_see_the_epoch_and_add_to_it():
    """Between end_batches and end_stage."""
    log = begun("validate")
    log.log("v", 2.0, hook="validation_step", prog_bar=True)
    log.end_batch(4)
    log.end_batches(4)
    assert (log.callback, log.progress_bar) == ({"v": 2.0}, {"v": 2.0})
    log.log("doubled", 2 * log.callback["v"], hook="on_validation_epoch_end")
    assert log.end_stage(4) == {"v": 2.0, "doubled": 4.0}
    assert log.scores(6) == {"v": Score(2.0, 4), "doubled": Score(4.0, 4)}


def test_training_goes_on_after_a_validation_within_it():
    """Neither disturbs the other's averages."""
    log = begun()
    log.log("x", 1.0, hook="training_step", on_epoch=True)
    log.end_batch(1)
    assert epoch(log, [50.0]) == {"x": 50.0}
    log.begin_batch(torch.zeros(4))
    log.log("x", 3.0, hook="training_step", on_epoch=True)
    log.end_batch(2)
    assert log.end_stage(2) == {"x_epoch": 2.0}


def test_a_new_epoch_forgets_one_that_was_left():
    """begin_stage begins with nothing."""
    log = begun()
    log.log("x", 1.0, hook="training_step", on_epoch=True)
    log.begin_stage("train")
    log.begin_batch(torch.zeros(1))
    log.log("x", 5.0, hook="training_step", on_epoch=True)
    assert log.end_stage(1) == {"x_epoch": 5.0}


def test_a_sanity_check_is_seen_by_its_own_hooks_only():
    """What follows finds what was there before."""
    log = MetricLog()
    log.load_state_dict({"entries": [], "objects": [], "callback": {"x": torch.tensor(8.0)}, "measured": {"x": 3}})
    epoch(log, [1.0], stage="sanity", prog_bar=True, on_step=True)
    assert log.callback["x"] == 1.0
    assert log.progress_bar["x_epoch"] == 1.0
    assert log.scores(3) == {}
    assert log.state_dict()["callback"] == {"x": 8.0}
    log.begin_stage("train")
    assert log.callback == {"x": 8.0}
    assert (log.progress_bar, log.logged) == ({}, {})
    assert log.scores(3) == {"x": Score(8.0, 3)}


def test_the_names_that_a_monitor_will_find():
    """Known as soon as they are logged, whether or not they are published yet."""
    log = begun()
    log.log("loss", 1.0, hook="training_step", on_epoch=True)
    log.begin_stage("validate", dataloaders=2)
    log.begin_batch(torch.zeros(1), 1)
    log.log("v", 1.0, hook="validation_step", on_step=True)
    assert log.names == {"loss", "loss_step", "loss_epoch", "v/dataloader_idx_1", "v_epoch/dataloader_idx_1"}
    log.begin_stage("sanity")
    log.begin_batch(torch.zeros(1))
    log.log("s", 1.0, hook="validation_step")
    assert "s" not in log.names


# Metric objects


def test_a_metric_object_is_computed_once_an_epoch_and_reset():
    """Its single value is what calling it gave; two names of one object are one object."""
    log, metric = MetricLog(), Summed()
    for _ in range(2):
        log.begin_stage("train")
        for step in range(3):
            log.begin_batch(torch.zeros(1))
            metric(2.0)
            log.log("m", metric, hook="training_step", on_epoch=True)
            log.log("again", metric, hook="training_step", on_step=False, on_epoch=True)
            log.end_batch(step)
        assert log.step_values() == {"m_step": 2.0}
        log.end_batches(3)
        assert metric.compute() == 6.0
        assert log.end_stage(3) == {"m_epoch": 6.0, "again": 6.0}
        assert metric.compute() == 0.0


def test_an_object_that_was_only_updated_has_no_single_value():
    """It is said once; the epoch's value is there."""
    log, metric = begun(), Summed()
    metric.update(2.0)
    with pytest.warns(UserWarning, match="'m' is logged on_step, but its object has no value of one step"):
        log.log("m", metric, hook="training_step", on_epoch=True)
    log.log("m", metric, hook="training_step", on_epoch=True)
    log.end_batch(0)
    assert log.step_values() == {}
    assert log.end_stage(0) == {"m_epoch": 2.0}


def test_an_object_that_computes_no_number_is_named():
    """At the end of the epoch, when it has computed."""
    log, metric = begun("validate"), Summed()
    metric.total = torch.ones(3)
    log.log("my_metric", metric, hook="validation_step")
    with pytest.raises(ConfigError, match=r"'my_metric' is a tensor of shape \(3,\)"):
        log.end_stage(0)


def test_a_collection_of_objects_is_refused():
    """It has several values, which log_dict takes."""

    class Collection(Summed):
        def items(self):
            return ()

    with pytest.raises(ConfigError, match="Use log_dict"):
        begun().log("c", Collection(), hook="training_step")


# Several ranks


def test_an_average_is_reduced_over_ranks_by_its_weights():
    """Here the other rank has the same sum and weight: both are asked for, and only where sync_dist is set."""
    log, asked = begun("validate"), []

    def reduce(value, operation):
        asked.append((float(value), operation))
        return value * 2 if operation == "sum" else value

    log.reduce = reduce
    log.log("mean", 3.0, hook="validation_step", sync_dist=True)
    log.log("sum", torch.tensor(3.0), hook="validation_step", sync_dist=True, reduce_fx="sum")
    log.log("max", torch.tensor(3.0), hook="validation_step", sync_dist=True, reduce_fx="max")
    log.log("alone", 3.0, hook="validation_step")
    log.log("zero", 3.0, hook="validation_step", sync_dist=True, rank_zero_only=True)
    assert asked == []
    log.end_batches(0)
    assert log.end_stage(0) == {"mean": 3.0, "sum": 6.0, "max": 3.0, "alone": 3.0, "zero": 3.0}
    assert asked == [(12.0, "sum"), (4.0, "sum"), (3.0, "sum"), (3.0, "max")]


def test_a_single_value_is_reduced_when_it_is_logged():
    """On all ranks at the same place, whoever looks later; the epoch takes each rank's own."""
    log = begun()
    log.reduce = lambda value, operation, what="": value.add_(1) if operation == "mean" else value
    value = torch.tensor(3.0)
    log.log("x", value, hook="training_step", on_epoch=True, sync_dist=True)
    log.end_batch(0)
    assert (log.step_values(), log.end_stage(0), value) == ({"x_step": 4.0}, {"x_epoch": 3.0}, 3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"reduce_fx": torch.median}, "sees the values of its own rank"), ({"sync_dist_group": "g"}, "not over a group")],
)
def test_what_cannot_be_reduced_over_ranks_is_refused(options, message):
    """On several ranks; one alone has nothing to reduce."""
    log = begun("validate")
    log.log("x", 1.0, hook="validation_step", sync_dist=True, **options)
    log = begun("validate")
    log.reduce = lambda value, operation: value
    with pytest.raises(ConfigError, match=message):
        log.log("x", 1.0, hook="validation_step", sync_dist=True, **options)


# Resuming


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["numbers", "tensors"])
@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max", torch.median])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_an_epoch_survives_a_resume_in_its_middle(cut, reduce_fx, kind, tmp_path):
    """Its value is that of an epoch without one, through a file that holds plain values and tensors."""
    options = {"hook": "training_step", "on_epoch": True, "reduce_fx": reduce_fx}

    def train(log, part):
        for step in part:
            log.begin_batch(torch.zeros(SIZES[step]))
            log.log("x", kind(VALUES[step]), **options)
            log.end_batch(step + 1)

    whole = MetricLog()
    whole.begin_stage("train")
    train(whole, range(3))

    before = MetricLog()
    before.begin_stage("train")
    train(before, range(cut))
    torch.save(before.state_dict(), tmp_path / "state")
    train(before, range(cut, 3))
    log = MetricLog()
    log.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    epoch(log, [50.0], stage="sanity")
    log.begin_stage("train")
    train(log, range(cut, 3))
    if cut == 3 and reduce_fx is torch.median:
        with pytest.warns(UserWarning, match="'x' has no value for this epoch"):
            assert log.end_stage(3) == {}
        return
    assert whole.end_stage(3) == before.end_stage(3)
    assert log.end_stage(3) == {"x_epoch": whole.callback["x"]}
    assert log.callback["x"].dtype is whole.callback["x"].dtype
    assert log.scores(3) == whole.scores(3)
    log.begin_stage("train")
    assert log.end_stage(4) == {}


def test_what_was_published_survives_a_resume():
    """With the steps at which it was measured; and an epoch that is over leaves nothing else."""
    log = MetricLog()
    epoch(log, [1.0, 3.0], stage="train", hook="training_step", on_epoch=True)
    state = log.state_dict()
    assert state["entries"] == []
    resumed = MetricLog()
    resumed.load_state_dict(state)
    assert resumed.scores(2) == log.scores(2) == {"x": Score(2.0, 2), "x_epoch": Score(2.0, 2), "x_step": Score(3.0, 1)}


def test_a_state_taken_right_after_a_batch_keeps_its_step():
    """Also for what was logged after the batch had ended, as on_train_batch_end does."""
    log = begun()
    log.end_batch(10)
    log.log("norm", 1.0, hook="on_train_batch_end")
    resumed = MetricLog()
    resumed.load_state_dict(log.state_dict())
    assert resumed.scores(12) == {"norm": Score(1.0, 10)}


def test_a_state_is_taken_again_before_its_metrics_are_logged_again():
    """A second interruption right after the first loses nothing."""
    log = begun()
    log.log("x", 1.0, hook="training_step", on_epoch=True)
    state = log.state_dict()
    for _ in range(2):
        log = MetricLog()
        log.load_state_dict(state)
        log.begin_stage("train")
        state = log.state_dict()
    log.begin_batch(torch.zeros(4))
    log.log("x", 2.0, hook="training_step", on_epoch=True)
    assert log.end_stage(1) == {"x_epoch": 1.5}


def test_a_changed_reduction_begins_anew_and_says_so():
    """The values so far cannot be turned into those of another reduction."""
    log = begun()
    log.log("x", 1.0, hook="training_step", on_epoch=True)
    resumed = MetricLog()
    resumed.load_state_dict(log.state_dict())
    resumed.begin_stage("train")
    resumed.begin_batch(torch.zeros(4))
    with pytest.warns(UserWarning, match="reduced by mean when .* by max now"):
        resumed.log("x", 0.5, hook="training_step", on_epoch=True, reduce_fx="max")
    assert resumed.end_stage(1) == {"x_epoch": 0.5}


def measuring():
    """A module with metric objects of torchmetrics, one of them within a collection."""
    import torchmetrics

    module = torch.nn.Module()
    module.train_mean, module.val_mean = torchmetrics.MeanMetric(), torchmetrics.MeanMetric()
    module.several = torchmetrics.MetricCollection({"sum": torchmetrics.SumMetric(), "cat": torchmetrics.CatMetric()})
    return module


@pytest.mark.parametrize("cut", range(4))
def test_metric_objects_go_on_in_the_middle_of_an_epoch(cut, tmp_path):
    """What they have seen is in the state; also where they are not logged again before the epoch ends."""

    def train(log, module, part):
        for step in part:
            log.begin_batch(torch.zeros(1))
            module.train_mean(VALUES[step])
            module.several.update(VALUES[step])
            log.log("mean", module.train_mean, hook="training_step", on_epoch=True)
            log.log("sum", module.several["sum"], hook="training_step", on_step=False, on_epoch=True)
            log.end_batch(step + 1)

    def begun(module, state=None):
        log = MetricLog()
        log.module = module
        if state is not None:
            log.load_state_dict(state)
        log.begin_stage("train")
        return log

    module = measuring()
    log = begun(module)
    train(log, module, range(cut))
    torch.save(log.state_dict(), tmp_path / "state")
    train(log, module, range(cut, 3))

    resumed = measuring()
    resumed.train_mean.update(100.0)  # what it has seen of something else is none of this run
    again = begun(resumed, torch.load(tmp_path / "state", weights_only=True))
    train(again, resumed, range(cut, 3))
    assert torch.equal(again.end_stage(3)["mean_epoch"], log.end_stage(3)["mean_epoch"])
    assert again.callback["sum"] == log.callback["sum"]
    assert tuple(resumed.several["cat"].compute().tolist()) == VALUES
    assert resumed.train_mean.update_count == 0


def test_what_metric_objects_see_in_an_evaluation_is_not_saved():
    """A validation that is broken off runs whole."""
    module = measuring()
    log = MetricLog()
    log.module = module
    log.begin_stage("train")
    module.train_mean.update(1.0)
    log.begin_stage("validate")
    module.val_mean.update(5.0)
    state = log.state_dict()
    assert list(state["seen"]) == ["train_mean"]
    module.train_mean.update(3.0)
    assert state["seen"]["train_mean"]["count"] == 1
    log.load_state_dict(state)
    assert (module.train_mean.compute(), module.val_mean.update_count) == (1.0, 0)
    log.begin_stage("validate")
    log.end_stage(1)
    assert list(log.state_dict()["seen"]) == ["train_mean"]


def test_a_metric_object_that_is_gone_is_named():
    """Its values of this epoch are lost, and nothing else is."""
    log, module = begun(), measuring()
    log.module = module
    module.train_mean.update(1.0)
    log.log("mean", module.train_mean, hook="training_step", on_step=False, on_epoch=True)
    log.log("x", 2.0, hook="training_step", on_step=False, on_epoch=True)
    resumed = MetricLog()
    with pytest.warns(UserWarning, match="What 'train_mean' had seen is in the checkpoint, and no such metric object"):
        resumed.load_state_dict(log.state_dict())
    resumed.begin_stage("train")
    assert resumed.end_stage(1) == {"x": 2.0}


def test_a_resume_says_which_objects_have_lost_their_epoch():
    """Those that are none of torchmetrics', and so have no state that we know."""
    log, metric = begun(), Summed()
    metric(1.0)
    log.log("m", metric, hook="training_step", on_epoch=True)
    with pytest.warns(UserWarning, match="value of 'm' will cover only the batches from here on"):
        MetricLog().load_state_dict(log.state_dict())


# The other program


@pytest.mark.interop
def test_real_torchmetrics_and_lightning_agree():
    """The same module logs through Lightning and through ours, epoch by epoch, torchmetrics objects included."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("metrics_child.py")
    run = subprocess.run([LIGHTNING, script], capture_output=True, text=True, check=False, env=env, timeout=240)

    assert run.returncode == 0, run.stderr
    theirs, ours = (json.loads(line) for line in run.stdout.splitlines()[-2:])
    assert len(theirs["callback"]) > 10
    assert ours == theirs
