"""Seeds under the names and with the arguments that programs know. Draws nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast import seed


@contextmanager
def isolate_rng(include_cuda: bool = True) -> Iterator[None]:
    """Put the global generators back when the block ends.

    Args:
        include_cuda: Accepted; an accelerator's generator is put back wherever one is in use.
    """
    with seed.isolate_rng():
        yield


def reset_seed() -> None:
    """Seed again with what ``seed_everything`` was given last; nothing where it was never called."""
    given = os.environ.get("PL_GLOBAL_SEED")
    if given is not None:
        seed.seed_everything(int(given), workers=bool(int(os.environ.get("PL_SEED_WORKERS", "0"))), verbose=False)


def pl_worker_init_function(worker_id: int, rank: int | None = None) -> None:
    """Nothing: torch seeds Python, NumPy and itself in each worker from the generator of the main process."""
