"""What CSVLogger promises: rows in its version's folder, a heading that grows, nothing lost by a kill."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from holdfast.errors import ConfigError, StoreError
from holdfast.loggers import CSVLogger, Logger


def table(logger):
    """The rows of a logger's file, as dicts of text without the empty cells."""
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def test_values_are_written_as_they_are(tmp_path):
    """Floats to the last digit, integers as integers, whatever holds them; ``step`` is a column."""
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": torch.tensor(0.1, dtype=torch.float64), "seen": torch.tensor(3)}, step=1)
    logger.log_metrics({"loss": float("nan"), "seen": True}, step=2)
    logger.save()

    assert table(logger) == [
        {"step": "1", "loss": "0.1", "seen": "3"},
        {"step": "2", "loss": "nan", "seen": "1"},
    ]


def test_folders_are_those_that_users_know(tmp_path):
    """``<save_dir>/lightning_logs/version_N``, with both files in it."""
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")

    folder = tmp_path / "lightning_logs" / "version_0"
    assert (logger.name, logger.version, logger.save_dir) == ("lightning_logs", 0, str(tmp_path))
    assert (logger.root_dir, logger.log_dir) == (str(folder.parent), str(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["hparams.yaml", "metrics.csv"]
    assert (folder / "hparams.yaml").read_text() == "lr: 0.1\n"


@pytest.mark.parametrize(
    ("name", "version", "folder"),
    [
        ("runs", 7, "runs/version_7"),
        ("runs", "baseline", "runs/baseline"),
        ("", None, "version_0"),
        (None, 3, "version_3"),
    ],
)
def test_names_and_versions_make_the_folder(tmp_path, name, version, folder):
    """A number, a name of one's own, and no name at all."""
    assert CSVLogger(tmp_path, name=name, version=version).log_dir == str(tmp_path / folder)


def test_a_version_is_the_next_free_one(tmp_path):
    """After the highest number, gaps or not; other names do not count."""
    for folder in ("version_0", "version_4", "version_x", "checkpoints"):
        (tmp_path / "lightning_logs" / folder).mkdir(parents=True)

    assert CSVLogger(tmp_path).version == 5


def test_runs_that_begin_together_get_folders_of_their_own(tmp_path):
    """Sixteen loggers that ask at once have sixteen versions."""
    with ThreadPoolExecutor(16) as pool:
        versions = list(pool.map(lambda _: CSVLogger(tmp_path).version, range(16)))

    assert sorted(versions) == list(range(16))


def test_making_a_logger_touches_no_disk(tmp_path):
    """Its folder is made when it is first asked for."""
    CSVLogger(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_the_heading_grows_when_new_names_come(tmp_path):
    """Rows before keep their values, and lack the new ones."""
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    logger.log_metrics({"loss": 2.0, 'a, "b"': 0.5}, step=2)
    logger.save()
    logger.log_metrics({"val_loss": 3.0}, step=2)
    logger.log_metrics({"loss": 4.0}, step=3)
    logger.save()

    assert table(logger) == [
        {"step": "1", "loss": "1.0"},
        {"step": "2", "loss": "2.0", 'a, "b"': "0.5"},
        {"step": "2", "val_loss": "3.0"},
        {"step": "3", "loss": "4.0"},
    ]
    assert [p.name for p in Path(logger.log_dir).iterdir()] == ["metrics.csv"], "nothing temporary is left"


def test_a_run_that_goes_on_in_the_same_version_adds_rows(tmp_path):
    """The rows before stay, also when the heading grows, and rows without a step are counted on."""
    first = CSVLogger(tmp_path)
    first.log_metrics({"loss": 1.0}, step=1)
    first.finalize("success")

    second = CSVLogger(tmp_path, version=first.version)
    second.log_metrics({"loss": 2.0})
    second.save()
    second.log_metrics({"val_loss": 3.0}, step=9)
    second.finalize("success")

    assert [row["step"] for row in table(second)] == ["1", "1", "9"]
    assert table(second)[-1] == {"step": "9", "val_loss": "3.0"}


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path):
    """Half a number is no number: it goes, and whole lines stay."""
    first = CSVLogger(tmp_path, version=0)
    first.log_metrics({"loss": 1.25}, step=1)
    first.log_metrics({"loss": 2.25}, step=2)
    first.save()
    path = Path(first.log_dir) / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-3])

    second = CSVLogger(tmp_path, version=0)
    second.log_metrics({"loss": 2.25}, step=2)
    second.save()

    assert table(second) == [{"step": "1", "loss": "1.25"}, {"step": "2", "loss": "2.25"}]


def test_rows_that_were_written_survive_a_kill(tmp_path):
    """A process that is killed without a word leaves every row up to its last save."""
    code = f"""
import os, signal
from holdfast.loggers import CSVLogger
logger = CSVLogger({str(tmp_path)!r}, version=0)
for step in range(1, 6):
    logger.log_metrics({{"loss": step / 2}}, step=step)
    logger.save()
logger.log_metrics({{"loss": 0.0}}, step=6)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code])

    assert killed.returncode == -signal.SIGKILL
    assert table(CSVLogger(tmp_path, version=0)) == [{"step": str(s), "loss": str(s / 2)} for s in range(1, 6)]


def test_it_writes_at_least_every_so_many_steps(tmp_path):
    """By steps, not by rows, and wherever the steps begin."""
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=10)
    written = []
    for step in range(3, 40, 3):
        logger.log_metrics({"loss": 1.0}, step=step)
        path = Path(logger.log_dir) / "metrics.csv"
        written.append(len(table(logger)) if path.exists() else 0)

    assert written == [0, 0, 0, 0, 5, 5, 5, 5, 9, 9, 9, 9, 13]


def test_a_checkpoint_that_is_durable_brings_its_rows_along(tmp_path):
    """``after_save_checkpoint`` writes what was logged before it."""
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.after_save_checkpoint(None)

    assert table(logger) == [{"step": "1", "loss": "1.0"}]


def test_a_write_that_fails_is_an_error_with_the_path_and_loses_no_row(tmp_path):
    """Rows are kept for the next time."""
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    path, aside = Path(logger.log_dir) / "metrics.csv", tmp_path / "aside.csv"
    path.rename(aside)
    logger.log_metrics({"loss": 2.0}, step=2)
    with pytest.raises(StoreError, match=r"metrics\.csv"):
        logger.save()
    aside.rename(path)
    logger.save()

    assert [row["step"] for row in table(logger)] == ["1", "2"]


def test_a_prefix_stands_before_every_name(tmp_path):
    """And not before ``step``."""
    logger = CSVLogger(tmp_path, prefix="try")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()

    assert table(logger) == [{"step": "1", "try-loss": "1.0"}]


def test_a_script_may_write_rows_itself(tmp_path):
    """``experiment`` takes them without the prefix, with a step or counted."""
    logger = CSVLogger(tmp_path, prefix="try")
    logger.experiment.log_metrics({"loss": torch.tensor(1.0)}, step=4)
    logger.experiment.log_metrics({"loss": 2.0})
    logger.experiment.save()

    assert table(logger) == [{"step": "4", "loss": "1.0"}, {"step": "1", "loss": "2.0"}]
    assert logger.experiment.path == str(Path(logger.log_dir, "metrics.csv"))


def test_hyperparameters_add_up_and_may_be_a_namespace(tmp_path):
    """Two calls, two kinds, one file."""
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1})
    logger.log_hyperparams(Namespace(width=32))
    logger.save()

    assert (Path(logger.log_dir) / "hparams.yaml").read_text() == "lr: 0.1\nwidth: 32\n"


@pytest.mark.parametrize("value", ["high", None, [1.0]])
def test_what_is_no_number_is_refused(tmp_path, value):
    """The error names the metric."""
    with pytest.raises(ConfigError, match="'loss'"):
        CSVLogger(tmp_path).log_metrics({"loss": value}, step=1)


@pytest.mark.parametrize("options", [{"version": ""}, {"version": True}, {"flush_logs_every_n_steps": 0}])
def test_arguments_that_make_no_sense_are_refused(tmp_path, options):
    """Before anything is touched."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        CSVLogger(tmp_path, **options)


def test_a_logger_of_ones_own_needs_four_names():
    """The rest has an answer that suits what keeps nothing in files."""

    class Mine(Logger):
        name, version = "mine", 1

        def __init__(self):
            self.rows = []

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, dict(metrics)))

        def log_hyperparams(self, params):
            self.params = params

    mine = Mine()
    mine.log_metrics({"loss": 1.0}, step=1)
    mine.finalize("success")
    mine.after_save_checkpoint(None)

    assert mine.rows == [(1, {"loss": 1.0})]
    mine.log_graph(torch.nn.Linear(1, 1))
    mine.go_on_in(3)
    mine.rewind(4)
    assert mine.group_separator == "/"
    assert (mine.save_dir, mine.root_dir, mine.log_dir, mine.experiment) == (None, None, None, None)
