"""Runs that crash or are stopped leave their state, and go on by ``ckpt_path="last"``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
from holdfast.errors import ConfigError, NotFound
from holdfast.state.signals import Terminated
from small_fits import Net, fit, names, read, steps

HERE = Path(__file__).parent


class Trouble(Exception):
    pass


def raising(where, at=5):
    """Raises in mid-epoch, in the first validation, or in the sanity check."""

    def stumble(hook, module):
        sanity = module.trainer.sanity_checking
        here = {
            "training_step": hook == "training_step" and module.global_step == at,
            "validation": hook == "validation_step" and not sanity,
            "sanity": hook == "validation_step" and sanity,
        }
        if here[where]:
            raise Trouble(where)

    return stumble


CRASHES = {"training_step": 5, "validation": 4}


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_leaves_one_rescue_that_last_finds_and_a_clean_end_removes(where, tmp_path):
    """The error itself is raised; the state of that step is in one extra file; the rest is trained."""
    saver = ModelCheckpoint(tmp_path, monitor="val_loss")
    with pytest.raises(Trouble, match=where):
        fit(tmp_path, saver, net=Net(stumble=raising(where)), num_sanity_val_steps=1)
    step = CRASHES[where]
    rescue = f"rescue-epoch={1 if step == 5 else 0}-step={step}.ckpt"
    assert [name for name in names(tmp_path) if name.startswith("rescue")] == [rescue]
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path, monitor="val_loss"), ckpt_path="last", max_epochs=4)
    assert trainer.global_step == 16
    assert not [name for name in names(tmp_path) if name.startswith("rescue")]


@pytest.mark.parametrize("where", ["first step", "sanity", "on_train_start"])
def test_a_crash_before_the_first_step_leaves_no_rescue(where, tmp_path):
    """Nothing was trained, so nothing is lost: of a fit from the start, and of one that goes on from elsewhere."""

    class Bad(L.Callback):
        def on_train_start(self, trainer, pl_module):
            if where == "on_train_start":
                raise Trouble(where)

    def crash(folder, at, **options):
        stumble = raising("sanity" if where == "sanity" else "training_step", at)
        saver = ModelCheckpoint(folder, save_on_exception=where == "first step")
        with pytest.raises(Trouble):
            fit(folder, Bad(), saver, net=Net(stumble=stumble), num_sanity_val_steps=1, **options)

    crash(tmp_path / "new", at=0)
    assert names(tmp_path / "new") == []
    fit(tmp_path / "before", ModelCheckpoint(tmp_path / "before"))
    if where != "sanity":  # there is none where a run goes on
        crash(tmp_path / "on", at=8, ckpt_path=tmp_path / "before/epoch=1-step=8.ckpt", max_epochs=3)
        assert names(tmp_path / "on") == []
        assert names(tmp_path / "before") == ["epoch=1-step=8.ckpt"]


def test_last_is_found_where_nobody_placed_the_checkpoints(tmp_path):
    """With the default logger each fit has a folder of its own: the newest run among them is gone on with."""
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 4)), batch_size=4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    with pytest.raises(Trouble):
        L.Trainer(max_epochs=3, **quiet).fit(Net(stumble=raising("training_step")), data)
    trainer = L.Trainer(max_epochs=3, **quiet)
    trainer.fit(Net(), data, ckpt_path="last")
    assert trainer.global_step == 12
    assert {p.name for p in (tmp_path / "lightning_logs").iterdir()} == {"version_0", "version_1"}


def stopping(hook, module):
    """SIGTERM in the sanity check."""
    if module.trainer.sanity_checking:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("stumble", [raising("validation"), stopping], ids=["validation", "sanity"])
def test_a_run_that_ended_in_a_validation_goes_on_as_if_it_had_not(stumble, tmp_path):
    """The validation is run whole, from the random state that was before it; nothing is lost or doubled."""
    whole = fit(tmp_path / "a", shuffle=True, num_sanity_val_steps=1)
    with pytest.raises((Trouble, SystemExit)):
        fit(tmp_path / "b", make=lambda: Net(stumble=stumble), shuffle=True, num_sanity_val_steps=1)
    resumed = fit(tmp_path / "b", shuffle=True, num_sanity_val_steps=1, ckpt_path="last", seed=77)
    wanted = whole.lightning_module.state_dict()
    found = resumed.lightning_module.state_dict()
    assert {name: torch.equal(wanted[name], found[name]) for name in wanted} == dict.fromkeys(found, True)


HOOKS = ("on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_batch_start")


@pytest.mark.parametrize("hook", HOOKS)
def test_an_error_in_a_callback_leaves_the_state_too(hook, tmp_path):
    """Wherever it is raised, ``last`` goes on."""

    class Bad(L.Callback):
        pass

    def trouble(self, trainer, *rest):
        if trainer.global_step >= 3:
            raise Trouble(hook)

    setattr(Bad, hook, trouble)
    with pytest.raises(Trouble):
        fit(tmp_path, Bad(), ModelCheckpoint(tmp_path))
    assert len(names(tmp_path)) == 1
    assert fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last", max_epochs=5).global_step == 20
    assert names(tmp_path) == ["epoch=4-step=20.ckpt"]


def test_a_clean_end_leaves_what_the_rules_keep(tmp_path):
    """What was resumed from goes too, once two newer ones are there; before, it stays."""
    fit(tmp_path, ModelCheckpoint(tmp_path), max_epochs=1)
    fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last", max_epochs=2)
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]
    fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last", max_epochs=4)
    assert names(tmp_path) == ["epoch=3-step=16.ckpt"]


def test_a_rescue_not_at_a_steps_end_is_marked_and_going_on_says_so(tmp_path, caplog):
    """In mid-step it is marked; at a step's end it is not."""
    with pytest.raises(Trouble):
        fit(tmp_path, ModelCheckpoint(tmp_path), net=Net(stumble=raising("training_step")))
    (rescue,) = [name for name in names(tmp_path) if name.startswith("rescue")]
    assert read(tmp_path / rescue)["holdfast"]["loop"]["at_boundary"] is False
    caplog.clear()
    fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "inside a step" in warning

    with pytest.raises(Trouble):
        fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b"), net=Net(stumble=raising("validation")))
    (rescue,) = names(tmp_path / "b")
    assert read(tmp_path / "b" / rescue)["holdfast"]["loop"]["at_boundary"] is True


def test_no_rescue_is_taken_inside_an_optimizers_step(tmp_path, caplog):
    """Half the weights are a step on: that is no state."""

    class Breaks(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            with torch.no_grad():
                next(iter(self.param_groups[0]["params"])).add_(1)
            raise Trouble("in step")

    class BreaksNet(Net):
        def configure_optimizers(self):
            return Breaks(self.parameters(), lr=0.1)

    with pytest.raises(Trouble):
        fit(tmp_path, ModelCheckpoint(tmp_path), net=BreaksNet())
    assert names(tmp_path) == []
    assert "in the middle of an optimizer's step" in caplog.text


def test_a_step_that_is_on_disk_is_not_saved_again(tmp_path):
    """A crash right after a save needs no rescue: the save is one."""

    class Bad(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise Trouble

    with pytest.raises(Trouble):
        fit(tmp_path, Bad(), ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True))
    assert [name for name in names(tmp_path) if name.startswith("rescue") and steps(tmp_path / name) != 4] == []
    assert steps(tmp_path / "last.ckpt") == 4


def test_a_hook_that_fails_in_the_rescue_does_not_hide_the_error(tmp_path, caplog):
    """The first error is raised; what the hook said is in the log."""

    class Bad(Net):
        def on_save_checkpoint(self, checkpoint):
            raise ValueError("cannot say")

    with pytest.raises(Trouble):
        fit(tmp_path, ModelCheckpoint(tmp_path), net=Bad(stumble=raising("training_step", at=1)))
    assert "no rescue checkpoint: ValueError: cannot say" in caplog.text


def test_one_rescue_is_left_where_there_are_several_folders(tmp_path):
    """And ``last`` finds it, whichever folder it is in."""

    def callbacks():
        return [ModelCheckpoint(tmp_path / name, every_n_epochs=5) for name in ("a", "b")]

    with pytest.raises(Trouble):
        fit(tmp_path, *callbacks(), net=Net(stumble=raising("training_step")))
    assert names(tmp_path) == ["a/rescue-epoch=1-step=5.ckpt"]
    assert fit(tmp_path, *callbacks(), ckpt_path="last").global_step == 8


def test_weights_only_callbacks_leave_a_rescue_that_can_be_gone_on_from(tmp_path):
    """The rescue is full, whatever the callback saves."""

    def callback():
        return ModelCheckpoint(tmp_path, save_weights_only=True, save_last=True)

    with pytest.raises(Trouble):
        fit(tmp_path, callback(), net=Net(stumble=raising("training_step")))
    assert fit(tmp_path, callback(), ckpt_path="last").global_step == 8


# Signals


SIGNALS = {"mid-epoch": (1, 6), "validation": (0, 4), "sanity": (0, 0)}


@pytest.mark.parametrize("last", [False, True], ids=["rescue", "save_last"])
@pytest.mark.parametrize("where", SIGNALS)
def test_sigterm_saves_after_the_batch_ends_with_143_and_goes_on(where, last, server, tmp_path):
    """In mid-epoch, in a validation, in the sanity check: one file with that step, which ``last`` finds."""
    with server.start("saving_child:main", str(tmp_path), where, int(signal.SIGTERM), last) as child:
        assert child.wait() == 143
    epoch, step = SIGNALS[where]
    name = "last.ckpt" if last else f"rescue-epoch={epoch}-step={step}.ckpt"
    assert steps(tmp_path / name) == step
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path, save_last=last), ckpt_path="last", max_epochs=5, shuffle=True)
    assert trainer.global_step == 20
    assert not [left for left in names(tmp_path) if left.startswith("rescue")]


def test_a_signal_between_two_epochs_begins_no_other(server, tmp_path):
    """It comes as one ends: that end is on disk, written once, and no batch of the next one is trained on."""
    with server.start("saving_child:main", str(tmp_path), "epoch's end", int(signal.SIGTERM), False) as child:
        assert child.wait() == 143
    assert names(tmp_path) == ["epoch=0-step=4.ckpt"]
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last", shuffle=True)
    assert trainer.lightning_module.seen == [(1, batch) for batch in range(4)]


def test_a_second_signal_ends_a_fit_at_once(server, tmp_path):
    """Within a step that never ends: nothing is saved for it, and what was durable is gone on from."""
    with server.start("saving_child:main", str(tmp_path), "twice", int(signal.SIGTERM), False) as child:
        assert child.wait() == -signal.SIGTERM
    assert names(tmp_path) == ["epoch=0-step=4.ckpt"]
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last", max_epochs=3, shuffle=True)
    assert trainer.global_step == 12


def test_ctrl_c_ends_a_program_with_130(tmp_path):
    """What a shell expects; the state is there."""
    script = f"{sys.executable} {HERE / 'saving_child.py'} {tmp_path} mid-epoch SIGINT; echo $?"
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    ended = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert ended.stdout.splitlines()[-1] == "130"
    assert steps(tmp_path / "rescue-epoch=1-step=6.ckpt") == 6


def test_ctrl_c_in_a_notebook_is_raised_and_the_process_lives(tmp_path):
    """KeyboardInterrupt after the save, the handler as it was, and fit can be called again."""
    handler = signal.getsignal(signal.SIGINT)

    def press(hook, module):
        if hook == "training_step" and module.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, ModelCheckpoint(tmp_path), net=Net(stumble=press))
    assert signal.getsignal(signal.SIGINT) is handler
    assert "rescue-epoch=1-step=6.ckpt" in names(tmp_path)
    assert fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last", max_epochs=4).global_step == 16


def test_an_interrupt_that_nobody_announced_is_rescued_too(tmp_path):
    """A KeyboardInterrupt or SystemExit raised by user code ends the fit as any error does."""
    for error in (KeyboardInterrupt, SystemExit):

        def stop(hook, module, error=error):
            if hook == "training_step" and module.global_step == 2:
                raise error

        folder = tmp_path / error.__name__
        with pytest.raises(error):
            fit(folder, ModelCheckpoint(folder), net=Net(stumble=stop))
        assert names(folder) == ["rescue-epoch=0-step=2.ckpt"]


def test_a_signal_during_the_last_save_is_not_lost(tmp_path):
    """It ends the program once all is durable."""

    class Late(L.Callback):
        def on_fit_end(self, trainer, pl_module):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated) as raised:
        fit(tmp_path, Late(), ModelCheckpoint(tmp_path))
    assert isinstance(raised.value, SystemExit)
    assert raised.value.code == 143
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]


# The end


def test_a_fit_that_saved_nothing_saves_at_its_end(tmp_path):
    """Under the default name; and once only."""
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=1000))
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=1000), ckpt_path="last", max_epochs=4)
    assert "epoch=3-step=16.ckpt" in names(tmp_path)


def test_the_end_saves_where_every_metric_was_nan(tmp_path):
    """Nothing ranked, so nothing was kept: the end is."""
    fit(tmp_path, ModelCheckpoint(tmp_path, monitor="val_loss"), net=Net(lambda epoch, step: float("nan")))
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]


def test_a_fit_with_nothing_left_to_do_writes_nothing(tmp_path):
    """Going on from the end of a run that is done."""
    fit(tmp_path, ModelCheckpoint(tmp_path))
    before = (tmp_path / "epoch=1-step=8.ckpt").stat().st_mtime_ns
    fit(tmp_path, ModelCheckpoint(tmp_path), ckpt_path="last")
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]
    assert (tmp_path / "epoch=1-step=8.ckpt").stat().st_mtime_ns == before


# Metrics that nobody logs


@pytest.mark.parametrize(
    "flags", [{"monitor": "val_los"}, {"filename": "{epoch}-{val_los:.2f}"}], ids=["monitor", "template"]
)
def test_a_metric_that_is_never_logged_is_told_after_the_first_validation(flags, tmp_path):
    """With all that is logged, once, and with the state rescued."""
    net = Net()
    with pytest.raises(ConfigError, match="'val_los', which was never logged") as raised:
        fit(tmp_path, ModelCheckpoint(tmp_path, **flags), net=net, max_epochs=9, val_check_interval=0.5)
    assert "Did you mean 'val_loss'? Logged so far: " in str(raised.value)
    assert "train_loss" in str(raised.value)
    assert len(net.seen) == 2


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (ModelCheckpoint(monitor="val_los"), ("WARNING", "'val_los'", "did you mean 'val_loss'?")),
        (ModelCheckpoint(filename="{epoch}-{val_los:.2f}"), ("WARNING", "'val_los'", "did you mean 'val_loss'?")),
        (EarlyStopping("val_los"), ("WARNING", "'val_los'", "did you mean 'val_loss'?")),
        (ModelCheckpoint(monitor="train_loss"), ("INFO", "'train_loss'", "logged there: val_loss")),
        (ModelCheckpoint(monitor="val_loss"), None),
    ],
    ids=["monitor", "template", "early stopping", "of training", "logged"],
)
def test_a_metric_that_the_sanity_check_did_not_log_is_told_before_the_first_step(callback, told, tmp_path, caplog):
    """It may be training's, so that is no error yet; a name like one that is there is most likely misspelt."""
    with pytest.raises(Trouble):
        fit(tmp_path, callback, net=Net(stumble=raising("training_step", at=0)), num_sanity_val_steps=1)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if "sanity check" in r.getMessage()]
    assert len(lines) == (told is not None)
    for level, line in lines:
        assert level == told[0]
        assert line.startswith(told[1])
        assert line.endswith(told[2])


def test_a_metric_logged_at_the_epochs_end_is_waited_for(tmp_path):
    """Somebody has a hook there: the first validation does not decide."""

    class Late(Net):
        def on_train_epoch_end(self):
            self.log("late", float(self.current_epoch))

    fit(tmp_path, ModelCheckpoint(tmp_path, monitor="late", mode="max"), net=Late())
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]
    with pytest.raises(ConfigError, match="'later', which was never logged"):
        fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b", monitor="later"), net=Late())


def test_counters_need_not_be_logged(tmp_path):
    """``step``, ``epoch`` and ``global_step`` can be ranked by."""
    for name in ("step", "epoch", "global_step"):
        folder = tmp_path / name
        fit(folder, ModelCheckpoint(folder, monitor=name, mode="max", save_top_k=2), max_epochs=3)
        assert names(folder) == ["epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt"]


def test_last_is_not_found_where_nothing_was_saved(tmp_path):
    """An error that names the place."""
    with pytest.raises(NotFound, match="no checkpoint in or below"):
        fit(tmp_path / "none", ckpt_path="last")
