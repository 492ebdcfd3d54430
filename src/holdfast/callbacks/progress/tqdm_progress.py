"""Draw a progress bar with tqdm, which is optional. Decides nothing of what it shows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from holdfast.callbacks.progress.line import Line
from holdfast.callbacks.progress.progress_bar import ProgressBar
from holdfast.errors import ConfigError
from holdfast.training.states import RunningStage


class TQDMProgressBar(ProgressBar):
    """A bar drawn by tqdm. Each line is what one of its ``init_..._tqdm`` makes, which may be overridden.

    Args:
        refresh_rate: See ``ProgressBar``.
        process_position: How many lines of the terminal to leave free above it.
        leave: See ``ProgressBar``.

    Raises:
        ConfigError: tqdm is not installed.
    """

    # The rate and the time left are ours: tqdm's own would count validations and what was done before a resume.
    BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)
        if find_spec("tqdm") is None:
            raise ConfigError("TQDMProgressBar needs tqdm.", remedy="Install it: pip install 'holdfast[tqdm]'")
        self.process_position = process_position
        self._bars: list[Any] = []

    def print(self, *args: Any, sep: str = " ", end: str = "\n", file: Any = None, **kwargs: Any) -> None:
        """As the built-in ``print``, above the bar."""
        if self._bars:
            self._bars[0].write(sep.join(map(str, args)), file=file, end=end)
        else:
            print(*args, sep=sep, end=end, file=file, **kwargs)

    def show(self, lines: Sequence[Line], *, final: bool) -> None:
        """Draw."""
        while len(self._bars) > len(lines):  # a validation is over, and leaves nothing
            bar = self._bars.pop()
            bar.leave = False
            bar.close()
        for index, line in enumerate(lines):
            if index == len(self._bars):
                self._bars.append(self._new(line.stage))
            bar = self._bars[index]
            bar.n, bar.total = line.done, line.total
            if line.stage is RunningStage.TRAINING:  # only its label changes: the others' may be a program's own
                bar.set_description_str(line.label, refresh=False)
            bar.set_postfix_str(", ".join(filter(None, [line.speed, line.left, *line.facts])), refresh=False)
            bar.refresh()
        if final:
            self.close()

    def close(self) -> None:
        """Leave what was drawn last, and go to the next line."""
        while self._bars:
            self._bars.pop().close()

    def init_sanity_tqdm(self) -> Any:
        """Make the tqdm bar of the check before training."""
        return self._made(self.sanity_check_description)

    def init_train_tqdm(self) -> Any:
        """Make that of an epoch; which epoch is said in it later."""
        return self._made(self.train_description)

    def init_validation_tqdm(self) -> Any:
        """Make that of a validation."""
        return self._made(self.validation_description)

    def init_test_tqdm(self) -> Any:
        """Make that of a test."""
        return self._made(self.test_description)

    def init_predict_tqdm(self) -> Any:
        """Make that of a prediction."""
        return self._made(self.predict_description)

    def _new(self, stage: RunningStage) -> Any:
        return {
            RunningStage.SANITY_CHECKING: self.init_sanity_tqdm,
            RunningStage.TRAINING: self.init_train_tqdm,
            RunningStage.VALIDATING: self.init_validation_tqdm,
            RunningStage.TESTING: self.init_test_tqdm,
            RunningStage.PREDICTING: self.init_predict_tqdm,
        }[stage]()

    def _made(self, description: str) -> Any:
        return import_module("tqdm").tqdm(
            desc=description,
            file=sys.stdout,
            leave=True,
            dynamic_ncols=True,
            position=self.process_position + len(self._bars),
            bar_format=self.BAR_FORMAT,
            delay=1e-9,  # above 0, it does not draw itself before it is told what to show
        )
