"""``ModelCheckpoint``: flags to policies, names of files, what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event
from holdfast.policy.what import full, weights_only
from holdfast.policy.when import at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import best, everything, last, nothing

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
