"""What programs give a progress bar and override in it: theme, console, descriptions, tqdm bars, all of the drawing."""

from __future__ import annotations

import sys

import pytest

from holdfast.callbacks import ProgressBar, RichProgressBar, RichProgressBarTheme, TQDMProgressBar


def shown_in(bar, trainer):
    """An epoch of two batches with a validation after the first, drawn at each."""
    ticks = iter(range(1000))
    bar.clock = lambda: float(next(ticks))
    bar.setup(trainer, None, "fit")
    bar.on_train_epoch_start(trainer, None)
    bar.on_train_batch_end(trainer, None, None, None, 0)
    bar.on_validation_start(trainer, None)
    bar.on_validation_batch_end(trainer, None, None, None, 0)
    bar.on_validation_end(trainer, None)
    bar.on_train_batch_end(trainer, None, None, None, 1)
    bar.on_train_end(trainer, None)


@pytest.fixture
def tqdm():
    """The package, without the thread that would outlive a test."""
    found = pytest.importorskip("tqdm", reason="tqdm is an extra")
    found.tqdm.monitor_interval = 0
    return found.tqdm


def test_a_theme_colours_the_bar_and_writes_its_numbers(making, terminal):
    """Styles of label, bar and metrics are those of the theme, and so is the format of floats."""
    theme = RichProgressBarTheme(
        description="red", progress_bar="green", metrics="bold", metrics_text_delimiter=" | ", metrics_format=".2f"
    )
    trainer = making(num_training_batches=4, progress_bar_metrics={"loss": 0.1234, "seen": 3})
    shown_in(RichProgressBar(theme=theme), trainer)

    assert "\x1b[31mEpoch 0\x1b[0m" in terminal.raw
    assert "\x1b[32m━" in terminal.raw
    assert "\x1b[1mloss 0.12 | seen 3\x1b[0m" in terminal.raw


def test_console_kwargs_reach_the_console(making, terminal):
    """Such as where it writes."""
    shown_in(RichProgressBar(leave=True, console_kwargs={"no_color": True, "width": 40}), making())
    assert "Epoch 0" in terminal.raw
    assert "\x1b[3" not in terminal.raw
    assert max(map(len, terminal.text.splitlines())) <= 40


def test_columns_that_would_not_be_asked_for_are_said():
    """An override that nothing calls is told when the class is made."""
    with pytest.warns(UserWarning, match="Columns.configure_columns is never called.*get_metrics"):

        class Columns(RichProgressBar):
            def configure_columns(self, trainer):
                return []


def test_descriptions_may_be_overridden(making, capsys):
    """They are what the lines are called; an epoch keeps its number."""

    class German(ProgressBar):
        train_description = "Epoche"
        validation_description = "Pruefung"

    bar, trainer = German(), making(current_epoch=2)
    shown_in(bar, trainer)
    bar.on_train_epoch_end(trainer, None)
    bar.setup(trainer, None, "validate")
    bar.on_validation_start(trainer, None)
    bar.on_validation_end(trainer, None)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["Epoche 2", "Pruefung"]


def test_tqdm_bars_may_be_made_otherwise(making, terminal, tqdm):
    """One is changed, one is not shown: what the overrides return is what is drawn on."""

    class Own(TQDMProgressBar):
        def init_train_tqdm(self):
            bar = super().init_train_tqdm()
            bar.bar_format = "<{desc} {n_fmt} of {total_fmt}>"
            return bar

        def init_validation_tqdm(self):
            return tqdm(disable=True)

    shown_in(Own(), making(num_val_batches=[1]))
    assert "<Epoch 0 2 of 4>" in terminal.text
    assert "Validation" not in terminal.text


def test_a_description_that_an_override_has_set_stays(making, terminal, tqdm):
    """Of a validation, whose label does not change."""

    class Own(TQDMProgressBar):
        def init_validation_tqdm(self):
            bar = super().init_validation_tqdm()
            bar.set_description("looking")
            return bar

    shown_in(Own(), making())
    assert "looking: " in terminal.text
    assert "Epoch:" not in terminal.text, "nothing is drawn before there is something to show"
    assert "Validation" not in terminal.text


def test_a_bar_may_draw_all_by_itself(making, terminal):
    """From its hooks, by what the run says of its size."""

    class Percent(ProgressBar):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            sys.stdout.write(f"{100 * (batch_idx + 1) / self.total_train_batches:.0f}% of {self.trainer.name}\r")

    bar = Percent()
    with pytest.raises(RuntimeError, match="Percent has seen no run yet"):
        bar.total_train_batches  # noqa: B018
    shown_in(bar, making(name="this"))
    assert "25% of this\r50% of this\r" in terminal.raw


def test_the_batches_of_the_check_are_those_of_the_check(making):
    """``total_val_batches`` within the check before training, and in a validation."""
    bar, trainer = ProgressBar(), making(sanity_checking=True, num_val_batches=[3, 4])
    bar.setup(trainer, None, "fit")
    assert bar.total_val_batches == 1
    trainer.sanity_checking = False
    assert bar.total_val_batches == 7
