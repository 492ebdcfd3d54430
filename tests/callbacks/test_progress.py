"""What every progress bar promises: drawn by time, metrics read only then, the right numbers, plain lines elsewhere."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from holdfast.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from holdfast.callbacks.progress.line import Line, clock_time
from holdfast.errors import ConfigError


class Clock:
    """Goes on when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Recording(ProgressBar):
    """A bar that keeps what it is to draw, and takes the time for it that it is told to."""

    def __init__(self, *args, drawing=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.clock = Clock()
        self.drawing = drawing
        self.drawn = []
        self.finals = []
        self.closed = 0

    def show(self, lines, *, final):
        self.drawn.append(list(lines))
        if final:
            self.finals.append(lines[0])
        self.clock.now += self.drawing

    def close(self):
        self.closed += 1


def train(bar, trainer, batches, *, seconds, first=0):
    """Batches of an epoch that is under way."""
    for batch_idx in range(first, batches):
        bar.clock.now += seconds
        bar.on_train_batch_end(trainer, None, None, None, batch_idx)


def validate(bar, trainer, batches, *, seconds):
    bar.on_validation_start(trainer, None)
    for batch_idx in range(batches):
        bar.clock.now += seconds
        bar.on_validation_batch_end(trainer, None, None, None, batch_idx)
    bar.on_validation_end(trainer, None)


def test_it_is_drawn_by_time_not_by_batch(making, terminal):
    """10,000 batches of a millisecond are drawn about a hundred times."""
    bar, trainer = Recording(), making(num_training_batches=10_000)
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 10_000, seconds=0.001)

    assert 90 <= len(bar.drawn) <= 101


def test_a_slow_terminal_leaves_time_to_train(making, terminal):
    """The time between drawings is counted from the end of one: half a second of drawing a batch is never the rule."""
    bar, trainer = Recording(drawing=0.5), making(num_training_batches=1000)
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 1000, seconds=0.01)

    assert len(bar.drawn) <= 1000 / 10 + 1


def test_metrics_are_read_only_when_it_is_drawn(making, terminal):
    """The trainer is asked as often as something is drawn."""

    class Asked(Recording):
        asked = 0

        def get_metrics(self, trainer, pl_module):
            self.asked += 1
            return super().get_metrics(trainer, pl_module)

    bar, trainer = Asked(), making(num_training_batches=1000)
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 1000, seconds=0.001)

    assert bar.asked == len(bar.drawn) < 20


def test_it_shows_the_numbers_of_the_epoch(making, terminal):
    """Label, counts, rate, time left and metrics are those of the moment."""
    bar, trainer = Recording(), making(num_training_batches=100, current_epoch=7)
    trainer.progress_bar_metrics.update(loss=torch.tensor(0.5), seen=torch.tensor(3))
    trainer.logger = SimpleNamespace(version=2)
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 20, seconds=0.5)

    [line] = bar.drawn[-1]
    assert (line.label, line.counts, line.speed, line.left) == ("Epoch 7", "20/100", "2.0 it/s", "0:40 left")
    assert line.facts == ["v_num 2", "loss 0.5", "seen 3"]


def test_it_shows_a_save_under_way(making, terminal):
    """What the trainer's saving says when it is drawn."""
    bar, trainer = Recording(), making(saving=SimpleNamespace(under_way=False))
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 1, seconds=1)
    trainer.saving.under_way = True
    train(bar, trainer, 2, seconds=1, first=1)

    assert [drawn[0].facts for drawn in bar.drawn] == [[], ["saving"]]


def test_a_resumed_epoch_counts_on_and_has_the_rate_of_this_process(making, terminal):
    """60 of 100 were done before: 10 more in 10 seconds are one a second."""
    bar, trainer = Recording(), making(num_training_batches=100)
    trainer.loop.batch = 60
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 70, seconds=1, first=60)

    [line] = bar.drawn[-1]
    assert (line.counts, line.rate, line.left) == ("70/100", 1.0, "0:30 left")


def test_a_validation_is_shown_beside_and_its_time_does_not_count(making, terminal):
    """Two lines while it runs; the rate of training is the same before and after."""
    bar, trainer = Recording(), making(num_training_batches=100, num_val_batches=[3, 2])
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 10, seconds=1)
    validate(bar, trainer, 5, seconds=100)
    during = bar.drawn[-1]
    train(bar, trainer, 20, seconds=1, first=10)

    assert [(line.label, line.counts, line.rate) for line in during] == [
        ("Epoch 0", "10/100", 1.0),
        ("Validation", "5/5", 0.01),
    ]
    assert [(line.label, line.rate) for line in bar.drawn[-1]] == [("Epoch 0", 1.0)]


def test_the_sanity_check_is_shown_by_its_name(making, terminal):
    """It comes before the first epoch, with its own number of batches."""
    bar, trainer = Recording(), making()
    bar.setup(trainer, None, "fit")
    bar.on_sanity_check_start(trainer, None)
    validate(bar, trainer, 1, seconds=1)
    bar.on_sanity_check_end(trainer, None)

    assert [(line.label, line.counts) for line in bar.drawn[0]] == [("Sanity check", "1/1")]


@pytest.mark.parametrize("total", [float("inf"), None])
def test_an_epoch_of_unknown_length_is_counted(making, terminal, total):
    """No total and no time left are made up; a trainer that does not tell is one that does not know."""
    bar, trainer = Recording(), making(num_training_batches=total)
    if total is None:
        del trainer.num_training_batches
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 4, seconds=1)

    [line] = bar.drawn[-1]
    assert (line.counts, line.left) == ("4", "")


def test_the_end_is_drawn_however_soon_it_comes(making, terminal):
    """The last state of the run stays on the screen, and the terminal is given back."""
    bar, trainer = Recording(), making()
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 4, seconds=0.001)
    bar.on_train_epoch_end(trainer, None)
    bar.on_train_end(trainer, None)

    assert [line.counts for line in bar.finals] == ["4/4"]
    assert bar.closed == 1


def test_leave_keeps_every_epoch(making, terminal):
    """The final state of each epoch stays on the screen."""
    bar, trainer = Recording(leave=True), making()
    bar.setup(trainer, None, "fit")
    for epoch in range(3):
        trainer.current_epoch = epoch
        bar.on_train_epoch_start(trainer, None)
        train(bar, trainer, 4, seconds=0.001)
        bar.on_train_epoch_end(trainer, None)
    bar.on_train_end(trainer, None)

    assert [line.label for line in bar.finals] == ["Epoch 0", "Epoch 1", "Epoch 2"]


@pytest.mark.parametrize("end", ["exception", "teardown", "next run"])
def test_however_a_run_ends_the_terminal_is_given_back(making, terminal, end):
    """Also where the run ended without any hook: then when the next one begins."""
    bar, trainer = Recording(), making()
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 2, seconds=1)
    if end == "exception":
        bar.on_exception(trainer, None, RuntimeError("boom"))
    elif end == "teardown":
        bar.teardown(trainer, None, "fit")
    else:
        bar.setup(trainer, None, "validate")

    assert bar.closed == 1


def test_a_bar_that_is_switched_off_draws_nothing(making, terminal):
    """By ``refresh_rate=0`` or ``disable``; ``enable`` brings it back."""
    for bar in (Recording(refresh_rate=0), Recording()):
        bar.disable()
        trainer = making()
        bar.setup(trainer, None, "fit")
        bar.on_train_epoch_start(trainer, None)
        train(bar, trainer, 2, seconds=1)
        assert (bar.drawn, bar.is_disabled, bar.is_enabled) == ([], True, False)
        bar.enable()
        train(bar, trainer, 4, seconds=1, first=2)
        assert (len(bar.drawn), bar.is_disabled, bar.is_enabled) == (2, False, True)


def run_of_two_epochs(bar, trainer):
    bar.setup(trainer, None, "fit")
    bar.on_sanity_check_start(trainer, None)
    validate(bar, trainer, 1, seconds=1)
    bar.on_sanity_check_end(trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.progress_bar_metrics["loss"] = torch.tensor(0.125) / (epoch + 1)
        bar.on_train_epoch_start(trainer, None)
        train(bar, trainer, 4, seconds=20)
        validate(bar, trainer, 2, seconds=1)
        bar.on_train_epoch_end(trainer, None)
    bar.on_train_end(trainer, None)
    bar.teardown(trainer, None, "fit")


@pytest.mark.parametrize("kind", [Recording, RichProgressBar])
def test_without_a_terminal_each_epoch_is_one_plain_line(trainer, capsys, kind):
    """Neither the sanity check nor validations within fit write any."""
    bar = kind()
    bar.clock = Clock()
    run_of_two_epochs(bar, trainer)

    assert capsys.readouterr().out.splitlines() == [
        "Epoch 0: 4/4 batches in 1:20 (20.0 s/it), loss 0.125",
        "Epoch 1: 4/4 batches in 1:20 (20.0 s/it), loss 0.0625",
    ]


def test_without_a_terminal_an_evaluation_of_its_own_is_one_line(trainer, capsys):
    """``validate``, ``test`` and ``predict`` outside of fit say what they did."""
    bar = Recording()
    bar.setup(trainer, None, "validate")
    validate(bar, trainer, 2, seconds=1)
    bar.setup(trainer, None, "test")
    bar.on_test_start(trainer, None)
    for batch_idx in range(3):
        bar.clock.now += 0.25
        bar.on_test_batch_end(trainer, None, None, None, batch_idx)
    bar.on_test_end(trainer, None)
    bar.setup(trainer, None, "predict")
    bar.on_predict_start(trainer, None)
    for loader, batch_idx in [(0, 0), (0, 1), (1, 0)]:
        bar.clock.now += 1
        bar.on_predict_batch_end(trainer, None, None, None, batch_idx, loader)
    bar.on_predict_end(trainer, None)

    assert capsys.readouterr().out.splitlines() == [
        "Validation: 2/2 batches in 0:02 (1.0 it/s)",
        "Test: 3/3 batches in 0:01 (4.0 it/s)",
        "Prediction: 3/3 batches in 0:03 (1.0 it/s)",
    ]


def test_other_ranks_show_nothing(making, terminal):
    """Rank 1 neither draws nor writes."""
    bar, trainer = Recording(), making(global_rank=1, is_global_zero=False)
    run_of_two_epochs(bar, trainer)

    assert bar.drawn == []
    assert terminal.text == ""


def test_a_rich_bar_on_a_terminal(trainer, terminal):
    """It draws what it is to, lets a print through, folds nothing away, and shows the cursor again."""
    bar = RichProgressBar()
    bar.clock = Clock()
    bar.setup(trainer, None, "fit")
    trainer.progress_bar_metrics["[loss]"] = 0.25
    trainer.current_epoch = 3
    bar.on_train_epoch_start(trainer, None)
    train(bar, trainer, 2, seconds=1)
    print("a line of the user's")
    validate(bar, trainer, 2, seconds=1)
    train(bar, trainer, 4, seconds=1, first=2)
    bar.on_train_epoch_end(trainer, None)
    bar.on_train_end(trainer, None)
    assert sys.stdout is terminal.stream, "stdout is the program's again"

    shown = terminal.text
    for piece in ("Epoch 3", "2/4", "1.0 it/s", "0:02 left", "[loss] 0.25", "Validation", "2/2"):
        assert piece in shown
    assert "\na line of the user's" in shown.replace("\r", "\n")
    last = shown.splitlines()[-2:]
    assert "Epoch 3" in last[0]
    assert "4/4" in last[0]
    assert last[1].strip() == "[loss] 0.25"
    assert terminal.raw.rfind("\x1b[?25h") > terminal.raw.rfind("\x1b[?25l")


def test_a_tqdm_bar_without_tqdm_says_what_to_install(tmp_path):
    """One sentence, when it is made, not when it is first drawn."""
    code = """
import sys
sys.modules["tqdm"] = None
from holdfast.callbacks import TQDMProgressBar
try:
    TQDMProgressBar()
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "ConfigError TQDMProgressBar needs tqdm. Install it: pip install 'holdfast[tqdm]'"


def test_a_tqdm_bar_on_a_terminal(trainer, terminal):
    """It draws the same numbers."""
    tqdm = pytest.importorskip("tqdm", reason="tqdm is an extra")
    tqdm.tqdm.monitor_interval = 0  # its watching thread would outlive this test
    bar = TQDMProgressBar()
    bar.clock = Clock()
    trainer.progress_bar_metrics["loss"] = 0.25
    bar.setup(trainer, None, "fit")
    for epoch in (3, 4):
        trainer.current_epoch = epoch
        bar.on_train_epoch_start(trainer, None)
        train(bar, trainer, 2, seconds=1)
        bar.print("a line of the user's")
        validate(bar, trainer, 2, seconds=1)
        train(bar, trainer, 4, seconds=1, first=2)
        bar.on_train_epoch_end(trainer, None)
    bar.on_train_end(trainer, None)

    shown = terminal.text
    for piece in ("Epoch 3:", "50%", "2/4, 1.0 it/s, 0:02 left, loss 0.25", "Validation: 100%", "Epoch 4:"):
        assert piece in shown
    assert "a line of the user's\r\n" in shown
    assert "4/4, 1.0 it/s, 0:00 left, loss 0.25" in shown.splitlines()[-1]


def test_a_refresh_rate_that_is_none_is_refused():
    """Whole numbers from 0."""
    with pytest.raises(ConfigError, match="refresh_rate"):
        RichProgressBar(refresh_rate=-1)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0:00"), (59.6, "1:00"), (65, "1:05"), (3599.4, "59:59"), (7265, "2:01:05")]
)
def test_times_are_shown_as_on_a_clock(seconds, shown):
    """Minutes and seconds, and hours where there are some."""
    assert clock_time(seconds) == shown


@pytest.mark.parametrize(("rate", "shown"), [(None, ""), (1234.56, "1,234.6 it/s"), (0.25, "4.0 s/it")])
def test_rates_are_shown_the_way_that_reads_best(rate, shown):
    """Batches a second, or seconds a batch."""
    assert Line("Epoch 0", 1, 2, 1.0, rate).speed == shown


def test_the_names_load_neither_rich_nor_each_other():
    """Importing one callback loads no other, and a bar that is made loads no rich."""
    code = """
import sys
from holdfast.callbacks import Callback, ModelCheckpoint
assert not {"rich", "holdfast.callbacks.progress", "holdfast.callbacks.summary"} & set(sys.modules)
from holdfast.callbacks import RichProgressBar
RichProgressBar()
assert "rich" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
