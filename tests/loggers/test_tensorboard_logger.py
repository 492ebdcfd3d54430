"""What TensorBoardLogger promises: TensorBoard's own reader finds every value, under the folders that users know."""

from __future__ import annotations

import pickle
from argparse import Namespace
from enum import Enum
from pathlib import Path

import pytest
import torch
import yaml

from holdfast.errors import ConfigError
from holdfast.loggers import TensorBoardLogger
from small_fits import Net, fit
from tracked import events, scalars


def event_files(folder):
    """The names of the event files in a folder and below it."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("events.out.tfevents.*"))


def session(folder):
    """What TensorBoard's page of hyperparameters knows of a run."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def test_values_are_found_at_their_steps(tmp_path):
    """Numbers, tensors of one element and booleans."""
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": torch.tensor(0.5), "seen": 3, "done": True}, step=1)
    logger.log_metrics({"loss": 0.25}, step=2)
    logger.finalize("success")

    folder = tmp_path / "lightning_logs" / "version_0"
    assert scalars(folder, "loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(folder, "seen") == [(1, 3.0)]
    assert scalars(folder, "done") == [(1, 1.0)]


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "lightning_logs/version_0"),
        ({"name": "runs", "version": 7}, "runs/version_7"),
        ({"name": "runs", "version": "baseline"}, "runs/baseline"),
        ({"name": None}, "version_0"),
        ({"name": "", "version": 3, "sub_dir": "events"}, "version_3/events"),
    ],
)
def test_its_folder_is_the_one_that_users_know(tmp_path, options, folder):
    """``<save_dir>/<name>/version_N/<sub_dir>``, with the event file and ``hparams.yaml`` in it."""
    logger = TensorBoardLogger(tmp_path, **options)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")

    assert logger.log_dir == str(tmp_path / folder)
    assert (logger.save_dir, logger.name) == (str(tmp_path), options.get("name", "lightning_logs") or "")
    names = [p.name.split(".")[0] for p in (tmp_path / folder).iterdir()]
    assert sorted(names) == ["events", "hparams"]
    assert (tmp_path / folder / "hparams.yaml").read_text() == "{}\n"


def test_nothing_is_on_disk_before_it_is_asked_for(tmp_path):
    """Making it touches nothing; its version takes a folder; what is logged first begins the event file."""
    logger = TensorBoardLogger(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert logger.version == 0
    assert event_files(tmp_path) == []
    logger.log_metrics({"loss": 1.0}, step=0)
    assert len(event_files(logger.log_dir)) == 1


def test_a_home_folder_is_the_users_own(tmp_path, monkeypatch):
    """``~`` and variables stand for what they say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "logs")
    assert TensorBoardLogger("~/$PLACE", version=1).log_dir == str(tmp_path / "logs" / "lightning_logs" / "version_1")


def test_several_values_of_one_name_are_shown_together(tmp_path):
    """A dict makes a curve each, in a folder each, as torch's writer makes them."""
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": {"train": 1.0, "val": torch.tensor(2.0)}}, step=4)
    logger.finalize("success")

    assert scalars(Path(logger.log_dir, "loss_train"), "loss") == [(4, 1.0)]
    assert scalars(Path(logger.log_dir, "loss_val"), "loss") == [(4, 2.0)]


def test_a_prefix_stands_before_every_name_of_tensorboard(tmp_path):
    """Of metrics, of what runs are compared by too."""
    logger = TensorBoardLogger(tmp_path, prefix="try")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_hyperparams({"lr": 0.1}, {"score": 2.0})
    logger.finalize("success")

    assert sorted(events(logger.log_dir).Tags()["scalars"]) == ["try-loss", "try-score"]


class Colour(Enum):
    RED = "red"


def test_hyperparameters_are_in_a_file_and_on_tensorboards_page(tmp_path):
    """Nested ones by a path, everyday types by their nearest value; later calls add to the file alone."""
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.5, "opt": {"name": "adam", "betas": (0.9, 0.99)}, "colour": Colour.RED})
    logger.log_hyperparams(Namespace(width=32))
    logger.finalize("success")

    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {
        "lr": 0.5, "opt": {"name": "adam", "betas": [0.9, 0.99]}, "colour": "red", "width": 32,
    }  # fmt: skip
    assert session(logger.log_dir) == {
        "lr": 0.5, "opt/name": "adam", "opt/betas": "[0.9, 0.99]", "colour": "red",
    }  # fmt: skip


def test_a_placeholder_lets_tensorboard_show_hyperparameters(tmp_path):
    """``hp_metric`` is -1 until metrics are given; without it and them, only the file has the hyperparameters."""
    logger = TensorBoardLogger(tmp_path, version=0)
    logger.log_hyperparams({"lr": 0.5})
    logger.log_hyperparams({"lr": 0.5}, 0.75, step=3)
    logger.log_hyperparams({"lr": 0.5}, {"acc": 0.5}, step=4)
    logger.finalize("success")
    assert scalars(logger.log_dir, "hp_metric") == [(0, -1.0), (3, 0.75)]
    assert scalars(logger.log_dir, "acc") == [(4, 0.5)]

    bare = TensorBoardLogger(tmp_path, version=1, default_hp_metric=False)
    bare.log_hyperparams({"lr": 0.5})
    bare.finalize("success")
    assert event_files(bare.log_dir) == []
    assert Path(bare.log_dir, "hparams.yaml").read_text() == "lr: 0.5\n"


class Drawn(Net):
    """Has an input by which its graph is drawn, or none."""

    def __init__(self, example):
        super().__init__()
        self.example_input_array = example

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace.*is deprecated:DeprecationWarning")  # torch's, of its own call
@pytest.mark.parametrize(("asked", "example"), [(True, torch.zeros(3, 4)), (True, None), (False, torch.zeros(3, 4))])
def test_the_graph_of_a_module_is_kept_where_it_is_asked_for(tmp_path, caplog, asked, example):
    """Of the module that is fitted, by its own example input; without one a line says why there is none."""
    logger = TensorBoardLogger(tmp_path, log_graph=asked)
    fit(tmp_path, net=Drawn(example), logger=logger, max_epochs=1)

    kept = asked and example is not None
    assert events(logger.log_dir).Tags()["graph"] is kept
    assert ("no graph for TensorBoard" in caplog.text) is (asked and example is None)


def test_what_is_logged_after_the_end_is_kept_too(tmp_path):
    """A test after a fit begins another event file; TensorBoard reads both."""
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    logger.log_metrics({"test_loss": 2.0}, step=1)
    logger.finalize("success")

    assert len(event_files(logger.log_dir)) == 2
    assert scalars(logger.log_dir, "loss") == [(1, 1.0)]
    assert scalars(logger.log_dir, "test_loss") == [(1, 2.0)]


def test_torchs_writer_is_there_for_what_only_it_can_do(tmp_path):
    """``experiment`` is a SummaryWriter of this folder, with the options that were given."""
    logger = TensorBoardLogger(tmp_path, filename_suffix=".mine")
    logger.experiment.add_text("note", "hello", 1)
    logger.save()

    assert logger.experiment.log_dir == logger.log_dir
    assert [name.endswith(".mine") for name in event_files(logger.log_dir)] == [True]
    assert events(logger.log_dir).Tags()["tensors"] == ["note/text_summary"]


def test_another_process_gets_it_without_its_open_file(tmp_path):
    """It is pickled with the version that it took."""
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    copied = pickle.loads(pickle.dumps(logger))

    assert copied.log_dir == logger.log_dir
    copied.log_metrics({"loss": 2.0}, step=2)
    logger.finalize("success")
    copied.finalize("success")
    assert scalars(logger.log_dir, "loss") == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("value", ["high", None, {"a": "b"}])
def test_tensorboard_gets_numbers_alone(tmp_path, value):
    """The error names the metric."""
    with pytest.raises(ConfigError, match="'loss"):
        TensorBoardLogger(tmp_path).log_metrics({"loss": value}, step=1)
