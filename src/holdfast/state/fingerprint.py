"""What a run is made of, as plain values that a later process can compare with its own. Changes nothing.

It is saved in every full checkpoint, under ``holdfast`` / ``fingerprint``: what the code asked for, not what the run
has made of it, so that a learning rate which a schedule has lowered does not count as a change.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from holdfast._version import __version__
from holdfast.state.samplers import GlobalSampler, sampler_of

KEY = "fingerprint"
"""The part of a checkpoint that holds it."""

_MOVING = {
    "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "base_lrs",
    "best", "num_bad_epochs", "cooldown_counter",
}  # fmt: skip
_LONGEST = 64  # entries of a list that are worth keeping one by one
_PATIENCE = 5.0  # seconds that git may take
_NOT_PLAIN: Any = object()


def of_optimizers(optimizers: Sequence[Any]) -> dict[str, Any]:
    """The learning rates, and the other settings of each group: to be asked for before a state is put in."""
    rates, settings = [], []
    for optimizer in optimizers:
        names = [name for name in optimizer.defaults if name != "lr"]
        groups = [plain({name: group.get(name) for name in names}) for group in optimizer.param_groups]
        rates.append([plain(group.get("lr")) for group in optimizer.param_groups])
        settings.append({"type": type(optimizer).__name__, "groups": groups})
    return {"lr": rates, "optimizer": settings}


def of_scheduler(scheduler: Any) -> dict[str, Any]:
    """The type of a scheduler, and its settings: what does not move while it steps."""
    state = scheduler.state_dict() if callable(getattr(scheduler, "state_dict", None)) else {}
    return {"type": type(scheduler).__name__, "settings": settings_of(state)}


def settings_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a scheduler's state does not move while it steps, and is plain."""
    found = {}
    for name, value in state.items():
        if name in _MOVING:
            continue
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            found[name] = [settings_of(one) for one in value]
        elif (known := plain(value)) is not _NOT_PLAIN:
            found[name] = known
    return found


def of_loader(loader: Any) -> dict[str, Any]:
    """The batch size, the length of the dataset and the order of the samples, as far as a loader tells of them."""
    found: dict[str, Any] = {}
    size = getattr(loader, "batch_size", None)
    batches = getattr(loader, "batch_sampler", None)
    size = getattr(batches, "batch_size", None) if size is None else size
    if isinstance(size, int):
        found["batch_size"] = size
    length = _length(getattr(loader, "dataset", None))
    if length is not None:
        found["dataset"] = length
    if isinstance(loader, DataLoader):
        found["sampler"] = _sampling(loader)
    return found


def of_process() -> dict[str, Any]:
    """What else the numbers hang on: threads, versions, the device's kind; and the commit of the code."""
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "holdfast": __version__,
    }
    commit = _commit(str(_program()))
    return found if commit is None else {**found, "git": commit}


def plain(value: Any) -> Any:
    """A value as JSON knows it; a marker that is none where it has no such form."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):  # and of no type derived from one of these
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else _digest(value.detach().cpu().tolist())
    if isinstance(value, Mapping):
        return {str(k): known for k, v in value.items() if (known := plain(v)) is not _NOT_PLAIN}
    if isinstance(value, (list, tuple)):
        known = [plain(one) for one in value]
        if any(one is _NOT_PLAIN for one in known):
            return _NOT_PLAIN
        return known if len(known) <= _LONGEST else f"{len(known):,} values, {_digest(known)}"
    return _NOT_PLAIN


def _sampling(loader: DataLoader[Any]) -> str:
    """The rule by which samples are drawn, in words that differ where it does."""
    batches = loader.batch_sampler
    text = _rule(sampler_of(loader))
    if batches is not None and type(batches) is not BatchSampler:
        text = f"{type(batches).__name__} of {text}"
    return f"{text}, drop_last" if getattr(batches, "drop_last", False) else text


def _rule(sampler: Any) -> str:
    if isinstance(sampler, GlobalSampler):  # the same order, shared among ranks
        if isinstance(sampler.source, Sampler):
            return _rule(sampler.source)
        return "RandomSampler(replacement=False)" if sampler.shuffle else "SequentialSampler"
    said = []
    for name in ("replacement", "shuffle", "seed"):
        value = getattr(sampler, name, None)
        if isinstance(value, (bool, int)):
            said.append(f"{name}={value}")
    for name in ("weights", "indices"):
        value = getattr(sampler, name, None)
        if isinstance(value, (list, tuple, range, torch.Tensor)):
            said.append(f"{name} {_digest(_numbers(value))}")
    return type(sampler).__name__ + (f"({', '.join(said)})" if said else "")


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except TypeError:
        return None


def _numbers(values: Any) -> Any:
    """Many numbers as bytes, for there may be as many as samples; whatever else it is as it is."""
    if isinstance(values, range):
        return values
    try:
        return torch.as_tensor(values).detach().cpu().contiguous().numpy().tobytes()
    except (TypeError, ValueError, RuntimeError):  # names of samples, say
        return values


def _digest(value: Any) -> str:
    known = value if isinstance(value, bytes) else repr(value).encode()
    return blake2b(known, digest_size=6).hexdigest()


def _program() -> Path:
    """The folder of the program that runs."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(main).resolve().parent if main else Path.cwd()


@functools.cache
def _commit(folder: str) -> str | None:
    """The commit of a folder; once a process, for what it runs was read when it began."""
    git = shutil.which("git")
    if git is None or not os.path.isdir(folder):  # noqa: PTH112  # Path's own raises for some paths that nothing can be at
        return None
    try:
        done = subprocess.run(  # noqa: S603 # fixed words and a folder
            [git, "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # a commit that cannot be told is told by its absence
        return None
    return done.stdout.strip() if done.returncode == 0 else None
