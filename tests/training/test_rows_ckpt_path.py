"""``ckpt_path``: "last", "best", "auto", paths; in fit, validate, test and predict; and the folder gone on in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError, Incompatible, NotFound
from holdfast.loggers import CSVLogger
from small_fits import Net, falling, fit, loaders, make_trainer, names, read, rising, steps


class Crash(L.Callback):
    """Ends a fit as a killed process would leave it: at the start of a batch, with what is durable by then."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyError("crash")


def crashed(folder, step, *callbacks, **options):
    """A fit that crashed when so many steps were done."""
    with pytest.raises(KeyError, match="crash"):
        fit(folder, Crash(step), *callbacks, **options)


class Measures(Net):
    """Tests and predicts too, and says from which weights."""

    def test_step(self, batch, batch_idx):
        self.log("test_sum", self.total())

    def predict_step(self, batch, batch_idx):
        return self.total()

    def total(self):
        return sum(p.sum() for p in self.parameters())


def total(path):
    """What ``Measures`` measures, of a file."""
    return sum(value.sum() for value in read(path)["state_dict"].values())


def measured(trainer, verb, net, ckpt_path):
    """The sum of the weights that a verb ran with."""
    _, validation = loaders()
    if verb == "predict":
        return trainer.predict(net, validation, ckpt_path=ckpt_path)[0]
    (result,) = getattr(trainer, verb)(net, validation, ckpt_path=ckpt_path)
    return result["test_sum"]


WORDS = {"best": "epoch=0.ckpt", "last": "last.ckpt", "auto": "last.ckpt", "path": "epoch=0.ckpt"}


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize("word", WORDS)
def test_every_word_in_every_verb_of_a_new_process(verb, word, tmp_path):
    """A trainer that has fitted nothing finds them by the folder alone."""

    class Validates(Measures):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("test_sum", self.total())

    made = {"monitor": "val_loss", "filename": "{epoch}", "save_last": True}
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), net=Validates(rising), max_epochs=3)
    file = tmp_path / WORDS[word]
    trainer = make_trainer(tmp_path, ModelCheckpoint(tmp_path, **made))
    found = measured(trainer, verb, Validates(rising), file if word == "path" else word)
    assert found == pytest.approx(total(file).item(), rel=1e-6)
    assert total(tmp_path / "last.ckpt") != total(tmp_path / "epoch=0.ckpt")


@pytest.mark.parametrize("word", WORDS)
def test_every_word_in_fit(word, tmp_path):
    """The step that is gone on from is the one that the word means."""
    made = {"monitor": "val_loss", "filename": "{epoch}", "save_last": True}
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), net=Net(rising), max_epochs=3)
    file = tmp_path / WORDS[word]
    expected, net = steps(file), Net(rising)
    fit(
        tmp_path, ModelCheckpoint(tmp_path, **made), net=net, max_epochs=4, ckpt_path=file if word == "path" else word
    )  # fmt: skip
    assert len(net.seen) == 16 - expected


@pytest.mark.parametrize("callbacks", [(), (ModelCheckpoint,)])
def test_best_after_fit_is_the_default_callbacks_newest(callbacks, tmp_path):
    """Without a monitor; with no callback given either."""
    trainer = fit(tmp_path, *(make() for make in callbacks), net=Measures(), max_epochs=2)
    (path,) = tmp_path.rglob("*.ckpt")
    assert measured(trainer, "test", None, "best") == pytest.approx(total(path).item(), rel=1e-6)


def test_weights_only_files_can_be_evaluated_and_not_gone_on_from(tmp_path, caplog):
    """``"last"`` in a test takes them; in a fit it does not, and ``"auto"`` says why it begins anew."""
    made = {"save_weights_only": True}
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), net=Measures(), max_epochs=1)
    trainer = make_trainer(tmp_path, ModelCheckpoint(tmp_path, **made), max_epochs=1)
    found = measured(trainer, "test", Measures(), "last")
    assert found == pytest.approx(total(tmp_path / "epoch=0-step=4.ckpt").item(), rel=1e-6)
    with pytest.raises(NotFound, match="no checkpoint in or below"):
        fit(tmp_path, ModelCheckpoint(tmp_path, **made), ckpt_path="last")
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), max_epochs=1, ckpt_path="auto")
    assert "none can be gone on from: epoch=0-step=4.ckpt" in caplog.text


def test_an_evaluation_of_what_was_never_saved_is_an_error(tmp_path, caplog):
    """``"auto"`` never evaluates weights that nobody trained, nor speaks of a start."""
    caplog.set_level("INFO", "holdfast")
    for word in ("auto", "last", "best"):
        with pytest.raises(NotFound):
            measured(make_trainer(tmp_path), "test", Measures(), word)
    with pytest.raises(NotFound, match=r"With 'auto' .* a run begins where there is none"):
        fit(tmp_path, ckpt_path="last")
    assert "fresh start" not in caplog.text


def test_a_path_at_which_nothing_is_says_what_to_do(tmp_path):
    """What there is, whether the folder is missing, and the word that looks for itself."""
    fit(tmp_path, ModelCheckpoint(tmp_path / "a"), max_epochs=1)
    auto = r'ckpt_path="auto" takes the newest checkpoint that verifies\.'
    with pytest.raises(NotFound, match=r"x\.ckpt' does not exist\. The folder holds epoch=0-step=4\.ckpt\. " + auto):
        fit(tmp_path, ckpt_path=tmp_path / "a/x.ckpt")
    with pytest.raises(NotFound, match=r"does not exist: there is no folder '.*/b'\. " + auto):
        fit(tmp_path, ckpt_path=tmp_path / "b/x.ckpt")


# auto, with a dirpath


def test_auto_is_the_same_call_for_the_first_start_and_each_one_after(tmp_path, caplog):
    """A fresh start, then from the crash on, then nothing left to do, which is said."""
    seen = []
    caplog.set_level("INFO", "holdfast")
    for step in (2, 6, None):
        net = Net()
        crash = [] if step is None else [Crash(step)]
        with contextlib.suppress(KeyError):
            fit(tmp_path, *crash, ModelCheckpoint(tmp_path / "a"), net=net, ckpt_path="auto", max_epochs=2)
        seen.append(len(net.seen))
    assert "nothing to train" not in caplog.text
    net = Net()
    fit(tmp_path, ModelCheckpoint(tmp_path / "a"), net=net, ckpt_path="auto", max_epochs=2)
    assert [*seen, len(net.seen)] == [2, 4, 2, 0]
    said = "max_epochs=2 is reached: nothing to train. Epochs done: 2, steps: 8; to go on, set a higher max_epochs."
    assert caplog.text.count(said) == 1


def test_a_word_of_slurm_jobs_is_refused_with_what_there_is_instead(tmp_path):
    """``"hpc"``: a job that Slurm starts again needs none."""
    with pytest.raises(ConfigError, match=r"Slurm starts again goes on from what it has saved.*ckpt_path='auto'"):
        fit(tmp_path, ckpt_path="hpc")


def test_auto_walks_back_over_what_is_damaged_and_says_what_it_costs(tmp_path, caplog):
    """The newest is damaged: from the one before, and how many steps are lost."""
    made = {"filename": "{epoch}", "save_top_k": -1}
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), max_epochs=3)
    damaged = tmp_path / "epoch=2.ckpt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.chmod(0o644)
    damaged.write_bytes(content)
    net = Net()
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), net=net, max_epochs=3, ckpt_path="auto")
    assert len(net.seen) == 4
    assert "passed over 'epoch=2.ckpt'" in caplog.text
    assert "going on from 'epoch=1.ckpt': 4 steps are lost" in caplog.text


def test_the_newest_is_not_the_newest_file(tmp_path):
    """Times of files say nothing, whatever the word."""
    made = {"filename": "{epoch}", "save_top_k": -1}
    fit(tmp_path, ModelCheckpoint(tmp_path, **made), max_epochs=3)
    for age, name in enumerate(["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"]):
        os.utime(tmp_path / name, (2e9 - age, 2e9 - age))
    for word in ("last", "auto"):
        net = Net()
        fit(tmp_path, ModelCheckpoint(tmp_path, **made), net=net, max_epochs=3, ckpt_path=word)
        assert net.seen == []


def test_a_file_of_another_program_is_not_passed_over_in_silence(tmp_path, caplog):
    """A folder in which Holdfast has written nothing: its ``last.ckpt`` is gone on from, and nothing was verified."""
    fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a", save_last=True), max_epochs=1)
    foreign = read(tmp_path / "a/last.ckpt")
    (tmp_path / "b").mkdir()
    torch.save(foreign, tmp_path / "b/last.ckpt")
    for word in ("last", "auto"):
        caplog.clear()
        measured(make_trainer(tmp_path, ModelCheckpoint(tmp_path / "b")), "test", Measures(), word)
        assert "is another program's" in caplog.text
    torch.save(foreign, tmp_path / "b/last-v1.ckpt")
    with pytest.raises(NotFound, match=r"last-v1\.ckpt"):
        fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b"), ckpt_path="last")


# auto, without a dirpath


def versions(folder):
    return names(Path(folder, "lightning_logs"))


def test_auto_goes_on_in_the_version_of_the_unfinished_run(tmp_path):
    """Checkpoints and logs: no ``version_1``, and one run in the ledger."""

    def start(begin, *args):
        return begin(tmp_path, *args, logger=CSVLogger(tmp_path), max_epochs=2, ckpt_path="auto")

    start(crashed, 5)
    trainer = start(fit)
    assert sorted(p.name for p in (tmp_path / "lightning_logs").iterdir()) == ["version_0"]
    assert trainer.global_step == 8
    assert trainer.log_dir == str(tmp_path / "lightning_logs/version_0")
    assert versions(tmp_path)[-1] == "version_0/checkpoints/epoch=1-step=8.ckpt"
    start(fit)
    assert sorted(p.name for p in (tmp_path / "lightning_logs").iterdir()) == ["version_0", "version_1"]


def test_auto_goes_on_without_a_logger_too(tmp_path):
    """In ``checkpoints`` below the root."""
    crashed(tmp_path, 5, max_epochs=2, ckpt_path="auto")
    net = Net()
    fit(tmp_path, net=net, max_epochs=2, ckpt_path="auto")
    assert len(net.seen) == 3
    assert "checkpoints/epoch=1-step=8.ckpt" in names(tmp_path)


def test_auto_leaves_a_finished_run_alone(tmp_path, caplog):
    """A fresh start, in a version of its own; it says why, once."""
    caplog.set_level("INFO", "holdfast")
    for says in ("there is nothing to go on from", "version_0/checkpoints' ended well: this is a new run"):
        caplog.clear()
        net = Net()
        fit(tmp_path, net=net, logger=CSVLogger(tmp_path), max_epochs=1, ckpt_path="auto")
        assert len(net.seen) == 4
        said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("ckpt_path='auto'")]
        assert len(said) == 1
        assert says in said[0]
    assert versions(tmp_path) == [f"version_{n}/checkpoints/epoch=0-step=4.ckpt" for n in (0, 1)]


def test_auto_leaves_a_run_that_somebody_went_on_from_alone(tmp_path):
    """It was finished in another folder."""
    crashed(tmp_path, 5, logger=CSVLogger(tmp_path), max_epochs=2)
    fit(tmp_path, logger=CSVLogger(tmp_path), max_epochs=2, ckpt_path="last")
    net = Net()
    fit(tmp_path, net=net, logger=CSVLogger(tmp_path), max_epochs=1, ckpt_path="auto")
    assert len(net.seen) == 4


def test_auto_leaves_a_run_that_lives_alone(tmp_path):
    """Another process is that run: a fresh start beside it."""
    seen = []

    class Beside(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 5:
                net = Net()
                fit(tmp_path, net=net, logger=CSVLogger(tmp_path), max_epochs=1, ckpt_path="auto")
                seen.append(len(net.seen))

    fit(tmp_path, Beside(), logger=CSVLogger(tmp_path), max_epochs=2)
    assert seen == [4]


def test_auto_goes_on_with_the_newest_of_several_unfinished_runs(tmp_path):
    """The one that saved last."""
    crashed(tmp_path, 3, logger=CSVLogger(tmp_path), max_epochs=2)
    crashed(tmp_path, 6, logger=CSVLogger(tmp_path), max_epochs=2)
    net = Net()
    trainer = fit(tmp_path, net=net, logger=CSVLogger(tmp_path), max_epochs=2, ckpt_path="auto")
    assert (len(net.seen), Path(trainer.log_dir).name) == (2, "version_1")


def test_auto_keeps_to_the_version_that_a_logger_was_given(tmp_path):
    """Another unfinished run is not of this one."""
    crashed(tmp_path, 5, logger=CSVLogger(tmp_path), max_epochs=2)
    net = Net()
    fit(tmp_path, net=net, logger=CSVLogger(tmp_path, version="mine"), max_epochs=1, ckpt_path="auto")
    assert len(net.seen) == 4
    crashed(tmp_path, 2, logger=CSVLogger(tmp_path, version="yours"), max_epochs=1)
    net = Net()
    fit(tmp_path, net=net, logger=CSVLogger(tmp_path, version="yours"), max_epochs=1, ckpt_path="auto")
    assert len(net.seen) == 2


class Other(Net):
    """Another model: no weight has a name of the first one's."""

    def __init__(self):
        super().__init__()
        self.body = self.layers
        del self.layers

    def loss(self, batch):
        return self.body(batch[0]).square().mean()


def test_auto_passes_over_the_unfinished_run_of_another_model(tmp_path, caplog):
    """Scripts that share a root: each begins anew beside the other, says so, and goes on with its own."""
    caplog.set_level("WARNING", "holdfast")
    options = {"logger": True, "max_epochs": 2, "ckpt_path": "auto"}
    crashed(tmp_path, 5, **options)
    crashed(tmp_path, 6, make=Other, **options)
    assert [r.getMessage() for r in caplog.records if "another model's" in r.getMessage()] == [
        f"ckpt_path='auto': passed over the unfinished run in '{tmp_path}/lightning_logs/version_0/checkpoints', which "
        "is another model's: no weight of it has a name and a shape of this one's"
    ]
    for make, left, version in ((Net, 3, "version_0"), (Other, 2, "version_1")):
        net = make()
        trainer = fit(tmp_path, net=net, **options)
        assert (len(net.seen), Path(trainer.log_dir).name) == (left, version)


def test_auto_refuses_a_run_of_the_model_as_it_was_and_says_what_to_do(tmp_path):
    """A changed layer is no other model: nothing of the run is left behind without a word."""
    crashed(tmp_path, 5, logger=True, max_epochs=2)
    with pytest.raises(Incompatible) as caught:
        fit(tmp_path, net=Net(width=9), logger=True, max_epochs=2, ckpt_path="auto")
    assert "layers.0.weight" in str(caught.value)
    assert str(caught.value).endswith(
        "It was found by ckpt_path='auto': to begin anew beside it, give the ModelCheckpoint another dirpath or the "
        "Trainer another default_root_dir."
    )


def test_best_of_an_earlier_process_is_that_of_the_newest_run(tmp_path):
    """By the callback's own monitor, where each run has a folder of its own."""
    for script in (falling, rising):
        fit(
            tmp_path, ModelCheckpoint(monitor="val_loss", save_top_k=2), net=Measures(script), max_epochs=2, logger=True
        )
    trainer = make_trainer(tmp_path, ModelCheckpoint(monitor="val_loss"), logger=True)
    newest = tmp_path / "lightning_logs/version_1/checkpoints/epoch=0-step=4.ckpt"
    assert measured(trainer, "test", Measures(), "best") == pytest.approx(total(newest).item(), rel=1e-6)
