"""How many worker processes a loader may well have here. Starts none."""

from __future__ import annotations

import os

from holdfast.errors import ConfigError


def suggested_max_num_workers(local_world_size: int) -> int:
    """So many that each rank's share of the processors is one more than its workers; at least 1.

    Args:
        local_world_size: The processes of this host that train.

    Raises:
        ConfigError: There is none.
    """
    if local_world_size < 1:
        raise ConfigError(f"suggested_max_num_workers: local_world_size is 1 or more, not {local_world_size!r}.")
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ours // local_world_size - 1)
