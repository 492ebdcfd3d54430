"""Stand-ins that take every call and do nothing: where nothing is logged, code that logs runs all the same."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from torch import distributed

from holdfast.loggers.base import Logger

LoggerType = TypeVar("LoggerType", bound=Logger)

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class DummyExperiment:
    """Has every method, each of which does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):  # copying and pickling ask for these, and take a function for an answer
            raise AttributeError(name)
        return _nothing

    def __getitem__(self, index: Any) -> DummyExperiment:
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        pass


class DummyLogger(Logger):
    """What ``trainer.logger`` is under ``fast_dev_run``. It keeps nothing, and has every method."""

    def __init__(self) -> None:
        self._experiment = DummyExperiment()

    @property
    def name(self) -> str:
        """Empty."""
        return ""

    @property
    def version(self) -> str:
        """Empty."""
        return ""

    @property
    def experiment(self) -> DummyExperiment:
        """Has every method."""
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep nothing."""

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""

    def __getitem__(self, index: int) -> DummyLogger:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing


def rank_zero_experiment(make: Callable[[LoggerType], Any]) -> Callable[[LoggerType], Any]:
    """Decorate the ``experiment`` of a logger of your own: on ranks other than 0 it is a ``DummyExperiment``."""

    @wraps(make)
    def experiment(self: LoggerType) -> Any:
        return make(self) if _rank() == 0 else DummyExperiment()

    return experiment


def _rank() -> int:
    """This process among all: as torch knows it, else as whoever started it says."""
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return next((int(os.environ[name]) for name in _RANK_VARIABLES if name in os.environ), 0)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass
