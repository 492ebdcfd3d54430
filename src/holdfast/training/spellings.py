"""Arguments of ``Trainer`` as they were once spelt: taken, said to be old, handed on under their new names."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, cast

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.older import call_init_hooks
from holdfast.errors import ConfigError
from holdfast.log import warn

P = ParamSpec("P")

_STRATEGIES = ("ddp", "ddp_spawn")
_GONE = {
    "amp_backend": "leave it out: it is torch's own",
    "auto_lr_find": "try values in fits of your own",
    "auto_scale_batch_size": "try values in fits of your own",
    "auto_select_gpus": "devices=",
    "distributed_backend": "strategy=",
    "flush_logs_every_n_steps": "the logger's own argument",
    "gpus": "accelerator='gpu', devices=",
    "max_nb_epochs": "max_epochs=",
    "multiple_trainloader_mode": "CombinedLoader(loaders, mode)",
    "num_processes": "accelerator='cpu', devices=",
    "progress_bar_refresh_rate": "enable_progress_bar=, or TQDMProgressBar(refresh_rate=...)",
    "reload_dataloaders_every_epoch": "reload_dataloaders_every_n_epochs=1",
    "replace_sampler_ddp": "use_distributed_sampler=",
    "stochastic_weight_avg": "callbacks=[StochasticWeightAveraging(...)]",
    "terminate_on_nan": "EarlyStopping(check_finite=True)",
    "track_grad_norm": "log grad_norm(...) in on_before_optimizer_step",
    "weights_summary": "enable_model_summary=",
}
"""Arguments of older trainers that are not taken any more, and what there is instead."""


def accepted(init: Callable[P, None]) -> Callable[P, None]:
    """``Trainer.__init__`` that takes the older spellings as well.

    After it, ``resume_from_checkpoint`` and ``weights_save_path`` are attributes of the trainer, None by default.

    Raises:
        ConfigError: An argument was given under both names.
        TypeError: One is not taken any more.
    """

    @wraps(init)
    def made(*args: P.args, **kwargs: P.kwargs) -> None:
        given = cast("dict[str, Any]", kwargs)
        if gone := [f"{name}= (now: {_GONE[name]})" for name in given if name in _GONE]:
            raise TypeError(f"Trainer takes no {', no '.join(gone)}.")
        resume, place = _places(given)
        if "checkpoint_callback" in given:
            _checkpointing(given)
        if given.get("accelerator") in _STRATEGIES:
            _strategy(given)
        init(*args, **kwargs)
        trainer = cast("Any", args[0])
        trainer.resume_from_checkpoint = resume
        trainer.weights_save_path = None if place is None else str(Path(place).expanduser().absolute())
        call_init_hooks(trainer, trainer.callbacks)

    return made


def resumed_from(trainer: Any, ckpt_path: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """What ``fit`` goes on from: its own argument goes before the trainer's old one."""
    return trainer.resume_from_checkpoint if ckpt_path is None else ckpt_path


def _places(given: dict[str, Any]) -> tuple[Any, Any]:
    resume, place = given.pop("resume_from_checkpoint", None), given.pop("weights_save_path", None)
    if resume is not None:
        _say("resume_from_checkpoint=", "fit(ckpt_path=...)")
    if place is not None:
        _say("weights_save_path=", "default_root_dir=, or ModelCheckpoint(dirpath=...)")
    return resume, place


def _checkpointing(given: dict[str, Any]) -> None:
    """A switch; before that, the callback itself."""
    old = given.pop("checkpoint_callback")
    if isinstance(old, Callback):
        _say("checkpoint_callback=<a callback>", "callbacks=[...]")
        callbacks = given.get("callbacks") or []
        given["callbacks"] = [*([callbacks] if isinstance(callbacks, Callback) else callbacks), old]
        return
    _say("checkpoint_callback=", "enable_checkpointing=")
    if given.get("enable_checkpointing", old) != old:
        raise ConfigError("checkpoint_callback= and enable_checkpointing= are one thing: give the latter alone.")
    given["enable_checkpointing"] = old


def _strategy(given: dict[str, Any]) -> None:
    old = given.pop("accelerator")
    _say(f"accelerator={old!r}", f"strategy={old!r}")
    if given.get("strategy", old) not in (old, "auto", None):
        raise ConfigError(f"accelerator={old!r} and strategy={given['strategy']!r} contradict each other.")
    given["strategy"] = old


def _say(old: str, new: str) -> None:
    warn(f"Trainer({old}) is an old spelling: use {new}.", DeprecationWarning)
