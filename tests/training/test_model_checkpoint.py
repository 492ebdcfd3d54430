"""``ModelCheckpoint``: flags to policies, names of files, attributes, subclasses, several callbacks and folders."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event
from holdfast.policy.what import full, weights_only
from holdfast.policy.when import at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import best, everything, last, nothing
from small_fits import Net, fit, loaders, make_trainer, names, read, steps, writes

DEFAULT = {"when": every(epochs=1), "which": last(1), "what": full, "where": Where()}
VALIDATION = Event.VALIDATION_END

FLAGS = {
    "none": ({}, DEFAULT),
    "filename": ({"filename": "a-{step}"}, {**DEFAULT, "where": Where("a-{step}")}),
    "monitor": ({"monitor": "val_loss"}, {**DEFAULT, "which": best(1, "val_loss", "min")}),
    "mode": ({"monitor": "acc", "mode": "max"}, {**DEFAULT, "which": best(1, "acc", "max")}),
    "top k": ({"monitor": "val_loss", "save_top_k": 3}, {**DEFAULT, "which": best(3, "val_loss", "min")}),
    "top all": ({"save_top_k": -1}, {**DEFAULT, "which": everything()}),
    "top all, ranked": ({"monitor": "val_loss", "save_top_k": -1}, {**DEFAULT, "which": everything()}),
    "top none": ({"save_top_k": 0}, {**DEFAULT, "which": nothing()}),
    "top None is one": ({"save_top_k": None}, DEFAULT),
    "weights only": ({"save_weights_only": True}, {**DEFAULT, "what": weights_only}),
    "verbose": ({"verbose": True}, DEFAULT),
    "no names of metrics": (
        {"auto_insert_metric_name": False},
        {**DEFAULT, "where": Where(auto_insert_metric_name=False)},
    ),
    "steps": ({"every_n_train_steps": 5}, {**DEFAULT, "when": every(steps=5)}),
    "steps, off": ({"every_n_train_steps": 0}, {**DEFAULT, "when": never()}),
    "time": ({"train_time_interval": timedelta(minutes=2)}, {**DEFAULT, "when": every(minutes=2)}),
    "time, zero is each batch": ({"train_time_interval": timedelta(0)}, {**DEFAULT, "when": at(Event.BATCH_END)}),
    "epochs": ({"every_n_epochs": 3}, {**DEFAULT, "when": every(epochs=3)}),
    "epochs, off": ({"every_n_epochs": 0}, {**DEFAULT, "when": never()}),
    "at validation": ({"save_on_train_epoch_end": False}, {**DEFAULT, "when": every(epochs=1, on=VALIDATION)}),
    "at the training epoch's end": ({"save_on_train_epoch_end": True}, DEFAULT),
    "both off": ({"every_n_train_steps": 0, "every_n_epochs": 0}, {**DEFAULT, "when": never()}),
    "save_last None": ({"save_last": None}, DEFAULT),
    "save_last False": ({"save_last": False}, DEFAULT),
}


def answers(policy):
    return {name: getattr(policy, name) for name in DEFAULT}


@pytest.mark.parametrize(("flags", "policy"), FLAGS.values(), ids=FLAGS)
def test_flags_make_the_policy_that_the_page_says(flags, policy):
    """Each flag is one answer to one of the four questions, and leaves the others alone."""
    (made,) = ModelCheckpoint(**flags).policies("a", on_train_epoch_end=True)
    assert answers(made) == policy


def test_epochs_count_at_validation_where_the_trainer_says_so_and_no_flag_does():
    """Without ``save_on_train_epoch_end`` the trainer's rhythm of validation decides."""
    (made,) = ModelCheckpoint().policies("a", on_train_epoch_end=False)
    assert made.when == every(epochs=1, on=VALIDATION)
    (made,) = ModelCheckpoint(save_on_train_epoch_end=True).policies("a", on_train_epoch_end=False)
    assert made.when == every(epochs=1)


def test_save_last_is_a_second_policy_at_every_trigger_and_every_end():
    """It keeps one, under the alias, of the same content."""
    flags = {"save_last": True, "every_n_train_steps": 5, "monitor": "val_loss", "save_weights_only": True}
    _, alias = ModelCheckpoint(**flags).policies("a", on_train_epoch_end=True)
    assert answers(alias) == {
        "when": every(steps=5) | at(Event.TRAIN_EPOCH_END, Event.FIT_END),
        "which": last(1),
        "what": weights_only,
        "where": Where(None, alias="last"),
    }


WRONG = {
    "top k below": ({"save_top_k": -2}, "save_top_k=-2"),
    "top k without monitor": ({"save_top_k": 3}, "needs monitor="),
    "mode": ({"mode": "lowest"}, "'min' or 'max'"),
    "two triggers": ({"every_n_train_steps": 1, "every_n_epochs": 1}, "exclude each other"),
    "step and time": ({"every_n_train_steps": 1, "train_time_interval": timedelta(1)}, "exclude each other"),
    "negative steps": ({"every_n_train_steps": -1}, "every_n_train_steps is a whole number"),
    "half an epoch": ({"every_n_epochs": 0.5}, "every_n_epochs is a whole number"),
    "negative time": ({"train_time_interval": timedelta(-1)}, "train_time_interval"),
    "seconds": ({"train_time_interval": 60}, "train_time_interval"),
    "save_last": ({"save_last": "always"}, "save_last"),
    "template": ({"filename": "{epoch"}, "not closed"),
    "out of the folder": ({"filename": "../{epoch}"}, "lead out"),
    "the alias as a name": ({"filename": "last", "save_last": True}, "filename='last'"),
    "monitor is no name": ({"monitor": ""}, "monitor is the name"),
    "policy and flags": ({"policy": Policy("a", never(), last(1)), "monitor": "b"}, "monitor='b'"),
    "two names of one flag": ({"every_n_epochs": 1, "period": 2}, "are one thing"),
}


@pytest.mark.parametrize(("flags", "words"), WRONG.values(), ids=WRONG)
def test_flags_that_make_no_sense_are_refused(flags, words):
    """At once, in words that name the flag."""
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        ModelCheckpoint(**flags)


def test_all_problems_are_in_one_error():
    """One round trip is enough."""
    with pytest.raises(ConfigError) as raised:
        ModelCheckpoint(save_top_k=-2, mode="lowest", every_n_epochs=-1)
    assert all(word in str(raised.value) for word in ("save_top_k", "mode", "every_n_epochs"))


@pytest.mark.parametrize("name", ["every_n_val_epochs", "period"])
def test_old_names_of_every_n_epochs_work_and_warn(name):
    """Both are the interval in epochs."""
    with pytest.warns(DeprecationWarning, match="every_n_epochs"):
        callback = ModelCheckpoint(**{name: 3})
    assert callback.every_n_epochs == 3


NAMES = {
    "the default": ({}, None, {"epoch": 0, "step": 10}, "epoch=0-step=10.ckpt"),
    "epoch": ({"filename": "{epoch}"}, None, {"epoch": 0}, "epoch=0.ckpt"),
    "digits": ({"filename": "{epoch:03d}"}, None, {"epoch": 5}, "epoch=005.ckpt"),
    "metric": (
        {"filename": "{epoch}-{val_loss:.2f}"}, None, {"epoch": 2, "val_loss": 0.123456}, "epoch=2-val_loss=0.12.ckpt",
    ),
    "another template": (
        {"filename": "{epoch}-{val_loss:.2f}"}, "{epoch:d}", {"epoch": 2, "val_loss": 0.12}, "epoch=2.ckpt",
    ),
    "no names": (
        {"filename": "epoch={epoch}-validation_loss={val_loss:.2f}", "auto_insert_metric_name": False},
        None, {"epoch": 2, "val_loss": 0.123456}, "epoch=2-validation_loss=0.12.ckpt",
    ),
    "missing": ({"filename": "{missing:d}"}, None, {}, "missing=0.ckpt"),
    "step": ({"filename": "{step}"}, None, {"step": 0}, "step=0.ckpt"),
    "several": (
        {"filename": "{epoch}-{val_loss:.2f}-{other_metric:.2f}"}, None,
        {"epoch": 2, "val_loss": 0.02, "other_metric": 0.03}, "epoch=2-val_loss=0.02-other_metric=0.03.ckpt",
    ),
    "whole tensors": (
        {"filename": "checkpoint_{epoch:02d}-{acc:02d}"}, None, {"epoch": 1, "acc": torch.tensor(80.0)},
        "checkpoint_epoch=01-acc=80.ckpt",
    ),
    "slash": (
        {"filename": "sample-mnist-epoch{epoch:02d}-val_loss{val/loss:.2f}", "auto_insert_metric_name": False},
        None, {"epoch": 2, "val/loss": 0.32}, "sample-mnist-epoch02-val_loss0.32.ckpt",
    ),
    "sample": (
        {"filename": "sample-mnist-{epoch:02d}-{val_loss:.2f}"}, None, {"epoch": 2, "val_loss": 0.32},
        "sample-mnist-epoch=02-val_loss=0.32.ckpt",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "template", "metrics", "name"), NAMES.values(), ids=NAMES)
def test_names_are_those_of_the_pages(flags, template, metrics, name, tmp_path):
    """``format_checkpoint_name`` gives them, in the folder where there is one."""
    assert ModelCheckpoint(**flags).format_checkpoint_name(metrics, template) == name
    inside = ModelCheckpoint(tmp_path, **flags).format_checkpoint_name(metrics, template)
    assert inside == str(tmp_path.resolve() / name)


def test_a_name_can_have_a_version_and_a_prefix():
    """As the method's arguments say."""
    name = ModelCheckpoint().format_checkpoint_name({"epoch": 1, "step": 2}, ver=3, prefix="a")
    assert name == "a-epoch=1-step=2-v3.ckpt"


def test_state_keys_differ_where_the_page_says_that_callbacks_may():
    """Those that watch something else, or at other times, are kept apart."""
    flags = (
        {}, {"monitor": "a"}, {"monitor": "a", "mode": "max"}, {"every_n_train_steps": 2}, {"every_n_epochs": 2},
        {"train_time_interval": timedelta(1)},
    )  # fmt: skip
    assert len({ModelCheckpoint(**f).state_key for f in flags}) == len(flags)


# Files


def falling(epoch, step):
    return 1.0 - epoch / 10


def rising(epoch, step):
    return 1.0 + epoch / 10


def test_the_default_keeps_the_newest_epoch(tmp_path):
    """One file, of the last epoch, by its default name."""
    callback = ModelCheckpoint(tmp_path)
    fit(tmp_path, callback, max_epochs=3)
    assert names(tmp_path) == ["epoch=2-step=12.ckpt"]
    assert callback.best_model_path == str(tmp_path.resolve() / "epoch=2-step=12.ckpt")
    assert callback.best_model_score is None


def test_the_best_are_kept_and_named_by_their_metric(tmp_path):
    """The two best of five, and the attributes that tell of them."""
    values = [0.5, 0.2, 0.4, 0.1, 0.3]
    callback = ModelCheckpoint(tmp_path, "{epoch}-{val_loss:.2f}", monitor="val_loss", save_top_k=2)
    fit(tmp_path, callback, net=Net(lambda epoch, step: values[epoch]), max_epochs=5)
    assert names(tmp_path) == ["epoch=1-val_loss=0.20.ckpt", "epoch=3-val_loss=0.10.ckpt"]
    root = tmp_path.resolve()
    assert callback.best_model_path == str(root / "epoch=3-val_loss=0.10.ckpt")
    assert callback.best_model_score == torch.tensor(0.1)
    assert callback.kth_best_model_path == str(root / "epoch=1-val_loss=0.20.ckpt")
    assert callback.kth_value == torch.tensor(0.2)
    assert {Path(p).name: v.item() for p, v in callback.best_k_models.items()} == {
        "epoch=1-val_loss=0.20.ckpt": torch.tensor(0.2).item(),
        "epoch=3-val_loss=0.10.ckpt": torch.tensor(0.1).item(),
    }
    assert callback.current_score == torch.tensor(0.1)


def test_all_are_kept_with_minus_one_and_the_best_is_the_best(tmp_path):
    """``save_top_k=-1`` ranks nothing away, and still knows the best."""
    callback = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1)
    fit(tmp_path, callback, net=Net(rising), max_epochs=3)
    assert len(names(tmp_path)) == 3
    assert Path(callback.best_model_path).name == "epoch=0-step=4.ckpt"
    assert callback.best_model_score == torch.tensor(1.0)


def test_none_is_kept_with_zero(tmp_path):
    """``save_top_k=0`` saves nothing, not at the end of fit either."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=0))
    assert names(tmp_path) == []


def test_none_is_ranked_with_zero_and_the_last_is_kept(tmp_path):
    """``save_top_k=0`` with ``save_last`` has one file."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=0, save_last=True))
    assert names(tmp_path) == ["last.ckpt"]
    assert steps(tmp_path / "last.ckpt") == 8


def test_epochs_that_do_not_count_are_not_saved(tmp_path):
    """``every_n_epochs=2``."""
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_epochs=2, save_top_k=-1), max_epochs=5)
    assert names(tmp_path) == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]


def test_only_epochs_that_both_intervals_divide_are_saved_at_validation(tmp_path):
    """``every_n_epochs=2`` with ``check_val_every_n_epoch=3``: epochs 6 and 12 of 12."""
    callback = ModelCheckpoint(tmp_path, every_n_epochs=2, save_on_train_epoch_end=False, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=12, check_val_every_n_epoch=3, limit_train_batches=1)
    assert names(tmp_path) == ["epoch=11-step=12.ckpt", "epoch=5-step=6.ckpt"]


def test_steps_trigger(tmp_path):
    """``every_n_train_steps=3`` of eight."""
    fit(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1))
    assert names(tmp_path) == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]


def test_a_time_interval_of_zero_saves_each_batch(tmp_path):
    """Not finer than a batch, and not coarser."""
    fit(tmp_path, ModelCheckpoint(tmp_path, train_time_interval=timedelta(0), save_top_k=-1), max_epochs=1)
    assert len(names(tmp_path)) == 4


def test_a_time_interval_saves_when_it_has_passed_and_not_before(tmp_path):
    """A nanosecond-long one passes between any two batches, an hour in none; each has a clock of its own."""
    short = ModelCheckpoint(tmp_path, "short-{step}", train_time_interval=timedelta(microseconds=1), save_top_k=-1)
    long = ModelCheckpoint(tmp_path, "long-{step}", train_time_interval=timedelta(hours=1), save_top_k=-1)
    fit(tmp_path, short, long, max_epochs=1)
    assert names(tmp_path) == [f"short-step={n}.ckpt" for n in (1, 2, 3, 4)]


def test_weights_only_has_no_optimizer(tmp_path):
    """``save_weights_only`` leaves out what only resuming needs."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_weights_only=True))
    (name,) = names(tmp_path)
    found = read(tmp_path / name)
    assert "state_dict" in found
    assert not {"optimizer_states", "lr_schedulers", "callbacks"} & set(found)


def test_a_fixed_name_moves_on_to_the_better_one(tmp_path):
    """Without fields in it, the name is one file that is replaced."""
    fit(tmp_path, ModelCheckpoint(tmp_path, "best", monitor="val_loss"), net=Net(falling), max_epochs=3)
    assert names(tmp_path) == ["best.ckpt"]
    assert steps(tmp_path / "best.ckpt") == 12


def test_a_name_that_is_taken_gets_a_version(tmp_path):
    """Several saves in one epoch under a name that tells epochs only."""
    callback = ModelCheckpoint(tmp_path, "{epoch}", every_n_train_steps=2, save_top_k=-1)
    fit(tmp_path, callback, max_epochs=1)
    assert names(tmp_path) == ["epoch=0-v1.ckpt", "epoch=0.ckpt"]


def test_nan_is_never_the_best(tmp_path):
    """Neither first, nor later, in either mode."""
    values = [math.nan, 0.5, math.nan, 0.4]
    for mode in ("min", "max"):
        folder = tmp_path / mode
        callback = ModelCheckpoint(folder, "{epoch}", monitor="val_loss", mode=mode, save_top_k=4)
        fit(folder, callback, net=Net(lambda epoch, step: values[epoch]), max_epochs=4)
        assert names(folder) == ["epoch=1.ckpt", "epoch=3.ckpt"]
        assert not math.isnan(callback.best_model_score)


def test_a_name_pairs_a_step_with_the_metric_of_that_step(tmp_path):
    """Steps trigger between validations: what is saved is the step that was validated, with its own value."""
    callback = ModelCheckpoint(
        tmp_path, "{step}-{val_loss:.0f}", monitor="val_loss", mode="max", every_n_train_steps=3, save_top_k=-1
    )
    ranked = ModelCheckpoint(
        tmp_path / "b", "{step}-{val_loss:.0f}", monitor="val_loss", every_n_train_steps=3, save_top_k=9
    )
    fit(tmp_path, callback, ranked, net=Net(lambda epoch, step: float(step)), max_epochs=3)
    assert names(tmp_path / "b") == ["step=12-val_loss=12.ckpt", "step=4-val_loss=4.ckpt", "step=8-val_loss=8.ckpt"]
    unranked = [name for name in names(tmp_path) if not name.startswith("b/")]
    assert unranked == [
        "step=12-val_loss=12.ckpt", "step=3-val_loss=nan.ckpt", "step=6-val_loss=nan.ckpt", "step=9-val_loss=nan.ckpt",
    ]  # fmt: skip


def test_two_optimizers_count_the_steps_of_both(tmp_path):
    """Manual optimisation: two steps a batch, and a trigger at or past each multiple."""
    fit(
        tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1), net=TwoOptimizers(), max_epochs=1
    )  # fmt: skip
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "epoch=0-step=6.ckpt"]


class TwoOptimizers(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.layers[i].parameters(), lr=0.1) for i in (0, 3)]


# save_last


def test_last_is_the_last_step_after_epochs_of_a_worsening_metric(tmp_path):
    """Five epochs that get worse: the best is the first, and last.ckpt the end."""
    callback = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss", save_last=True)
    fit(tmp_path, callback, net=Net(rising), max_epochs=5)
    assert names(tmp_path) == ["epoch=0.ckpt", "last.ckpt"]
    assert steps(tmp_path / "last.ckpt") == 20
    assert callback.last_model_path == str(tmp_path.resolve() / "last.ckpt")
    assert Path(callback.best_model_path).name == "epoch=0.ckpt"


LASTS = {
    "at every due trigger": ({"every_n_train_steps": 3}, {"max_epochs": 1}, [3, 4]),
    "at each epoch's end": ({"every_n_epochs": 2}, {"max_epochs": 3}, [4, 8, 12]),
    "at fit's end in mid-epoch": ({"every_n_train_steps": 4}, {"max_steps": 6}, [4, 6]),
    "with nothing else due": ({"every_n_epochs": 0}, {"max_epochs": 2}, [4, 8]),
}


@pytest.mark.parametrize(("flags", "limits", "moved"), LASTS.values(), ids=LASTS)
def test_last_moves(flags, limits, moved, tmp_path):
    """At the steps that the docs name, and at no other."""
    seen = []

    class Watcher(L.Callback):
        def look(self, trainer, *_):
            trainer.saving.settle()
            if (tmp_path / "last.ckpt").exists() and (found := steps(tmp_path / "last.ckpt")) not in seen:
                seen.append(found)

        on_train_batch_start = look
        on_train_epoch_start = look
        on_fit_end = look

    fit(tmp_path, Watcher(), ModelCheckpoint(tmp_path, save_last=True, **flags), **limits)
    assert seen == moved


@pytest.mark.parametrize("flag", [None, False])
def test_there_is_no_last_unless_it_is_asked_for(flag, tmp_path):
    """None and False are never."""
    callback = ModelCheckpoint(tmp_path, save_last=flag)
    fit(tmp_path, callback)
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]
    assert callback.last_model_path == ""


def test_the_name_of_last_is_a_constant_that_may_be_set(tmp_path):
    """On the object or on a class; a template too."""
    callback = ModelCheckpoint(tmp_path, save_top_k=0, save_last=True)
    callback.CHECKPOINT_NAME_LAST = "{epoch}-newest"
    fit(tmp_path, callback)
    assert names(tmp_path) == ["epoch=1-newest.ckpt"]
    assert callback.last_model_path == str(tmp_path.resolve() / "epoch=1-newest.ckpt")


# Attributes


def test_paths_always_open_and_are_the_same_after_fit(tmp_path):
    """Read at every hook: each is empty, or a file that opens; and the end of fit changes none."""
    callback = ModelCheckpoint(
        tmp_path, monitor="val_loss", save_top_k=2, save_last=True, every_n_train_steps=1, save_on_train_epoch_end=None
    )
    told = ("best_model_path", "last_model_path", "kth_best_model_path")
    before = {}

    class Reader(L.Callback):
        def look(self, trainer, *_):
            for path in [*(getattr(callback, name) for name in told), *callback.best_k_models]:
                assert path == "" or read(path)["global_step"] > 0
            before.update({name: getattr(callback, name) for name in told})

        on_train_start = look
        on_train_batch_start = look
        on_train_batch_end = look
        on_validation_end = look
        on_train_epoch_end = look
        on_fit_end = look

    fit(tmp_path, Reader(), callback, net=Net(falling), max_epochs=3)
    assert before == {name: getattr(callback, name) for name in told}
    assert all(before.values())


def test_attributes_are_empty_before_anything_is_saved():
    """No folder, no files, no error."""
    callback = ModelCheckpoint(monitor="val_loss", save_last=True)
    assert (callback.best_model_path, callback.last_model_path, callback.kth_best_model_path) == ("", "", "")
    assert (callback.best_model_score, callback.current_score, callback.kth_value) == (None, None, None)
    assert callback.best_k_models == {}


def test_to_yaml_lists_the_best(tmp_path):
    """Paths to scores, by default beside the files."""
    callback = ModelCheckpoint(tmp_path, monitor="val_loss")
    fit(tmp_path, callback, net=Net(falling))
    callback.to_yaml()
    text = (tmp_path / "best_k_models.yaml").read_text()
    assert Path(callback.best_model_path).name in text
    assert text.rstrip().endswith(repr(torch.tensor(0.9).item()))


# Subclasses


class OwnName(ModelCheckpoint):
    def format_checkpoint_name(self, metrics, filename=None, ver=None, prefix=None):
        return super().format_checkpoint_name(metrics, f"mine-{int(metrics['step'])}", ver, prefix)


def test_an_overridden_name_is_the_files_name(tmp_path):
    """``format_checkpoint_name`` names the files, and attributes find them by it."""
    callback = OwnName(tmp_path, save_top_k=-1)
    fit(tmp_path, callback)
    assert names(tmp_path) == ["mine-4.ckpt", "mine-8.ckpt"]
    assert Path(callback.best_model_path).name == "mine-8.ckpt"


def test_an_overridden_file_exists_makes_names_taken(tmp_path):
    """What the subclass calls taken is not used."""

    class Careful(ModelCheckpoint):
        def file_exists(self, filepath, trainer):
            assert isinstance(trainer, L.Trainer)
            return Path(filepath).name == "epoch=1-step=8.ckpt" or super().file_exists(filepath, trainer)

    fit(tmp_path, Careful(tmp_path))
    assert names(tmp_path) == ["epoch=1-step=8-v1.ckpt"]


def test_constants_of_a_subclass_are_used(tmp_path):
    """Its extension, its joints, its alias."""

    class Other(ModelCheckpoint):
        CHECKPOINT_JOIN_CHAR = "_"
        CHECKPOINT_EQUALS_CHAR = ":"
        CHECKPOINT_NAME_LAST = "newest"
        FILE_EXTENSION = ".state"
        STARTING_VERSION = 5

    callback = Other(tmp_path, "{epoch}", every_n_train_steps=2, save_top_k=-1, save_last=True)
    fit(tmp_path, callback, max_epochs=1)
    assert sorted(p.name for p in tmp_path.glob("*.state")) == ["epoch:0.state", "epoch:0_v5.state", "newest.state"]
    assert Path(callback.best_model_path).name == "epoch:0_v5.state"


def test_an_overridden_hook_that_does_not_call_ours_saves_nothing_then(tmp_path):
    """The hooks are thin, and real."""

    class Deaf(ModelCheckpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                super().on_train_epoch_end(trainer, pl_module)

    fit(tmp_path, Deaf(tmp_path, save_top_k=-1), max_epochs=3)
    assert names(tmp_path) == ["epoch=1-step=8.ckpt"]


def test_a_policy_takes_the_place_of_the_flags(tmp_path):
    """All four answers are its own; attributes follow it."""
    mine = Policy("mine", every(steps=2), best(1, "val_loss", "max") | last(1), where=Where("{step}", alias="now"))
    callback = ModelCheckpoint(tmp_path, policy=mine)
    fit(tmp_path, callback, net=Net(falling))
    assert names(tmp_path) == ["now.ckpt", "step=4.ckpt", "step=8.ckpt"]
    assert Path(callback.best_model_path).name == "step=4.ckpt"
    assert callback.best_model_score == torch.tensor(1.0)
    assert Path(callback.last_model_path).name == "now.ckpt"


# Several callbacks and folders


def test_callbacks_in_one_folder_share_one_write_a_step(tmp_path):
    """Two names, one file; each callback knows its own."""
    one = ModelCheckpoint(tmp_path, "a-{step}", save_top_k=-1)
    two = ModelCheckpoint(tmp_path, "b-{step}", monitor="val_loss")
    fit(tmp_path, one, two, net=Net(falling), max_epochs=2)
    assert names(tmp_path) == ["a-step=4.ckpt", "a-step=8.ckpt", "b-step=8.ckpt"]
    assert (tmp_path / "a-step=8.ckpt").samefile(tmp_path / "b-step=8.ckpt")
    assert writes(tmp_path) == 2
    assert Path(one.best_model_path).name == "a-step=8.ckpt"
    assert Path(two.best_model_path).name == "b-step=8.ckpt"


def test_callbacks_in_several_folders_save_in_their_own(tmp_path):
    """And each callback knows its own."""
    one, two = ModelCheckpoint(tmp_path / "a"), ModelCheckpoint(tmp_path / "b", every_n_train_steps=3)
    fit(tmp_path, one, two, max_epochs=1)
    assert names(tmp_path) == ["a/epoch=0-step=4.ckpt", "b/epoch=0-step=3.ckpt"]
    assert Path(one.best_model_path).parent.name == "a"
    assert Path(two.best_model_path).parent.name == "b"


def test_a_folder_given_late_is_used(tmp_path):
    """In ``setup``, before anything is saved."""
    callback = ModelCheckpoint()

    class Places(L.Callback):
        def setup(self, trainer, pl_module, stage):
            callback.dirpath = str(tmp_path / "late")

    fit(tmp_path, Places(), callback, max_epochs=1)
    assert names(tmp_path) == ["late/epoch=0-step=4.ckpt"]


def test_checkpoints_are_saved_with_no_callback_given(tmp_path):
    """Beside the logs, or under the root without any."""
    fit(tmp_path, max_epochs=1)
    assert names(tmp_path) == ["checkpoints/epoch=0-step=4.ckpt"]
    trainer = fit(tmp_path / "logged", max_epochs=1, logger=True)
    assert names(tmp_path / "logged") == ["lightning_logs/version_0/checkpoints/epoch=0-step=4.ckpt"]
    assert trainer.checkpoint_callback.dirpath == str(
        (tmp_path / "logged/lightning_logs/version_0/checkpoints").resolve()
    )


def test_nothing_is_saved_with_checkpointing_off(tmp_path):
    """And ``save_last`` or a callback with it is refused."""
    trainer = fit(tmp_path, enable_checkpointing=False)
    assert names(tmp_path) == []
    assert trainer.checkpoint_callback is None
    with pytest.raises(ConfigError, match="enable_checkpointing"):
        make_trainer(tmp_path, ModelCheckpoint(), enable_checkpointing=False)


def test_a_fast_dev_run_writes_nothing(tmp_path):
    """Whatever the callbacks want."""
    callback = ModelCheckpoint(tmp_path / "a", save_last=True, every_n_train_steps=1)
    fit(tmp_path, callback, fast_dev_run=True, logger=True)
    assert list(tmp_path.iterdir()) == []
    assert callback.best_model_path == ""


def test_a_validation_outside_of_fit_saves_nothing(tmp_path):
    """Before any fit, and after one."""
    callback = ModelCheckpoint(tmp_path, save_on_train_epoch_end=False, save_top_k=-1)
    trainer = make_trainer(tmp_path, callback, max_epochs=1)
    _, validation = loaders()
    net = Net()
    trainer.validate(net, validation)
    assert names(tmp_path) == []
    trainer.fit(net, *loaders())
    trainer.validate(net, validation)
    assert names(tmp_path) == ["epoch=0-step=4.ckpt"]
