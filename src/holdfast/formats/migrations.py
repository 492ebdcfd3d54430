"""Bring checkpoints of older Lightning versions to the form of 2.6, one small step for each change. Pure: tree to tree.

``STEPS`` is the table: a step is for files older than its version. Files are changed in memory only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from holdfast.formats.lightning import LIGHTNING_VERSION
from holdfast.formats.loops import written
from holdfast.policy.values import Progress

VERSION_KEY = "pytorch-lightning_version"
OLD_VERSION_KEY = "legacy_pytorch-lightning_version"

State = dict[str, Any]
Step = Callable[[State], str | None]
"""Changes a checkpoint in place; says in words what it cannot bring over, if anything."""


def migrate(state: State) -> list[str]:
    """Bring a checkpoint to the form of Lightning 2.6, in place.

    One that names no version is taken for the oldest if it has an epoch and a step count, and is left alone otherwise.

    Returns:
        What the user should know: what was left behind, or that the file is newer than all that is known.
    """
    named = state.get(VERSION_KEY)
    if named is None and not {"epoch", "global_step"}.issubset(state):
        return []
    version = _version(named)
    if version[:2] > _version(LIGHTNING_VERSION)[:2]:
        return [
            f"it was written by Lightning {named}, which is newer than {LIGHTNING_VERSION}, the newest that is known "
            "here: it is read as that one's"
        ]
    said = [step(state) for since, step in STEPS if version < _version(since)]
    if version < _version(STEPS[-1][0]):
        state.setdefault(OLD_VERSION_KEY, str(named or "unknown"))
        state[VERSION_KEY] = LIGHTNING_VERSION
    return [sentence for sentence in said if sentence is not None]


def _version(text: Any) -> tuple[int, int, int, bool]:
    """Major, minor, patch, and whether it is a release: a candidate comes before it. Anything else is the oldest."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)", text) if isinstance(text, str) else None
    if found is None:
        return 0, 0, 0, False
    major, minor, patch, rest = found.groups()
    return int(major), int(minor), int(patch or 0), not re.match(r"\.?(rc|dev|a|b)\d*", rest)


def _one_key_for_hyperparameters(state: State) -> None:
    """Before 0.8 they were ``hparams``, and for a while ``module_arguments``."""
    older = [key for key in ("hparams", "module_arguments") if isinstance(state.get(key), dict)]
    if not older or "hyper_parameters" in state:
        return
    state["hyper_parameters"] = {name: value for key in older for name, value in state[key].items()}
    if older == ["hparams"]:
        state.setdefault("hparams_name", "hparams")


def _callbacks_states_together(state: State) -> None:
    """Before 0.10 two callbacks had keys at the top."""
    callbacks = state["callbacks"] = state.get("callbacks") or {}
    for old, callback, new in (
        ("checkpoint_callback_best", "ModelCheckpoint", "best_model_score"),
        ("checkpoint_callback_best_model_score", "ModelCheckpoint", "best_model_score"),
        ("checkpoint_callback_best_model_path", "ModelCheckpoint", "best_model_path"),
        ("early_stop_callback_wait", "EarlyStopping", "wait_count"),
        ("early_stop_callback_patience", "EarlyStopping", "patience"),
    ):
        if old in state:
            callbacks.setdefault(callback, {})[new] = state.pop(old)


def _counters_in_loops(state: State) -> None:
    """Before 1.6 the position was ``epoch``, the number of epochs done, and ``global_step`` alone."""
    epochs, steps = int(state.get("epoch", 0)), int(state.get("global_step", 0))
    loops = state["loops"] = state.get("loops") or {}
    if "fit_loop" not in loops:
        over = Progress(max(epochs - 1, 0), 0, epochs > 0, steps, steps)
        loops.update({**written(over), **loops})
        return
    fit = loops["fit_loop"]  # 1.5 wrote it when it was asked to be fault tolerant
    progress = fit.setdefault("epoch_loop.batch_loop.optimizer_loop.optim_progress", {})
    step = progress.setdefault("optimizer", {}).setdefault("step", {})
    step.setdefault("total", {})["completed"] = steps


def _batches_that_stepped(state: State) -> None:
    """Before 1.6.5 loggers counted optimizer steps."""
    fit = state.get("loops", {}).get("fit_loop", {})
    fit.setdefault("epoch_loop.state_dict", {}).setdefault("_batches_that_stepped", int(state.get("global_step", 0)))


def _keys_without_save_on_train_epoch_end(state: State) -> str | None:
    """Before 1.9 the state key of ``ModelCheckpoint`` had one flag more."""
    callbacks = state.get("callbacks") or {}
    shorter = {
        key: re.sub(r", 'save_on_train_epoch_end': (None|True|False)", "", key) if isinstance(key, str) else key
        for key in callbacks
    }
    if len(set(shorter.values())) < len(shorter):
        return (
            "two ModelCheckpoints differed only in save_on_train_epoch_end, which keys no longer tell apart: one of "
            "their states is used by neither"
        )
    state["callbacks"] = {shorter[key]: value for key, value in callbacks.items()}
    return None


def _scaler_under_one_key(state: State) -> str | None:
    """Before 2.0 the scaler's state had other names; Apex's own held a scale and a count as well."""
    for old in ("native_amp_scaling_state", "NativeMixedPrecisionPlugin", "MixedPrecisionPlugin"):
        if scaler := state.pop(old, None):
            state.setdefault("MixedPrecision", scaler)
    apex = state.pop("amp_scaling_state", None)
    if apex is None:
        return None
    told = apex.get("loss_scaler0", apex) if isinstance(apex, dict) else {}
    if not isinstance(told, dict) or "loss_scale" not in told:
        return "the state of Apex's loss scaling in it is of no known form, and is left out"
    state.setdefault(
        "MixedPrecision",
        {
            "scale": float(told["loss_scale"]),
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": int(told.get("unskipped", 0)),
        },
    )
    return "it was trained with Apex: its loss scale goes on in PyTorch's own scaler, with precision='16-mixed'"


def _loops_flattened(state: State) -> None:
    """Before 2.0 there was a loop over parts of a batch, one over optimizers, and one over dataloaders."""
    loops = state.get("loops") or {}
    fit = loops.get("fit_loop", {})
    for old, new in (
        ("batch_loop.optimizer_loop", "automatic_optimization"),
        ("batch_loop.manual_loop", "manual_optimization"),
        ("optimizer_loop", "automatic_optimization"),
        ("manual_loop", "manual_optimization"),
        ("val_loop.epoch_loop", "val_loop"),
    ):
        before, after = f"epoch_loop.{old}.", f"epoch_loop.{new}."
        for key in [key for key in fit if key.startswith(before)]:
            fit[after + key.removeprefix(before)] = fit.pop(key)
    left = fit.pop("epoch_loop.batch_loop.state_dict", None)
    if left:
        fit.setdefault("epoch_loop.state_dict", {})["old_batch_loop_state_dict"] = left
    fit.pop("epoch_loop.val_loop.dataloader_progress", None)
    fit.get("epoch_loop.automatic_optimization.optim_progress", {}).pop("optimizer_position", None)
    for name in ("validate_loop", "test_loop", "predict_loop"):
        loop = loops.get(name, {})
        loop.pop("dataloader_progress", None)
        for key in [key for key in loop if key.startswith("epoch_loop.")]:
            loop[key.removeprefix("epoch_loop.")] = loop.pop(key)


STEPS: tuple[tuple[str, Step], ...] = (
    ("0.8.0", _one_key_for_hyperparameters),
    ("0.10.0", _callbacks_states_together),
    ("1.6.0", _counters_in_loops),
    ("1.6.5", _batches_that_stepped),
    ("1.9.0", _keys_without_save_on_train_epoch_end),
    ("2.0.0", _scaler_under_one_key),
    ("2.0.0", _loops_flattened),
)
