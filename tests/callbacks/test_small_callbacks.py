"""Callbacks that log, count or stop: what they say, and what they remember over an interruption."""

from __future__ import annotations

import csv
import json
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import (
    BasePredictionWriter,
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    SpikeDetection,
    ThroughputMonitor,
    Timer,
    TrainingSpikeException,
)
from holdfast.callbacks.throughput import Throughput
from holdfast.errors import ConfigError
from holdfast.loggers import CSVLogger
from holdfast.loggers.base import Logger
from resuming import at_ends, differing, saver
from sameness import same
from small_fits import Net, fit, loaders, make_trainer, names, read


class Lines(Logger):
    """Keeps what it is given."""

    name, version = "lines", 0

    def __init__(self):
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))

    def log_hyperparams(self, params):
        pass

    def values(self, part):
        """Step and value of each line that has a metric with ``part`` in its name."""
        return [(s, n, v) for s, line in self.lines for n, v in line.items() if part in n]


# LearningRateMonitor


class ByStep(Net):
    """Its rate changes by step."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "speed"}]


def test_rates_are_logged_at_the_interval_of_their_scheduler(tmp_path):
    """By epoch at its start; callbacks see them too."""
    lines, monitor = Lines(), LearningRateMonitor()
    trainer = fit(tmp_path, monitor, logger=lines, max_epochs=3)
    rates = [0.01, 0.009, 0.0081]
    assert lines.values("lr-") == [(4 * e, "lr-AdamW", pytest.approx(rate)) for e, rate in enumerate(rates)]
    assert monitor.lrs == {"lr-AdamW": pytest.approx(rates)}
    assert float(trainer.callback_metrics["lr-AdamW"]) == pytest.approx(0.0081)


def test_rates_by_step_are_logged_on_the_steps_that_are_logged(tmp_path):
    """With momentum and weight decay where asked for, under the scheduler's name."""
    lines, monitor = Lines(), LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    fit(tmp_path, monitor, make=ByStep, logger=lines, max_epochs=2, log_every_n_steps=3)
    assert lines.values("speed") == [
        (2, "speed", 0.025), (2, "speed-momentum", 0.9), (2, "speed-weight_decay", 0.01),
        (5, "speed", 0.1 / 32), (5, "speed-momentum", 0.9), (5, "speed-weight_decay", 0.01),
    ]  # fmt: skip
    assert monitor.last_momentum_values == {"speed-momentum": 0.9}


def test_optimizers_of_a_kind_and_groups_have_names_of_their_own(tmp_path):
    """By number, or by the name that a group has."""

    class Several(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            groups = [{"params": self.layers[0].parameters(), "name": "low"}, {"params": self.layers[3].parameters()}]
            return [torch.optim.SGD(groups, lr=0.1), torch.optim.SGD(self.layers[3].parameters(), lr=0.2)]

    monitor = LearningRateMonitor(logging_interval="epoch")
    fit(tmp_path, monitor, make=Several, logger=Lines(), max_epochs=1)
    assert monitor.lrs == {"lr-SGD/low": [0.1], "lr-SGD/pg2": [0.1], "lr-SGD-1": [0.2]}


def test_a_group_that_is_added_gets_a_name_and_the_first_keeps_its_history(tmp_path):
    """As when a backbone is unfrozen."""

    class Adds(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})

    class Plain(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = LearningRateMonitor(logging_interval="epoch")
    fit(tmp_path, Adds(), monitor, make=Plain, logger=Lines(), max_epochs=2)
    assert monitor.lrs == {"lr-SGD/pg1": [0.1, 0.1], "lr-SGD/pg2": [0.5]}


def test_a_monitor_without_a_logger_is_refused(tmp_path):
    """It would do nothing."""
    with pytest.raises(ConfigError, match="no logger"):
        fit(tmp_path, LearningRateMonitor())
    with pytest.raises(ConfigError, match="logging_interval"):
        LearningRateMonitor(logging_interval="hour")


# Timer


def test_pain_26_time_goes_on_where_it_was(tmp_path):
    """What was spent before an interruption counts: a resumed run has the rest of its time."""
    timer = Timer(duration="00:01:00:00")
    fit(tmp_path / "a", timer, at_ends(tmp_path / "a"), max_epochs=1)
    spent = read(tmp_path / "a/step=4.ckpt")["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert 0 < spent <= timer.time_elapsed()
    again = Timer(duration="00:01:00:00")
    fit(tmp_path / "b", again, max_epochs=2, ckpt_path=tmp_path / "a/step=4.ckpt")
    own = again.end_time() - again.start_time()
    assert again.time_elapsed() == pytest.approx(spent + own)
    assert again.time_remaining() == pytest.approx(3600 - spent - own)


def test_a_run_whose_time_is_over_trains_no_more(tmp_path, caplog):
    """Not even a step after it was resumed."""
    timer = Timer(duration=timedelta(hours=1))
    fit(tmp_path / "a", timer, at_ends(tmp_path / "a"), max_epochs=1)
    file = tmp_path / "a/step=4.ckpt"
    short = Timer(duration=timedelta(microseconds=1))
    trainer = fit(tmp_path / "b", short, max_epochs=3, ckpt_path=file)
    assert trainer.global_step == 4
    assert "its time is over" in caplog.text


@pytest.mark.parametrize(("interval", "steps"), [("step", 1), ("epoch", 4)])
def test_it_stops_when_the_time_is_over(interval, steps, tmp_path):
    """After the step or the epoch under way."""
    timer = Timer(duration={"microseconds": 1}, interval=interval, verbose=False)
    assert fit(tmp_path, timer, max_epochs=3).global_step == steps


def test_it_knows_the_time_of_each_stage(tmp_path):
    """None of what did not run."""
    timer = Timer()
    fit(tmp_path, timer, max_epochs=1)
    assert timer.time_elapsed("validate") > 0
    assert timer.start_time("test") is None
    assert timer.time_elapsed("test") == 0
    assert timer.time_remaining() is None
    with pytest.raises(ConfigError, match="a stage is one of"):
        timer.start_time("tea")


@pytest.mark.parametrize("duration", ["1:2", {"fortnights": 1}, 3])
def test_what_is_no_duration_is_refused(duration):
    """Nor is an interval that there is not."""
    with pytest.raises(ConfigError, match="duration"):
        Timer(duration)
    with pytest.raises(ConfigError, match="interval"):
        Timer(interval="year")


# LambdaCallback


def test_functions_are_called_as_the_hooks_they_are_named_after(tmp_path):
    """With the hook's arguments."""
    seen = []
    callback = LambdaCallback(
        setup=lambda trainer, module, stage: seen.append(stage),
        on_train_batch_end=lambda trainer, module, outputs, batch, batch_idx: seen.append(batch_idx),
        on_train_end=None,
    )
    fit(tmp_path, callback, max_epochs=1)
    assert seen == ["fit", 0, 1, 2, 3]


def test_a_hook_that_there_is_not_is_refused():
    """By name; the others are all known."""
    with pytest.raises(ConfigError, match="on_tea_time"):
        LambdaCallback(on_tea_time=print, on_predict_batch_end=print)


# GradientAccumulationScheduler


def test_batches_to_a_step_change_with_the_epoch(tmp_path):
    """Four steps, then two, then one; the loss is divided accordingly."""
    steps = []
    count = LambdaCallback(on_train_epoch_end=lambda trainer, module: steps.append(trainer.global_step))
    scheduling = {1: 2, 2: 4}
    scheduler = GradientAccumulationScheduler(scheduling)
    fit(tmp_path, scheduler, count, max_epochs=4)
    assert steps == [4, 6, 7, 8]
    assert scheduling == {1: 2, 2: 4}
    assert scheduler.going_to_accumulate_grad_batches()


def test_a_resumed_run_accumulates_as_the_epoch_says(tmp_path):
    """From an epoch's end, and from the middle of a step."""

    def each_batch(folder):
        return L.callbacks.ModelCheckpoint(folder, "{step}", train_time_interval=timedelta(0), save_top_k=-1)

    def make():
        return GradientAccumulationScheduler({0: 3, 1: 2, 2: 1})

    wrong, files = differing(tmp_path, make, saver=each_batch)
    assert wrong == []
    assert files > 8, "one is of the middle of a step"


@pytest.mark.parametrize("scheduling", [{}, {0: 0}, {-1: 2}, {1.5: 2}, {1: "2"}])
def test_schedules_that_make_no_sense_are_refused(scheduling):
    """All of it in one error."""
    with pytest.raises(ConfigError, match="scheduling is a dict"):
        GradientAccumulationScheduler(scheduling)


def test_two_ways_to_accumulate_are_refused(tmp_path):
    """They contradict each other."""
    with pytest.raises(ConfigError, match="accumulate_grad_batches=2"):
        fit(tmp_path, GradientAccumulationScheduler({0: 2}), accumulate_grad_batches=2)


# BasePredictionWriter


class Writer(BasePredictionWriter):
    """Keeps what it is to write."""

    def __init__(self, interval):
        super().__init__(interval)
        self.batches, self.epochs = [], []

    def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx):
        self.batches.append((prediction, batch_indices, batch_idx, dataloader_idx))

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        self.epochs.append((predictions, batch_indices))


class Predicts(Net):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return float(batch[0].sum())


def numbers(count=3, **options):
    return DataLoader(TensorDataset(torch.arange(float(count))), batch_size=2, **options)


def predict(folder, writer, loaders):
    return make_trainer(folder, writer).predict(Predicts(), loaders, return_predictions=False)


def test_predictions_are_written_batch_by_batch(tmp_path):
    """With the places of their samples in the dataset; nothing is kept."""
    writer = Writer("batch")
    assert predict(tmp_path, writer, numbers()) is None
    assert writer.batches == [(1.0, [0, 1], 0, 0), (2.0, [2], 1, 0)]
    assert writer.epochs == []


def test_predictions_are_written_at_the_end_though_nobody_else_keeps_them(tmp_path):
    """One list for one loader."""
    writer = Writer("epoch")
    predict(tmp_path, writer, numbers())
    assert writer.batches == []
    assert writer.epochs == [([1.0, 2.0], [[[0, 1], [2]]])]


def test_several_loaders_are_written_apart(tmp_path):
    """A random order is not known, and not made up."""
    writer = Writer("batch_and_epoch")
    torch.manual_seed(0)
    predict(tmp_path, writer, [numbers(2), numbers(1, shuffle=True)])
    assert writer.batches == [(1.0, [0, 1], 0, 0), (0.0, None, 0, 1)]
    assert writer.epochs == [([[1.0], [0.0]], [[[0, 1]], [None]])]


def test_an_interval_that_there_is_not_is_refused():
    """By name."""
    with pytest.raises(ConfigError, match="write_interval"):
        Writer("never")


# SpikeDetection


class Script(Net):
    """Its loss is scripted, batch by batch of the run."""

    losses = (1.0, 0.9, 0.8, 0.9, 5.0, 1.0, 1.0, 1.0)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return loss * 0 + self.losses[self.trainer.loop.total_batches]


def test_a_loss_that_jumps_ends_the_fit_and_names_the_batches(tmp_path):
    """The batch and the one before it, in a file; the rescue has the state."""
    with pytest.raises(TrainingSpikeException, match="batch 2") as raised:
        fit(tmp_path, SpikeDetection(), at_ends(tmp_path), make=type("S", (Script,), {"losses": (1.0, 0.9, 5.0)}))
    assert raised.value.batch_idx == 2
    assert json.loads((tmp_path / "skip_batches.json").read_text()) == [1, 2]
    [rescue] = names(tmp_path)
    state = read(tmp_path / rescue)["callbacks"]["SpikeDetection"]
    assert state["window"] == pytest.approx([1.0, 0.9])
    assert state["bad_batches"] == [1, 2]


CASES = {
    "small jump": ({}, (1.0, 2.9), None),
    "absolute": ({"atol": 0.5, "rtol": None}, (1.0, 1.5), 1),
    "both": ({"atol": 5.0, "rtol": 1.0}, (1.0, 5.0), None),
    "better": ({}, (9.0, 0.001), None),
    "higher is better": ({"mode": "max", "rtol": 0.5}, (1.0, 0.1), 1),
    "warmup": ({"warmup": 2}, (1.0, 9.0, 9.0), None),
    "nan": ({}, (1.0, float("nan")), 1),
    "nan is passed over": ({"finite_only": False}, (1.0, float("nan"), 1.1), None),
    "window": ({"window": 1}, (1.0, 2.5, 7.0), None),
    "mean of all": ({"window": 9}, (1.0, 2.5, 7.0), 2),
}


@pytest.mark.parametrize(("options", "losses", "at"), CASES.values(), ids=CASES)
def test_what_is_a_spike(options, losses, at, tmp_path):
    """Worse than before, and away from the mean by both limits."""
    callback = SpikeDetection(exclude_batches_path=tmp_path / "mine.json", **options)
    trainer = SimpleNamespace(world_size=1, is_global_zero=True, default_root_dir=tmp_path)
    found = None
    for index, loss in enumerate(losses):
        try:
            callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, index)
        except TrainingSpikeException as spike:
            found = spike.batch_idx
    assert found == at
    assert (tmp_path / "mine.json").exists() == (at is not None)


def test_the_running_mean_survives_a_resume(tmp_path):
    """A run that goes on judges by the losses before it: what would have been a spike is one."""
    fit(tmp_path, SpikeDetection(warmup=0), saver(tmp_path), make=Script, max_epochs=1)
    for step in (2, 3):
        again = SpikeDetection(warmup=0)
        with pytest.raises(TrainingSpikeException):
            fit(tmp_path / f"{step}", again, make=Script, ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=2)
        assert list(again._window) == pytest.approx([1.0, 0.9, 0.8, 0.9])
    with pytest.raises(ConfigError, match=r"mode is .* window is"):
        SpikeDetection("up", window=0)


# ThroughputMonitor


def test_rates_are_those_of_the_window():
    """Of the device; with several, of all too; of items and of operations where they are known."""
    throughput = Throughput(available_flops=100, world_size=2, window_size=3)
    for i in range(1, 6):
        throughput.update(time=i * 2.0, batches=i, samples=i * 10, lengths=i * 50, flops=30)
        if i == 2:
            assert throughput.compute() == {"time": 4.0, "batches": 2, "samples": 20, "lengths": 100}
    assert throughput.compute() == {
        "time": 10.0, "batches": 5, "samples": 50, "lengths": 250,
        "device/batches_per_sec": 0.5, "device/samples_per_sec": 5.0, "device/items_per_sec": 25.0,
        "device/flops_per_sec": 15.0, "device/mfu": 0.15,
        "batches_per_sec": 1.0, "samples_per_sec": 10.0, "items_per_sec": 50.0, "flops_per_sec": 30.0,
    }  # fmt: skip
    throughput.reset()
    assert throughput.compute() == {}


def test_totals_that_do_not_grow_are_refused():
    """Somebody handed over a difference."""
    throughput = Throughput()
    throughput.update(time=2.0, batches=1, samples=4)
    with pytest.raises(ConfigError, match="samples is a total"):
        throughput.update(time=3.0, batches=2, samples=4)
    with pytest.raises(ConfigError, match="window_size"):
        Throughput(window_size=1)


def test_throughput_is_logged_by_stage(tmp_path):
    """On the steps that are logged; validations have their own figures."""
    lines = Lines()
    monitor = ThroughputMonitor(lambda batch: len(batch[0]), window_size=2)
    fit(tmp_path, monitor, logger=lines, max_epochs=1, log_every_n_steps=2)
    assert [(s, v) for s, n, v in lines.values("train/samples")] == [(1, 8), (3, 16)]
    assert all(v > 0 for _, n, v in lines.values("train/device/samples_per_sec"))
    assert len(lines.values("train/device/samples_per_sec")) == 2
    lines.lines.clear()
    make_trainer(tmp_path, monitor, logger=lines, log_every_n_steps=1).test(
        type("T", (Net,), {"test_step": Net.validation_step})(), loaders()[1], verbose=False
    )
    assert [v for _, n, v in lines.values("test/samples")] == [2, 4]


def test_totals_count_on_after_a_resume(tmp_path):
    """And time does, without that of the interruption."""

    def make():
        return ThroughputMonitor(lambda batch: len(batch[0]), length_fn=lambda batch: batch[0].numel())

    first = make()
    fit(tmp_path / "a", first, at_ends(tmp_path / "a"), max_epochs=1)
    seconds, *counts = read(tmp_path / "a/step=4.ckpt")["callbacks"]["ThroughputMonitor"]["train"]
    assert counts == [4, 16, 64]
    second = make()
    began = time.perf_counter()
    fit(tmp_path / "b", second, max_epochs=3, ckpt_path=tmp_path / "a/step=4.ckpt")
    now, *counts = second.state_dict()["train"]
    assert counts == [12, 48, 192]
    assert seconds < now < seconds + time.perf_counter() - began


# DeviceStatsMonitor


def test_figures_of_the_device_are_logged_around_batches(tmp_path):
    """In a file of the CSV logger as well as in any other."""
    fit(tmp_path, DeviceStatsMonitor(), logger=CSVLogger(tmp_path), max_epochs=1, log_every_n_steps=2)
    [file] = tmp_path.rglob("metrics.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    name = "DeviceStatsMonitor.on_train_batch_start/cpu_vm_percent"
    assert sum(bool(row[name]) for row in rows) == 2
    assert {"DeviceStatsMonitor.on_train_batch_end/cpu_percent"} <= set(rows[0])


def test_figures_of_the_cpu_can_be_left_out(tmp_path):
    """And on the CPU there are no others."""
    lines = Lines()
    fit(tmp_path, DeviceStatsMonitor(cpu_stats=False), logger=lines, max_epochs=1, log_every_n_steps=1)
    assert lines.values("DeviceStats") == []
    with pytest.raises(ConfigError, match="no logger"):
        fit(tmp_path, DeviceStatsMonitor())


def test_missing_psutil_is_told_with_what_to_install(tmp_path, monkeypatch):
    """Before training starts."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ConfigError, match=r'pip install "holdfast\[psutil\]"'):
        fit(tmp_path, DeviceStatsMonitor(), logger=Lines())


def test_none_of_them_changes_the_training(tmp_path):
    """With all that only look, the weights are those without."""
    lookers = [LearningRateMonitor(), Timer(), ThroughputMonitor(len), SpikeDetection(rtol=1e9), DeviceStatsMonitor()]
    watched = fit(tmp_path / "a", *lookers, logger=Lines(), shuffle=True)
    alone = fit(tmp_path / "b", shuffle=True)
    assert same(dict(watched.lightning_module.state_dict()), dict(alone.lightning_module.state_dict()))
