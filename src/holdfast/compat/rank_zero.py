"""Call, log or warn on the first rank alone, under the names that programs know. Talks to no other rank."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from holdfast.log import logger

P = ParamSpec("P")
T = TypeVar("T")

_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class LightningDeprecationWarning(DeprecationWarning):
    """What ``rank_zero_deprecation`` warns with."""


class PossibleUserWarning(UserWarning):
    """What programs silence by this name; Holdfast itself warns by its logger."""


class _RankZeroOnly:
    """Makes a function do nothing on all ranks but the first."""

    def __init__(self) -> None:
        self._set: int | None = None

    def __call__(self, fn: Callable[P, T], default: T | None = None) -> Callable[P, T | None]:
        """``fn`` on the first rank; on the others a function that returns ``default``."""

        @wraps(fn)
        def first_only(*args: P.args, **kwargs: P.kwargs) -> T | None:
            return fn(*args, **kwargs) if self.rank == 0 else default

        return first_only

    @property
    def rank(self) -> int:
        """This process's rank: what somebody has set, else what torch says, else the launcher's variables, else 0."""
        if self._set is not None:
            return self._set
        distributed = sys.modules.get("torch.distributed")
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank())
        return next((int(os.environ[name]) for name in _VARIABLES if name in os.environ), 0)

    @rank.setter
    def rank(self, rank: int | None) -> None:
        self._set = rank


rank_zero_only = _RankZeroOnly()


@rank_zero_only
def rank_zero_debug(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """``debug`` of Holdfast's logger."""
    logger.debug(*args, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def rank_zero_info(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """``info`` of Holdfast's logger."""
    logger.info(*args, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def rank_zero_warn(message: str | Warning, stacklevel: int = 4, **kwargs: Any) -> None:
    """``warnings.warn``."""
    warnings.warn(message, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def rank_zero_deprecation(message: str | Warning, stacklevel: int = 5, **kwargs: Any) -> None:
    """``warnings.warn`` of something that goes away."""
    warnings.warn(message, stacklevel=stacklevel - 2, **{"category": LightningDeprecationWarning, **kwargs})


def rank_prefixed_message(message: str, rank: int | None) -> str:
    """The message, with the rank before it where there is one."""
    return message if rank is None else f"[rank: {rank}] {message}"


class WarningCache(set[str]):
    """Says each message once."""

    def warn(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """``rank_zero_warn``, the first time."""
        if self._first(message):
            rank_zero_warn(message, stacklevel=stacklevel, **kwargs)

    def deprecation(self, message: str, stacklevel: int = 6, **kwargs: Any) -> None:
        """``rank_zero_deprecation``, the first time."""
        if self._first(message):
            rank_zero_deprecation(message, stacklevel=stacklevel, **kwargs)

    def info(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """``rank_zero_info``, the first time."""
        if self._first(message):
            rank_zero_info(message, stacklevel=stacklevel, **kwargs)

    def _first(self, message: str) -> bool:
        if message in self:
            return False
        self.add(message)
        return True
