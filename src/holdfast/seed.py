"""Seed the random generators of this process, or put them back after a block. Draws nothing itself."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.state.random import capture, restore

_SEED = "PL_GLOBAL_SEED"
_WORKERS = "PL_SEED_WORKERS"
_DEFAULT = 0
_LARGEST = 2**32 - 1  # of NumPy's global generator


def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed the global generators of Python, NumPy and torch, on CPU and accelerator.

    Args:
        seed: From 0 to 4,294,967,295. By default the one in the environment variable ``PL_GLOBAL_SEED``, else 0.
        workers: Kept in ``PL_SEED_WORKERS`` for what starts processes of its own. The workers of a torch
            ``DataLoader`` need it not: torch seeds Python, NumPy and itself there from the generator seeded here.
        verbose: Whether to write a line.

    Returns:
        The seed, which is in ``PL_GLOBAL_SEED`` now, for processes started from this one.

    Raises:
        ConfigError: It is no such number; nothing was seeded.
    """
    chosen = _checked(os.environ.get(_SEED, _DEFAULT) if seed is None else seed, given=seed is not None)
    os.environ[_SEED] = str(chosen)
    os.environ[_WORKERS] = str(int(workers))
    random.seed(chosen)
    np.random.seed(chosen)
    torch.manual_seed(chosen)
    if verbose:
        logger.info("seed set to %s", chosen)
    return chosen


@contextmanager
def isolate_rng() -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch back when the block ends, also by an error."""
    before = capture()
    try:
        yield
    finally:
        for sentence in restore(before):
            logger.warning(sentence)


def _checked(seed: object, *, given: bool) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer, str)):
        raise ConfigError(f"seed_everything takes a whole number, not {seed!r}.")
    try:
        number = int(seed)
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST:
        where = "The seed" if given else f"The seed in the environment variable {_SEED}"
        raise ConfigError(f"{where} is a whole number from 0 to {_LARGEST:,}, not {seed!r}.")
    return number
