"""What loggers get of a fit: several at once, none, the default; and word of each checkpoint that is durable."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import numpy
import pytest
import torch

from holdfast import LightningDataModule
from holdfast.callbacks import Callback, ModelCheckpoint
from holdfast.catalog import verify
from holdfast.catalog.folder import Folder
from holdfast.errors import ConfigError
from holdfast.loggers import CSVLogger, DummyLogger, Logger, TensorBoardLogger
from holdfast.store import LocalStore
from small_fits import Net, falling, fit, loaders, make_trainer, names
from tracked import rows, scalars


class Told(Logger):
    """Notes what it is told of checkpoints, and whether each path that it sees verifies at that moment."""

    name, version = "told", 0

    def __init__(self):
        self.saved, self.threads, self.ended = [], set(), None

    def log_metrics(self, metrics, step=None):
        """Nothing."""

    def log_hyperparams(self, params):
        """Nothing."""

    def after_save_checkpoint(self, checkpoint_callback):
        path = checkpoint_callback.best_model_path
        verdict = verified(path)
        self.saved.append((checkpoint_callback.monitor, Path(path).name, verdict))
        self.threads.add(threading.current_thread())

    def finalize(self, status):
        self.ended = (status, len(self.saved))


def verified(path):
    """The word of ``holdfast verify`` on a file."""
    with LocalStore(Path(path).parent).open(Path(path).name) as reader:
        return verify.verify(reader).verdict.value


def test_nobody_hears_of_a_checkpoint_before_it_is_durable(tmp_path):
    """The writer is held back in the middle of its save: training goes on, and no logger is told. Then it is."""
    logger = Told()
    seen = []

    class Holding(Callback):
        """Holds the lock under which names appear, from before the save of step 2 until step 4."""

        def __init__(self):
            self.lock = ExitStack()

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 1:
                self.lock.enter_context(Folder(LocalStore(tmp_path)).exclusive())
            if trainer.global_step in (2, 3):
                seen.append((trainer.global_step, trainer.saving.under_way, list(logger.saved), names(tmp_path)))
            if trainer.global_step == 3:
                self.lock.close()

    callback = ModelCheckpoint(tmp_path, every_n_train_steps=2)
    fit(tmp_path, Holding(), callback, logger=logger, max_epochs=1)

    assert seen == [(2, True, [], []), (3, True, [], [])]
    assert logger.saved == [(None, "epoch=0-step=2.ckpt", "whole"), (None, "epoch=0-step=4.ckpt", "whole")]
    assert logger.ended == ("success", 2), "before fit returns, and before the logger is told of its end"
    assert logger.threads == {threading.main_thread()}


def test_each_callback_is_told_of_for_its_own_checkpoints(tmp_path):
    """Two callbacks in one folder, and one elsewhere that saves less often."""
    logger = Told()
    callbacks = [
        ModelCheckpoint(tmp_path / "one", monitor="val_loss", save_last=True),
        ModelCheckpoint(tmp_path / "one", filename="newest-{epoch}"),
        ModelCheckpoint(tmp_path / "two", monitor="train_loss_epoch", every_n_epochs=2),
    ]
    fit(tmp_path, *callbacks, net=Net(falling), logger=logger, max_epochs=2)

    by_callback = {m: [name for one, name, word in logger.saved if one == m and word == "whole"] for m in
                   ("val_loss", None, "train_loss_epoch")}  # fmt: skip
    assert by_callback == {
        "val_loss": ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"],
        None: ["newest-epoch=0.ckpt", "newest-epoch=1.ckpt"],
        "train_loss_epoch": ["epoch=1-step=8.ckpt"],
    }
    assert len(logger.saved) == 5


class Raises(Told):
    def after_save_checkpoint(self, checkpoint_callback):
        raise ConnectionError("no route to the tracker")


def test_a_logger_that_raises_ends_the_fit_and_costs_no_checkpoint(tmp_path):
    """What it raised comes out of fit; the checkpoint that it was told of is there and whole."""
    with pytest.raises(ConnectionError, match="no route"):
        fit(tmp_path, ModelCheckpoint(tmp_path, filename="{epoch}"), logger=Raises(), max_epochs=2)

    assert verified(tmp_path / "epoch=0.ckpt") == "whole"


def test_a_logger_that_raises_costs_no_rescue(tmp_path, caplog):
    """A step breaks while a save is under way: the logger is told of that one, raises, and the rescue is written."""
    lock = ExitStack()

    class Trouble(Exception):
        """What ends the run."""

    def stumble(hook, module):
        if hook == "training_step" and module.global_step == 1:
            lock.enter_context(Folder(LocalStore(tmp_path)).exclusive())
        if hook == "training_step" and module.global_step == 3:
            lock.close()  # until here the save of step 2 cannot have ended
            raise Trouble

    with pytest.raises(Trouble):
        fit(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=2), net=Net(stumble=stumble), logger=Raises())

    assert names(tmp_path) == ["epoch=0-step=2.ckpt", "rescue-epoch=0-step=3.ckpt"]
    assert "ConnectionError: no route to the tracker" in caplog.text


def test_several_loggers_get_the_same(tmp_path):
    """Each in its own version folder; the first one's is where checkpoints go; the test after the fit is logged too."""
    both = [TensorBoardLogger(tmp_path), CSVLogger(tmp_path, name="table")]
    trainer = fit(tmp_path, net=Net(falling), logger=both, log_every_n_steps=2, max_epochs=2)

    assert trainer.loggers == both
    assert trainer.logger is both[0]
    assert names(tmp_path) == ["lightning_logs/version_0/checkpoints/epoch=1-step=8.ckpt"]
    table = rows(both[1].log_dir)
    for name in ("train_loss_step", "val_loss", "train_loss_epoch", "epoch"):
        shown = scalars(both[0].log_dir, name)
        assert shown == [(int(r["step"]), torch.tensor(float(r[name])).item()) for r in table if name in r], name
        assert shown != []
    for logger in both:
        assert Path(logger.log_dir, "hparams.yaml").read_text() == "width: 8\n"


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        (None, ["TensorBoardLogger"]),
        (True, ["TensorBoardLogger"]),
        (False, []),
        ([], []),
        (CSVLogger("x"), ["CSVLogger"]),
        ((CSVLogger("x"), TensorBoardLogger("x")), ["CSVLogger", "TensorBoardLogger"]),
        (iter([CSVLogger("x")]), ["CSVLogger"]),
    ],
    ids=["default", "true", "false", "empty", "one", "tuple", "iterator"],
)
def test_what_a_trainer_takes_as_its_loggers(tmp_path, given, kinds):
    """One, several, none, or the default."""
    trainer = make_trainer(tmp_path, logger=given)
    assert [type(one).__name__ for one in trainer.loggers] == kinds
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["csv", 3, [CSVLogger("x"), "csv"]])
def test_what_is_no_logger_is_refused(tmp_path, given):
    """By its type."""
    with pytest.raises(ConfigError, match="logger= takes"):
        make_trainer(tmp_path, logger=given)


class Draws(Net):
    """Uses its logger as a script for TensorBoard does."""

    def on_train_start(self):
        self.logger.experiment.add_text("note", "hello")
        self.logger.log_image(key="picture", images=[])
        self.logger[0].experiment[1].add_image("picture", None)


def test_a_trial_run_logs_nothing_and_runs_what_logs(tmp_path):
    """Under ``fast_dev_run`` every call of a logger does nothing; where there is to be none, there is none."""
    trainer = fit(tmp_path, net=Draws(), logger=True, fast_dev_run=True)
    assert isinstance(trainer.logger, DummyLogger)
    assert list(tmp_path.iterdir()) == []
    assert make_trainer(tmp_path, logger=False, fast_dev_run=True).logger is None


class Named(Told):
    """A tracker that has a run of its own, which it knows when that has begun."""

    name, version = "project", None

    def __init__(self, save_dir):
        super().__init__()
        self.folder = save_dir

    @property
    def save_dir(self):
        return self.folder

    @property
    def experiment(self):
        self.version = "x7"
        return self


@pytest.mark.parametrize(
    ("logger", "folder"),
    [
        (lambda root: Named(None), "project/x7/checkpoints"),
        (lambda root: Named(str(root / "elsewhere")), "elsewhere/project/x7/checkpoints"),
        (lambda root: TensorBoardLogger(root / "tb", name="a", version="b", sub_dir="c"), "tb/a/b/checkpoints"),
        (lambda root: CSVLogger(root / "csv", name=None, version=4), "csv/version_4/checkpoints"),
        (lambda root: False, "checkpoints"),
    ],
)
def test_checkpoints_that_nobody_placed_lie_beside_the_first_loggers_run(tmp_path, logger, folder):
    """``<save_dir or root>/<name>/<version>/checkpoints``, as "ModelCheckpoint API page" (Lightning 1.5) has it."""
    fit(tmp_path, logger=logger(tmp_path), max_epochs=1)
    assert names(tmp_path) == [f"{folder}/epoch=0-step=4.ckpt"]


def test_validating_alone_is_logged(tmp_path):
    """Without a fit there is a version folder with what was measured and of what, and none for checkpoints."""
    loggers = [TensorBoardLogger(tmp_path), CSVLogger(tmp_path, name="table")]
    make_trainer(tmp_path, logger=loggers).validate(Net(falling), loaders()[1], verbose=False)

    assert scalars(tmp_path / "lightning_logs" / "version_0", "val_loss") == [(0, 1.0)]
    assert rows(tmp_path / "table" / "version_0") == [{"epoch": "0", "val_loss": "1.0", "step": "0"}]
    for folder in ("lightning_logs", "table"):
        assert (tmp_path / folder / "version_0" / "hparams.yaml").read_text() == "width: 8\n"
        assert not (tmp_path / folder / "version_0" / "checkpoints").exists()


def test_a_logger_of_ones_own_knows_ranks(monkeypatch):
    """``rank_zero_experiment`` gives other ranks something that takes every call."""
    from holdfast.loggers import DummyExperiment, rank_zero_experiment

    class Mine(Told):
        @property
        @rank_zero_experiment
        def experiment(self):
            return "a connection"

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", "0")
    assert Mine().experiment == "a connection"
    monkeypatch.setenv("RANK", "3")
    assert isinstance(Mine().experiment, DummyExperiment)
    assert Mine().experiment.add_scalar("loss", 1.0) is None


class Sized(LightningDataModule):
    """The data of ``loaders``, with hyperparameters."""

    def __init__(self, logger=True, **values):
        super().__init__()
        self.save_hyperparameters(values, logger=logger)

    def train_dataloader(self):
        return loaders()[0]

    def val_dataloader(self):
        return loaders()[1]


EQUAL = {
    "rate": 0.1,
    "mean": torch.tensor([1.0, 2.0]),
    "table": numpy.arange(3),
    "nested": {"lr": [1, {"mean": torch.ones(2)}]},
    "nothing": float("nan"),
}
OTHER = {
    "rate": 0.2,
    "mean": torch.tensor([1.0, 3.0]),
    "table": numpy.arange(4),
    "nested": {"lr": [1, {"mean": torch.ones(1)}]},
    "nothing": None,
}


def sized_net(**values):
    """A module with further hyperparameters."""
    net = Net(falling)
    net.save_hyperparameters(values)
    return net


def test_hyperparameters_of_module_and_datamodule_that_differ_are_an_error(tmp_path):
    """Before anything is trained or written; all of them are named. Each alone is logged, and so is what is equal."""
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path))
    with pytest.raises(ConfigError, match="module and datamodule as one") as raised:
        trainer.fit(sized_net(**EQUAL, mine=1), datamodule=Sized(**OTHER, own=2))
    assert all(f"'{name}' is " in str(raised.value) for name in EQUAL)
    assert "'mine'" not in str(raised.value)
    assert names(tmp_path) == []

    logger = CSVLogger(tmp_path)
    make_trainer(tmp_path, logger=logger).fit(sized_net(**EQUAL, mine=1), datamodule=Sized(**EQUAL, own=2))
    logged = Path(logger.log_dir, "hparams.yaml").read_text()
    assert "rate: 0.1\n" in logged
    assert "mine: 1\n" in logged
    assert "own: 2\n" in logged


def test_hyperparameters_that_no_logger_gets_may_differ(tmp_path):
    """Where one of the two is not logged, and where there is no logger."""
    make_trainer(tmp_path, max_epochs=1).fit(sized_net(rate=1), datamodule=Sized(rate=2))
    logger = CSVLogger(tmp_path)
    make_trainer(tmp_path, logger=logger, max_epochs=1).fit(sized_net(rate=1), datamodule=Sized(logger=False, rate=2))
    assert "rate: 1\n" in Path(logger.log_dir, "hparams.yaml").read_text()
