"""What a fit says before its first step: what was restored, what differs, what is taken, what is not exact."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
from holdfast.errors import ConfigError, Incompatible
from holdfast.state.changes import Difference
from holdfast.state.report import Report
from small_fits import Net, fit, loaders, make_trainer, read

EXACT = "exact         yes"


def halving(optimizer):
    """The rate is halved at each epoch's end."""
    return StepLR(optimizer, 1, gamma=0.5)


class Tuned(Net):
    """A network whose optimizer and scheduler can be asked for."""

    def __init__(
        self, lr=0.01, decay=0.01, schedule=lambda o: StepLR(o, 1, gamma=0.5), kind=torch.optim.AdamW, **options
    ):
        super().__init__()
        self.asked = (lr, decay, schedule, kind, options)

    def configure_optimizers(self):
        lr, decay, schedule, kind, options = self.asked
        optimizer = kind(self.parameters(), lr=lr, weight_decay=decay)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule(optimizer), **options}}


def saver(folder):
    """A file of each step."""
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def report(caplog):
    """The table that was told last, as lines."""
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("what the run goes on with")]
    assert told, "a report is told"
    return told[-1].split("\n")[1:]


def row(caplog, title):
    """The cells of a line of differences."""
    line = next(line for line in report(caplog) if line.startswith(title))
    return [cell.strip() for cell in line.split("  ") if cell.strip()][1:]


class Run:
    """A run of two epochs, four steps each, and another one that goes on from one of its steps."""

    def __init__(self, folder):
        self.folder = folder

    def begin(self, **options):
        """The first one, with a file of each step."""
        fit(self.folder / "a", saver(self.folder / "a"), make=lambda: Tuned(**options), shuffle=True)

    def go_on(self, make=Tuned, *, step=6, epochs=2, train=None, callbacks=(), **options):
        """The second one, in a folder of its own, under another seed."""
        there = self.folder / "b"
        trainer = make_trainer(there, saver(there), *callbacks, max_epochs=epochs, **options)
        L.seed_everything(5)
        data, validation = loaders(True)
        path = self.folder / "a" / f"step={step}.ckpt"
        trainer.fit(make(), data if train is None else train, validation, ckpt_path=path)
        return trainer


@pytest.fixture
def run(tmp_path, caplog):
    """A run whose reports are kept."""
    caplog.set_level(logging.INFO, logger="holdfast")
    return Run(tmp_path)


def rate(trainer):
    """The learning rate of the first group."""
    return trainer.optimizers[0].param_groups[0]["lr"]


def test_an_exact_resume_says_so(run, caplog):
    """All that is restored, nothing that is missing or differs."""
    run.begin()
    run.go_on()
    source, restored, missing, differs, exact = report(caplog)
    assert source.endswith("step 6, epoch 1, after batch 2 of 4")
    assert restored == (
        "restored      model (4 tensors), optimizer AdamW, scheduler StepLR, callbacks (ModelCheckpoint), "
        "place in the data, random state"
    )
    assert (missing, differs) == ("not restored  nothing is missing", "differs       nothing")
    assert exact.startswith(EXACT)


def test_weights_that_are_not_finite_are_told_of(run, caplog):
    """A fit that went astray goes on where it was; whoever starts it again hears of it before the first step."""
    astray = {"lr": 1e30, "kind": torch.optim.SGD}
    run.begin(**astray)
    run.go_on(lambda: Tuned(**astray))
    assert "weights       not finite" in report(caplog)
    assert any(r.levelname == "WARNING" and "NaN or infinity" in r.getMessage() for r in caplog.records)


# Pain 10: "I changed lr / scheduler / max_epochs / patience and it has no effect"


def test_pain_10_a_changed_learning_rate_has_effect_and_the_schedule_stays_where_it_is(run, caplog):
    """One epoch has halved the rate: the new one is halved as well, and again at each end."""
    run.begin(lr=0.01)
    trainer = run.go_on(lambda: Tuned(lr=0.4), epochs=3)
    assert row(caplog, "learning rate") == ["0.01", "0.4", "the new one"]
    assert rate(trainer) == pytest.approx(0.4 / 2**3)
    assert "not the same as before: learning rate" in report(caplog)[-1]


def test_pain_10_the_old_rate_stays_where_that_is_chosen(run, caplog):
    """And the line says which was taken; a later resume compares with what is in effect."""
    run.begin(lr=0.01)
    trainer = run.go_on(lambda: Tuned(lr=0.4), epochs=3, on_resume={"lr": "restore"})
    assert row(caplog, "learning rate") == ["0.01", "0.4", "the checkpoint's"]
    assert rate(trainer) == 0.01 / 2**3
    assert report(caplog)[-1].startswith(EXACT)
    assert read(run.folder / "b/step=12.ckpt")["holdfast"]["fingerprint"]["lr"] == [[0.01]]


def test_pain_10_a_changed_scheduler_has_effect(run, caplog):
    """The rate is what it would be if the new schedule had been there from the beginning."""
    run.begin()
    trainer = run.go_on(lambda: Tuned(schedule=lambda o: CosineAnnealingLR(o, T_max=10)), epochs=5)
    assert row(caplog, "scheduler") == ["StepLR", "CosineAnnealingLR", "the new one"]
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    wanted = CosineAnnealingLR(fresh, T_max=10)
    for _ in range(5):
        fresh.step()
        wanted.step()
    assert rate(trainer) == wanted.get_last_lr()[0]


@pytest.mark.parametrize(("choice", "gamma"), [("new", 0.1), ("restore", 0.5)])
def test_pain_10_settings_of_a_scheduler_are_chosen_between(run, caplog, choice, gamma):
    """The rate after three epochs is that of the one schedule or of the other, whole."""
    run.begin()
    changed = partial(Tuned, schedule=lambda o: StepLR(o, 1, gamma=0.1))
    trainer = run.go_on(changed, epochs=3, on_resume={"scheduler": choice})
    assert row(caplog, "scheduler")[:2] == ["StepLR(gamma=0.5)", "StepLR(gamma=0.1)"]
    assert rate(trainer) == pytest.approx(0.01 * gamma**3)


@pytest.mark.parametrize(("choice", "lr"), [("new", 0.3), ("restore", 0.01)])
def test_pain_10_a_new_schedule_goes_with_either_rate(run, choice, lr):
    """Each thing is chosen for itself."""
    run.begin()
    changed = partial(Tuned, lr=0.3, schedule=lambda o: StepLR(o, 1, gamma=0.1))
    assert rate(run.go_on(changed, epochs=3, on_resume={"lr": choice})) == pytest.approx(lr * 0.1**3)


def test_pain_10_a_plateau_scheduler_counts_on_with_its_new_patience(run, caplog):
    """It cannot be replayed: what it has seen stays, its settings are the new ones."""
    plateau = {"monitor": "val_loss", "interval": "epoch"}
    run.begin(schedule=lambda o: ReduceLROnPlateau(o, patience=10), **plateau)
    trainer = run.go_on(partial(Tuned, schedule=lambda o: ReduceLROnPlateau(o, patience=3), **plateau))
    assert row(caplog, "scheduler")[:2] == ["ReduceLROnPlateau(patience=10)", "ReduceLROnPlateau(patience=3)"]
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert (scheduler.patience, scheduler.last_epoch) == (3, 2)


def test_pain_10_other_settings_of_the_optimizer_have_effect(run, caplog):
    """Weight decay, with the moments of before; an optimizer of the same family keeps them too."""
    run.begin(schedule=None)
    trainer = run.go_on(partial(Tuned, decay=0.5, schedule=None))
    assert row(caplog, "optimizer") == ["AdamW(weight_decay=0.01)", "AdamW(weight_decay=0.5)", "the new one"]
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.5
    trainer = run.go_on(partial(Tuned, schedule=None, kind=torch.optim.Adam))
    assert row(caplog, "optimizer") == ["AdamW", "Adam", "the new one"]
    assert trainer.optimizers[0].param_groups[0]["decoupled_weight_decay"] is False
    assert next(iter(trainer.optimizers[0].state.values()))["step"] == 8


def test_pain_10_max_epochs_and_patience_are_those_of_the_code(tmp_path, caplog):
    """They are no part of what a checkpoint decides, and nothing differs for them."""
    caplog.set_level(logging.INFO, logger="holdfast")
    fit(tmp_path, EarlyStopping("val_loss", patience=9), ModelCheckpoint(tmp_path, save_last=True))
    stopping = EarlyStopping("val_loss", patience=7)
    trainer = fit(tmp_path, stopping, ModelCheckpoint(tmp_path, save_last=True), ckpt_path="last", max_epochs=4)
    assert (trainer.global_step, stopping.patience) == (16, 7)
    assert report(caplog)[-1].startswith(EXACT)


# Pain 26: "repeats/skips an epoch or a step; scheduler lags"


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7])
def test_pain_26_no_step_epoch_or_rate_is_off_by_one(run, caplog, step):
    """From every step: the weights, the counters and the rate at the end are those of the run that never stopped."""
    run.begin()
    trainer = run.go_on(step=step)
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    assert len(trainer.lightning_module.seen) == 8 - step
    assert rate(trainer) == 0.01 * 0.5**2
    whole, end = (read(run.folder / name / "step=8.ckpt")["state_dict"] for name in ("a", "b"))
    assert {name: torch.equal(end[name], whole[name]) for name in whole} == dict.fromkeys(whole, True)
    assert report(caplog)[-1].startswith(EXACT)


# Pain 28: "loaded state dict contains a parameter group that doesn't match"


def test_pain_28_an_optimizer_that_does_not_fit_is_refused_with_names_and_nothing_is_changed(run):
    """Of another family, or with parameters in another order: what does not fit is said by name."""
    run.begin(schedule=None)

    class Turned(Tuned):
        def configure_optimizers(self):
            return torch.optim.AdamW(reversed(list(self.parameters())), lr=0.01)

    for make in (partial(Tuned, schedule=None, kind=torch.optim.SGD), partial(Turned, schedule=None)):
        with pytest.raises(Incompatible, match=r"does not fit: optimizer.*Nothing was changed"):
            run.go_on(make)


# Pain 29: "different batch size / dataset / world size: wrong, silent, or hang"


def other_data(rows, size, **options):
    """A training loader of other data."""
    return DataLoader(TensorDataset(torch.randn(rows, 4)), batch_size=size, **options)


def test_pain_29_other_data_is_told_of(run, caplog):
    """The batch size, the number of samples and the order they come in; the numbers are not those of before."""
    run.begin()
    weights = torch.utils.data.WeightedRandomSampler([1.0] * 24, 24)
    run.go_on(step=4, train=other_data(24, 8, sampler=weights))
    assert row(caplog, "batch size") == ["4", "8", "as it is now"]
    assert row(caplog, "samples in the dataset") == ["16", "24", "as it is now"]
    before, after, _ = row(caplog, "sampler")
    assert before == "RandomSampler(replacement=False)"
    assert after.startswith("WeightedRandomSampler(")
    assert "not the same as before: batch size, samples in the dataset, sampler" in report(caplog)[-1]


@pytest.mark.parametrize("name", ["batch_size", "dataset", "lr", "accumulate_grad_batches", "precision"])
def test_pain_29_what_must_not_differ_is_refused_where_that_is_chosen(run, name):
    """Before anything is changed, with both values."""
    run.begin(schedule=None)
    options = {"accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    changed = {name: options[name]} if name in options else {}
    net = Tuned(lr=0.2, schedule=None)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(Incompatible, match=r"you chose that it must not: .* was .* and is "):
        run.go_on(lambda: net, step=4, train=other_data(24, 8), on_resume={name: "refuse"}, **changed)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_pain_29_threads_and_accumulation_are_told_of(run, caplog, monkeypatch):
    """What is summed in another order has other last bits."""
    run.begin()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run.go_on(step=4, accumulate_grad_batches=2)
    finally:
        torch.set_num_threads(threads)
    assert row(caplog, "threads of torch") == [str(threads), str(threads + 1), "as it is now"]
    assert row(caplog, "accumulate_grad_batches") == ["1", "2", "as it is now"]


@pytest.mark.parametrize(
    ("name", "title", "exact"),
    [
        ("world_size", "processes", False),
        ("precision", "precision", False),
        ("device", "device", False),
        ("torch", "torch", False),
        ("python", "Python", True),
        ("holdfast", "Holdfast", True),
    ],
)
def test_pain_29_where_and_with_what_it_ran_is_told_of(run, caplog, name, title, exact):
    """Both values, and whether any number hangs on it."""
    run.begin()
    here = read(run.folder / "a/step=6.ckpt")["holdfast"]["fingerprint"][name]

    class Elsewhere(Tuned):
        def on_load_checkpoint(self, checkpoint):
            checkpoint["holdfast"]["fingerprint"][name] = "another"

    run.go_on(Elsewhere)
    assert row(caplog, title) == ["another", str(here), "as it is now"]
    assert report(caplog)[-1].startswith(EXACT) is exact


def test_pain_29_another_commit_of_the_code_is_told_of(run, caplog, monkeypatch):
    """That of the folder in which the program lies, wherever it is started from."""
    commits = []
    for name, go in (("before", run.begin), ("after", run.go_on)):
        program = run.folder / name / "train.py"
        program.parent.mkdir()
        program.write_text("")
        git = ["git", "-C", str(program.parent), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", name], check=True)
        told = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        commits.append(told.stdout[:8])
        monkeypatch.setattr(sys.modules["__main__"], "__file__", str(program), raising=False)
        go()
    assert row(caplog, "git commit") == [*commits, "as it is now"]
    assert report(caplog)[-1].startswith(EXACT)


# What is not there, and what cannot be chosen


def test_what_the_checkpoint_does_not_hold_is_listed(run, caplog):
    """A callback with a state that the run before had not."""
    run.begin()
    run.go_on(callbacks=[EarlyStopping("val_loss")])
    assert report(caplog)[2] == "not restored  the state of EarlyStopping"


def test_a_checkpoint_of_before_there_were_fingerprints_is_gone_on_from(run, caplog):
    """Nothing can be compared, and that is said; the learning rate is the checkpoint's, as it has always been."""
    run.begin(lr=0.01, schedule=None)

    class Old(Tuned):
        def on_load_checkpoint(self, checkpoint):
            del checkpoint["holdfast"]["fingerprint"]

    trainer = run.go_on(partial(Old, lr=0.4, schedule=None))
    assert report(caplog)[2] == "not restored  what the run was made of, so that nothing can be compared"
    assert rate(trainer) == 0.01


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": "new"}, "nothing is called 'rate'; there are lr, optimizer"),
        ({"lr": "old"}, r"on_resume\['lr'\] is 'restore' or 'new' or 'refuse', not 'old'"),
        ({"batch_size": "restore"}, r"on_resume\['batch_size'\] is 'new' or 'refuse', not 'restore'"),
        (["lr"], "on_resume is a dict"),
    ],
)
def test_choices_that_make_no_sense_are_refused_at_once(given, said, tmp_path):
    """By the constructor, with what there is to choose."""
    with pytest.raises(ConfigError, match=said):
        make_trainer(tmp_path, on_resume=given)


def test_a_scheduler_of_another_type_cannot_be_restored(run):
    """To ask for it is an error, for its state says nothing to the new one."""
    run.begin()
    changed = partial(Tuned, schedule=lambda o: CosineAnnealingLR(o, T_max=10))
    with pytest.raises(Incompatible, match="scheduler was StepLR and is CosineAnnealingLR"):
        run.go_on(changed, on_resume={"scheduler": "restore"})


def test_on_a_terminal_it_is_a_table_of_rich(monkeypatch):
    """The same words, where nobody has set up logging."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        monkeypatch.setenv("COLUMNS", "100")
        differs = Difference("lr", [[0.1]], [[0.2]], "new")
        Report("last.ckpt", "step 6", ["model"], differs=[differs]).tell()
    said = ""
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(ours, 65536).decode():
            said += chunk
    os.close(ours)
    for word in ("resumed from", "last.ckpt, step 6", "learning rate", "0.1", "0.2", "the new one", "exact"):
        assert word in said
