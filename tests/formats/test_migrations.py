"""Checkpoints of each older form come to that of Lightning 2.6, step by step."""

from __future__ import annotations

import pytest

from holdfast.formats import loops
from holdfast.formats.lightning import LIGHTNING_VERSION
from holdfast.formats.migrations import STEPS, _version, migrate
from holdfast.policy.values import Progress

AT = {"epoch": 3, "global_step": 12}
KEY = "ModelCheckpoint{'monitor': 'a', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, " + (
    "'train_time_interval': None%s}"
)


def migrated(version, **state):
    """A checkpoint after migration; what was said."""
    state = {**AT, "pytorch-lightning_version": version, **state}
    return state, migrate(state)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("0.9.0", "0.10.0"), ("1.5.0", "1.6.0"), ("1.6.0rc1", "1.6.0"), ("1.6.0.dev0", "1.6.0"), ("2.0", "2.0.1"),
        ("1.9.5", "1.10"), ("not a version", "0.0.1"), (None, "0.0.1"),
    ],
)  # fmt: skip
def test_versions_have_an_order(older, newer):
    """By their numbers, candidates before what they are candidates for; what is no version is the oldest."""
    assert _version(older) < _version(newer)


def test_the_table_is_in_the_order_of_versions():
    """Each step finds what those before it have made."""
    versions = [_version(since) for since, _ in STEPS]
    assert versions == sorted(versions)


def test_a_file_of_today_is_left_alone():
    """So is one that is no checkpoint of this family at all."""
    state = {**AT, "pytorch-lightning_version": LIGHTNING_VERSION, "amp_scaling_state": 1, "hparams": {"a": 1}}
    before = dict(state)
    assert migrate(state) == []
    assert state == before
    assert migrate(other := {"weights": 1}) == []
    assert other == {"weights": 1}


def test_a_newer_one_is_said():
    """It is read as one of the newest that is known; a later patch of that is no news."""
    state, said = migrated("3.1.0")
    assert "newer than 2.6.6" in said[0]
    assert state["pytorch-lightning_version"] == "3.1.0"
    assert migrated("2.6.9")[1] == []


def test_one_that_was_changed_says_what_it_was():
    """Under the key that Lightning uses for that; once is enough."""
    state, _ = migrated("1.5.10")
    assert state["pytorch-lightning_version"] == LIGHTNING_VERSION
    assert state["legacy_pytorch-lightning_version"] == "1.5.10"
    before = repr(state)
    assert migrate(state) == []
    assert repr(state) == before


def test_hyperparameters_had_two_other_keys():
    """The newer of them counts where both are there; the key of today counts for itself."""
    state, _ = migrated("0.7.6", hparams={"a": 1, "b": 1}, module_arguments={"b": 2})
    assert state["hyper_parameters"] == {"a": 1, "b": 2}
    assert "hparams_name" not in state
    state, _ = migrated("0.7.6", hparams={"a": 1})
    assert (state["hyper_parameters"], state["hparams_name"]) == ({"a": 1}, "hparams")
    assert migrated("0.7.6", hparams={"a": 1}, hyper_parameters={"a": 3})[0]["hyper_parameters"] == {"a": 3}


def test_callbacks_had_keys_at_the_top():
    """Those of the checkpoint callback and of early stopping."""
    state, _ = migrated(
        "0.9.0",
        checkpoint_callback_best_model_score=0.5,
        checkpoint_callback_best_model_path="a.ckpt",
        early_stop_callback_wait=2,
        early_stop_callback_patience=3,
    )
    assert state["callbacks"] == {
        "ModelCheckpoint": {"best_model_score": 0.5, "best_model_path": "a.ckpt"},
        "EarlyStopping": {"wait_count": 2, "patience": 3},
    }
    assert not [key for key in state if "callback_" in key]
    assert migrated("0.7.0", checkpoint_callback_best=1.5)[0]["callbacks"] == {
        "ModelCheckpoint": {"best_model_score": 1.5}
    }


@pytest.mark.parametrize("version", ["0.7.6", "0.10.0", "1.4.9", "1.5.10"])
def test_the_position_was_two_numbers(version):
    """``epoch`` is how many epochs are done, ``global_step`` how many steps: the next epoch comes."""
    state, _ = migrated(version)
    stand = loops.read(state)
    assert stand.progress == Progress(epoch=2, batch=0, complete=True, batches=12, steps=12)
    assert stand.stepped == 12
    assert loops.read(migrated(version, epoch=0, global_step=0)[0]).progress == Progress()


FIT_1_6 = {
    "state_dict": {},
    "epoch_loop.state_dict": {},
    "epoch_loop.batch_progress": {
        "total": {"ready": 10, "completed": 9, "started": 10, "processed": 10},
        "current": {"ready": 2, "completed": 1, "started": 2, "processed": 2},
        "is_last_batch": False,
    },
    "epoch_loop.scheduler_progress": {"total": {"ready": 2, "completed": 2}, "current": {"ready": 0, "completed": 0}},
    "epoch_loop.batch_loop.state_dict": {},
    "epoch_loop.batch_loop.optimizer_loop.state_dict": {},
    "epoch_loop.batch_loop.optimizer_loop.optim_progress": {
        "optimizer": {
            "step": {"total": {"ready": 10, "completed": 10}, "current": {"ready": 2, "completed": 2}},
            "zero_grad": {
                "total": {"ready": 10, "completed": 10, "started": 10},
                "current": {"ready": 2, "completed": 2, "started": 2},
            },
        },
        "optimizer_position": 1,
    },
    "epoch_loop.batch_loop.manual_loop.state_dict": {},
    "epoch_loop.batch_loop.manual_loop.optim_step_progress": {
        "total": {"ready": 0, "completed": 0},
        "current": {"ready": 0, "completed": 0},
    },
    "epoch_loop.val_loop.state_dict": {},
    "epoch_loop.val_loop.dataloader_progress": {"total": {"ready": 2}, "current": {"ready": 1}},
    "epoch_loop.val_loop.epoch_loop.state_dict": {},
    "epoch_loop.val_loop.epoch_loop.batch_progress": {
        "total": {"ready": 4, "completed": 4, "started": 4, "processed": 4},
        "current": {"ready": 2, "completed": 2, "started": 2, "processed": 2},
        "is_last_batch": True,
    },
    "epoch_progress": {
        "total": {"ready": 3, "completed": 2, "started": 3, "processed": 2},
        "current": {"ready": 3, "completed": 2, "started": 3, "processed": 2},
    },
}


def copied(tree):
    """A deep copy of a tree of dictionaries."""
    return {key: copied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


@pytest.mark.parametrize("version", ["1.6.0", "1.7.7", "1.8.6", "1.9.5"])
def test_loops_lay_deeper(version):
    """Those over parts of a batch, over optimizers and over loaders are gone; what they counted is not."""
    evaluation = {"state_dict": {}, "dataloader_progress": {}, "epoch_loop.batch_progress": {"a": 1}}
    state, _ = migrated(version, global_step=10, loops={"fit_loop": copied(FIT_1_6), "validate_loop": evaluation})
    assert loops.read(state) == loops.Stand(Progress(2, 2, False, 10, 10), stepped=11)
    fit = state["loops"]["fit_loop"]
    assert set(fit) == set(loops.written(Progress())["fit_loop"])
    assert fit["epoch_loop.val_loop.batch_progress"]["is_last_batch"] is True
    assert "optimizer_position" not in fit["epoch_loop.automatic_optimization.optim_progress"]
    assert state["loops"]["validate_loop"] == {"state_dict": {}, "batch_progress": {"a": 1}}


def test_the_state_of_a_batch_loop_is_not_thrown_away():
    """Somebody's own loop may have written it."""
    fit = {**copied(FIT_1_6), "epoch_loop.batch_loop.state_dict": {"mine": 1}}
    state, _ = migrated("1.7.0", loops={"fit_loop": fit})
    assert state["loops"]["fit_loop"]["epoch_loop.state_dict"]["old_batch_loop_state_dict"] == {"mine": 1}


def test_a_fault_tolerant_file_of_1_5_has_its_loops():
    """The steps come from the counter beside them, as the loops of then did not count them."""
    fit = copied(FIT_1_6)
    del fit["epoch_loop.batch_loop.optimizer_loop.optim_progress"]
    state, _ = migrated("1.5.0", global_step=10, loops={"fit_loop": fit})
    assert loops.read(state).progress == Progress(2, 2, False, 10, 10)


def test_state_keys_of_checkpoint_callbacks_lose_a_flag():
    """Two that it alone told apart cannot be told apart any more: both stay as they are, and that is said."""
    one, other = KEY % ", 'save_on_train_epoch_end': True", KEY % ", 'save_on_train_epoch_end': None"
    state, said = migrated("1.8.0", callbacks={one: {"a": 1}, "Mine": {}})
    assert (set(state["callbacks"]), said) == ({KEY % "", "Mine"}, [])
    state, said = migrated("1.8.0", callbacks={one: {"a": 1}, other: {"a": 2}})
    assert set(state["callbacks"]) == {one, other}
    assert "two ModelCheckpoints" in said[0]


@pytest.mark.parametrize("key", ["native_amp_scaling_state", "NativeMixedPrecisionPlugin", "MixedPrecisionPlugin"])
def test_the_scaler_had_other_names(key):
    """Its state is the same."""
    state, said = migrated("1.8.0", **{key: {"scale": 3.0}})
    assert (state["MixedPrecision"], said, key in state) == ({"scale": 3.0}, [], False)


def test_apex_had_a_scale_and_a_count():
    """They go on in PyTorch's scaler, and that is said; what is of another form is said and left out."""
    state, said = migrated("1.4.0", amp_scaling_state={"loss_scaler0": {"loss_scale": 512.0, "unskipped": 7}})
    assert (state["MixedPrecision"]["scale"], state["MixedPrecision"]["_growth_tracker"]) == (512.0, 7)
    assert "amp_scaling_state" not in state
    assert "Apex" in said[0]
    state, said = migrated("1.4.0", amp_scaling_state=[1])
    assert "MixedPrecision" not in state
    assert "no known form" in said[0]
