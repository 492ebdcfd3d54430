"""What holds for all tests: which are slow, for they start many processes or read many files; what none leaves behind.

``make test-slow`` runs the slow ones.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Where a change is judged, it is by the same examples each time; elsewhere each run tries others.
hypothesis.settings.register_profile("judged", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("judged")

# Where the tests are a shell's background job, it has them ignore Ctrl-C, and so would the children that are sent one.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
SLOW = (
    "benchmarks",
    "catalog/test_listing_opens.py",
    "checkpointer/test_loop_data.py",
    "cli/test_cli_processes.py",
    "compat/test_holdfast_run.py",
    "compat/test_served_names.py",
    "engine/test_convert.py",
    "engine/test_group.py",
    "engine/test_ranks.py",
    "engine/test_sharded.py",
    "loggers/test_optional_trackers.py",
    "state/test_loader_workers.py",
    "strategies",
    "testing",
    "torture",
    "training/test_exact_data.py",
    "training/test_exact_everywhere.py",
    "training/test_folder_memory.py",
    "training/test_requeue.py",
    "training/test_resume_report.py",
    "training/test_rows_ckpt_path.py",
    "training/test_saving_interrupted.py",
    "training/test_seed_examples.py",
)
QUICK = ("strategies/test_choose.py", "strategies/test_world.py")


@pytest.fixture(autouse=True)
def _no_group_is_left() -> Iterator[None]:
    """A fit by ``strategy="fsdp"`` stays a member of its group until the process ends: here until the test does."""
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those that are."""
    for item in items:
        where = item.path.relative_to(HERE).as_posix()
        if where.startswith(SLOW) and where not in QUICK:
            item.add_marker(pytest.mark.slow)
