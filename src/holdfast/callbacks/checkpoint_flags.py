"""What is wrong with the flags of a ``ModelCheckpoint``: all of it, in one error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from holdfast.errors import ConfigError
from holdfast.log import logger, warn
from holdfast.policy.which import more_is_better


def check(flags: Mapping[str, Any]) -> None:
    """Refuse flags that contradict each other or make no sense.

    Raises:
        ConfigError: All problems.
    """
    problems = [*_which_problems(flags), *_when_problems(flags)]
    if flags["save_last"] not in (None, True, False, "link"):
        problems.append(f"save_last is True, False, None or 'link', not {flags['save_last']!r}")
    if flags["save_last"] and flags["filename"] == flags["last_name"]:
        problems.append(f"filename={flags['filename']!r} is the name that save_last moves from one to the next")
    if problems:
        raise ConfigError(f"ModelCheckpoint: {'; '.join(problems)}.")
    monitor = flags["monitor"]
    if monitor is not None and flags["mode"] == "min" and more_is_better(monitor):
        logger.warning("ModelCheckpoint(monitor=%r) keeps the lowest; if more is better, say mode='max'", monitor)


def without_policy(flags: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse flags beside a ``policy``, which answers all that they ask.

    Raises:
        ConfigError: Which ones.
    """
    given = [f"{name}={flags[name]!r}" for name, default in defaults.items() if flags[name] != default]
    if given:
        raise ConfigError(
            f"ModelCheckpoint: policy= says all that {', '.join(given)} would.", remedy="Put it into the policy."
        )


def epochs(every_n_epochs: int | None, every_n_val_epochs: int | None, period: int | None) -> int | None:
    """The interval in epochs, under whichever name it was given; the old ones warn.

    Raises:
        ConfigError: It was given more than once.
    """
    names = {"every_n_epochs": every_n_epochs, "every_n_val_epochs": every_n_val_epochs, "period": period}
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) > 1:
        raise ConfigError(f"ModelCheckpoint: {' and '.join(given)} are one thing: give every_n_epochs alone.")
    for name in given:
        if name != "every_n_epochs":
            text = f"ModelCheckpoint({name}=...) is the old name of every_n_epochs=."
            warn(text, DeprecationWarning)
    return next(iter(given.values()), None)


def _which_problems(flags: Mapping[str, Any]) -> list[str]:
    top, monitor, mode = flags["save_top_k"], flags["monitor"], flags["mode"]
    problems = []
    if not _whole(top) or top < -1:
        problems.append(f"save_top_k={top!r} is no number of checkpoints (-1 is all, 0 is none)")
    elif monitor is None and top not in (-1, 0, 1):
        problems.append(f"save_top_k={top} of the best needs monitor=, the metric to rank by")
    if monitor is not None and (not isinstance(monitor, str) or not monitor):
        problems.append(f"monitor is the name of a metric, not {monitor!r}")
    if mode not in ("min", "max"):
        problems.append(f"mode is 'min' or 'max', not {mode!r}")
    return problems


def _when_problems(flags: Mapping[str, Any]) -> list[str]:
    problems, interval = [], flags["train_time_interval"]
    for name in ("every_n_train_steps", "every_n_epochs"):
        number = flags[name]
        if number is not None and (not _whole(number) or number < 0):
            problems.append(f"{name} is a whole number of 0 or more, not {number!r}")
    if interval is not None and not (isinstance(interval, timedelta) and 0 <= interval.total_seconds() < math.inf):
        problems.append(f"train_time_interval is a timedelta of 0 or more, not {interval!r}")
    given = [name for name in ("every_n_train_steps", "every_n_epochs") if flags[name]]
    given += ["train_time_interval"] if interval is not None else []
    if len(given) > 1:
        problems.append(f"{' and '.join(given)} exclude each other: use a ModelCheckpoint for each")
    return problems


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
