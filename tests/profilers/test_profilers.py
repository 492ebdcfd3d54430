"""What profilers measure, and where their reports go."""

from __future__ import annotations

import json
import pstats

import pytest
import torch

import holdfast as L
from holdfast.errors import ConfigError
from holdfast.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from holdfast.profilers.base import profiler_of
from holdfast.profilers.watching import WatchedBatches, WatchedHooks, WatchedStrategy
from holdfast.training.data import Batches
from holdfast.training.hooks import Context


class Notes(Profiler):
    """Keeps the order of what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def start(self, action_name):
        self.told.append(f"+{action_name}")

    def stop(self, action_name):
        self.told.append(f"-{action_name}")


def multiply(count):
    for _ in range(count):
        torch.ones(8, 8) @ torch.ones(8, 8)


def test_the_simple_profiler_counts_and_sums_up():
    """Each action once in the report, however often it took place."""
    profiler = SimpleProfiler()
    for _ in range(3):
        with profiler.profile("outer"), profiler.profile("inner"):
            multiply(1)
    assert {action: len(each) for action, each in profiler.recorded_durations.items()} == {"inner": 3, "outer": 3}
    assert sum(profiler.recorded_durations["outer"]) > sum(profiler.recorded_durations["inner"]) > 0
    title, header, _, total, first, second = profiler.summary().splitlines()
    assert title == "Profiler Report"
    assert header.split()[1] == "Action"
    assert [cell.strip() for cell in total.split("|")][1:4:2] == ["Total", "6"]
    assert [line.split()[1] for line in (first, second)] == ["outer", "inner"]
    profiler.extended = False
    assert "Num calls" not in profiler.summary()


def test_an_action_ends_though_an_error_ends_it():
    """And only what was started can be stopped, once."""
    profiler = SimpleProfiler()
    with pytest.raises(ValueError, match="broken"), profiler.profile("one"):
        raise ValueError("broken")
    assert list(profiler.recorded_durations) == ["one"]
    with pytest.raises(ConfigError, match="never started"):
        profiler.stop("one")
    profiler.start("one")
    with pytest.raises(ConfigError, match="started twice"):
        profiler.start("one")


def test_a_report_goes_to_its_file_or_to_the_log(tmp_path, caplog):
    """In the run's folder where nobody said; a second run is added below."""
    profiler = SimpleProfiler(filename="times")
    for stage in ("fit", "fit"):
        profiler.setup(stage, log_dir=str(tmp_path / "logs"))
        with profiler.profile("one"):
            pass
        profiler.describe()
        profiler.teardown(stage)
    assert (tmp_path / "logs/fit-times.txt").read_text().count("FIT Profiler Report") == 2
    assert "Report" not in caplog.text
    plain = SimpleProfiler()
    with plain.profile("one"):
        pass
    plain.describe()
    assert "Profiler Report" in caplog.text


def test_ranks_write_files_of_their_own_and_one_of_them_logs(tmp_path, caplog):
    """Nothing that a path cannot hold gets into a name."""
    profiler = SimpleProfiler(tmp_path, "a/b: c")
    profiler.setup("test", local_rank=1)
    assert profiler.file_name("[x]y", ".prof") == "test-a_b_c-1-[x]y.prof"
    quiet = SimpleProfiler()
    quiet.setup("fit", local_rank=1)
    with quiet.profile("one"):
        pass
    quiet.describe()
    assert caplog.text == ""


def test_the_advanced_profiler_names_functions(tmp_path):
    """Of the inner action what is within it; its figures can be read later."""
    profiler = AdvancedProfiler(tmp_path, "calls", dump_stats=True)
    profiler.setup("fit")
    with profiler.profile("outer"):
        with profiler.profile("inner"):
            multiply(2)
        sorted(range(10))
    report = profiler.summary()
    outer, inner = report.split("Profile stats for: inner")
    assert "multiply" in inner
    assert "multiply" not in outer
    assert "sorted" in outer
    assert pstats.Stats(str(tmp_path / "fit-calls-inner.prof")).total_calls > 0
    with pytest.raises(ConfigError, match="not what was started last"):
        profiler.stop("outer")
    profiler.teardown("fit")
    assert profiler.summary() == ""


def test_the_torch_profiler_records_operators_and_a_trace(tmp_path):
    """Of the third to the fifth step; actions have their names in the trace."""
    profiler = PyTorchProfiler(tmp_path)
    profiler.setup("fit")
    for _ in range(6):
        with profiler.profile("[Strategy]SingleDevice.training_step"):
            multiply(1)
    report = profiler.summary()
    assert "FIT Profiler Report" in report
    assert "aten::mm" in report
    events = json.loads((tmp_path / "fit-trace.json").read_text())["traceEvents"]
    assert sum(event["name"] == "aten::mm" for event in events) == 3
    assert any(event["name"] == "[Strategy]SingleDevice.training_step" for event in events)


def test_the_torch_profiler_says_when_it_recorded_nothing(tmp_path, caplog):
    """One step is not enough for its schedule."""
    profiler = PyTorchProfiler(tmp_path)
    profiler.setup("fit")
    with profiler.profile("training_step"):
        multiply(1)
    profiler.describe()
    assert "recorded nothing" in caplog.text
    profiler.start("training_step")
    profiler.teardown("fit")
    with pytest.raises(ConfigError, match="never started"):
        profiler.stop("training_step")
    with pytest.raises(ConfigError, match="sort_by_key"):
        PyTorchProfiler(sort_by_key="beauty")


class Net(L.LightningModule):
    def on_train_start(self):
        pass


class Mine(L.Callback):
    def on_train_start(self, trainer, pl_module):
        pass


def test_hooks_are_actions():
    """Those that somebody overrides, and no others."""
    notes = Notes()
    hooks = WatchedHooks(notes, None, Net(), L.LightningModule, [Mine()], Context())
    hooks.call("on_train_start")
    hooks.call("on_train_end")
    actions = "[Callback]Mine.on_train_start", "[LightningModule]Net.on_train_start"
    assert notes.told == [sign + action for action in actions for sign in "+-"]


def test_verbs_of_a_strategy_are_actions():
    """A step by its name; what is not watched is the strategy's own."""

    class Some:
        stepping = False

        def forward(self, step, *args):
            return step(*args)

        def backward(self, module, loss):
            return "backward"

        def step(self, optimizer, closure, before):
            return closure()

        def move(self, batch, device):
            return batch

    def training_step(batch):
        return batch + 1

    notes, own = Notes(), Some()
    strategy = WatchedStrategy(notes, own)
    assert strategy.forward(training_step, 1) == 2
    assert strategy.backward(None, None) == "backward"
    assert strategy.step(None, lambda: 5, None) == 5
    own.stepping = True
    assert strategy.stepping is True
    assert [action for action in notes.told if action[0] == "+"] == [
        "+[Strategy]Some.training_step", "+[Strategy]Some.backward", "+[Strategy]Some.optimizer_step",
    ]  # fmt: skip


def test_each_batch_is_an_action():
    """And so is finding out that there are no more."""
    notes = Notes()
    batches = WatchedBatches(notes, Batches([1, 2], 2), "next")
    assert list(batches.iterate()) == [1, 2]
    assert batches.size == 2
    assert notes.told == ["+next", "-next"] * 3


@pytest.mark.parametrize(
    ("given", "kind"), [("simple", SimpleProfiler), ("advanced", AdvancedProfiler), ("pytorch", PyTorchProfiler)]
)
def test_a_profiler_may_be_given_by_name(given, kind):
    """Or be one; none and one that does nothing cost nothing."""
    assert type(profiler_of(given)) is kind
    own = kind()
    assert profiler_of(own) is own
    assert profiler_of(None) is None
    assert profiler_of(PassThroughProfiler()) is None
    with pytest.raises(ConfigError, match="profiler= is"):
        profiler_of("sundial")
