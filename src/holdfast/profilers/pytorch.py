"""What PyTorch's own profiler sees of some steps of a run: operators, devices, memory, a trace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile, schedule

from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.profilers.base import Profiler
from holdfast.store import LocalStore

STEPS = {"fit": "training_step", "validate": "validation_step", "test": "test_step", "predict": "predict_step"}
SORT_KEYS = (
    "cpu_time", "cuda_time", "cpu_time_total", "cuda_time_total", "cpu_memory_usage", "cuda_memory_usage",
    "self_cpu_memory_usage", "self_cuda_memory_usage", "count",
)  # fmt: skip


class PyTorchProfiler(Profiler):
    """Profile steps with ``torch.profiler.profile``. By default the third, fourth and fifth; the others cost little.

    A trace for ``chrome://tracing`` or Perfetto is written beside the report, to ``dirpath``, by default the run's log
    folder.

    Args:
        dirpath: The folder of what it writes.
        filename: The report's name, without ``.txt``; by default it goes to the log.
        group_by_input_shapes: Whether calls with other shapes are listed apart; needs ``record_shapes=True``.
        export_to_chrome: Whether to write the trace.
        row_limit: Rows of the report at most; -1 for all.
        sort_by_key: What it is sorted by; by default the total time on the GPU if there is one, else on the CPU.
        table_kwargs: For the table of ``key_averages()``.
        profiler_kwargs: For ``torch.profiler.profile``, such as ``schedule``, ``record_shapes``, ``with_stack``. One
            step is one training step in a fit, and one batch elsewhere.

    Raises:
        ConfigError: There is no such key to sort by.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        group_by_input_shapes: bool = False,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        table_kwargs: dict[str, Any] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename)
        on_gpu = torch.cuda.is_available()
        self._sort_by = sort_by_key or f"{'cuda' if on_gpu else 'cpu'}_time_total"
        if self._sort_by not in SORT_KEYS:
            raise ConfigError(f"PyTorchProfiler: sort_by_key is one of {', '.join(SORT_KEYS)}, not {sort_by_key!r}.")
        self._by_shapes, self._traces, self._rows = group_by_input_shapes, export_to_chrome, row_limit
        self._table = table_kwargs or {}
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        defaults = {"activities": activities, "schedule": schedule(wait=1, warmup=1, active=3, repeat=1)}
        self._options: dict[str, Any] = {"on_trace_ready": self._export, **defaults, **profiler_kwargs}
        self.profiler: profile | None = None
        self._under_way: dict[str, record_function] = {}

    def start(self, action_name: str) -> None:
        """An action begins: it has a name in the report and in the trace."""
        if self.profiler is None:
            self.profiler = profile(**self._options)
            _enter(self.profiler)
        recording = self._under_way[action_name] = record_function(action_name)
        _enter(recording)

    def stop(self, action_name: str) -> None:
        """It ends; where it was a step, the profiler's schedule goes on by one.

        Raises:
            ConfigError: It has not begun.
        """
        if action_name not in self._under_way:
            raise ConfigError(f"PyTorchProfiler: {action_name!r} was stopped, and never started.")
        _leave(self._under_way.pop(action_name))
        if self.profiler is not None and action_name.endswith(STEPS.get(self._stage or "fit", "_step")):
            self.profiler.step()

    def summary(self) -> str:
        """The operators that were recorded."""
        profiler, self.profiler = self.profiler, None
        if profiler is None:
            return ""
        _leave(profiler)
        recorded: Any = profiler
        if profiler.profiler is None or not recorded.events():
            logger.warning("PyTorchProfiler recorded nothing: there were too few steps for its schedule")
            return ""
        data = profiler.key_averages(group_by_input_shape=self._by_shapes)
        return self.report({"records": data.table(sort_by=self._sort_by, row_limit=self._rows, **self._table)})

    def teardown(self, stage: str | None) -> None:
        """Nothing is recorded any more."""
        if self.profiler is not None:
            _leave(self.profiler)
            self.profiler = None
        self._under_way.clear()

    def _export(self, profiler: profile) -> None:
        if not self._traces or not self.dirpath:
            return
        folder = Path(self.dirpath)
        LocalStore(folder).prepare()
        profiler.export_chrome_trace(str(folder / self.file_name("trace", ".json")))


def _enter(block: Any) -> None:
    """Begin what is not one block of code; torch's stubs lack this."""
    block.__enter__()


def _leave(block: Any) -> None:
    """End it."""
    block.__exit__(None, None, None)
