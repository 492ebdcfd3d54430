"""What a run's metrics are for those who look: callbacks, a bar, loggers. Averages nothing and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from holdfast.policy.values import Score
from holdfast.training.metric_entries import Entry
from holdfast.training.metric_values import numbers, tensor_of


class Shown:
    """The values that were published, each with the steps at which it was measured."""

    def __init__(self) -> None:
        self._logged: dict[str, Tensor] = {}
        self._callback: dict[str, Tensor] = {}
        self._progress_bar: dict[str, Tensor] = {}
        self._measured: dict[str, tuple[Tensor, int | None]] = {}
        self._waiting: list[Entry] = []
        self._before_sanity: list[dict[str, Any]] | None = None

    @property
    def callback(self) -> dict[str, Tensor]:
        """See ``MetricLog.callback``."""
        self._bring_up()
        return self._callback

    @property
    def progress_bar(self) -> dict[str, Tensor]:
        """See ``MetricLog.progress_bar``."""
        self._bring_up()
        return self._progress_bar

    @property
    def logged(self) -> dict[str, Tensor]:
        """See ``MetricLog.logged``."""
        self._bring_up()
        return self._logged

    def note(self, entry: Entry) -> None:
        """This one, which is not noted yet, has a new single value for whoever looks next."""
        entry.unshown = True
        self._waiting.append(entry)

    def publish_epoch(self, entry: Entry, value: Tensor, at: int) -> None:
        """This is its value of the epoch."""
        self._publish({entry.names.epoch, entry.names.monitor}, value, at)
        if entry.settings.prog_bar:
            self._progress_bar[entry.names.epoch] = value
        if entry.settings.logger:
            self._logged[entry.names.epoch] = value

    def scores(self, steps: int) -> dict[str, Score]:
        """See ``MetricLog.scores``."""
        if self._before_sanity is not None:
            return {}
        scores = {}
        for name, value in numbers(self.callback).items():
            held = self._callback[name]
            known, at = self._measured.get(name, (None, None))
            if known is not held:
                self._measured[name] = (held, steps)
                at = steps
            scores[name] = Score(value, steps if at is None else at)
        return scores

    def begin_sanity(self) -> None:
        """What is published from here on is gone with ``end_sanity``."""
        self._before_sanity = [dict(kept) for kept in self._kept()]

    def end_sanity(self) -> None:
        """All is as it was; where no sanity check has begun, this does nothing."""
        if self._before_sanity is not None:
            for kept, before in zip(self._kept(), self._before_sanity, strict=True):
                kept.clear()
                kept.update(before)
            self._before_sanity = None

    def state_dict(self, steps: int) -> dict[str, Any]:
        """What callbacks see, without what was put there by hand; ``steps`` are those of the batch under way."""
        callback, _, _, measured = self._before_sanity or self._kept()
        shown = {name: known for name, known in measured.items() if callback.get(name) is known[0]}
        return {
            "callback": {name: value for name, (value, _) in shown.items()},
            "measured": {name: steps if at is None else at for name, (_, at) in shown.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Publish again what such a state holds."""
        for name, at in state["measured"].items():
            self._publish({name}, state["callback"][name], at)

    def _bring_up(self) -> None:
        """Publish the single values that nobody has looked at yet."""
        for entry in self._waiting:
            entry.unshown = False
            value, name = tensor_of(entry.value), entry.names.step
            if entry.in_training:
                self._publish({name}, value, entry.at)
            if entry.settings.prog_bar:
                self._progress_bar[name] = value
            if entry.settings.logger:
                self._logged[name] = value
        self._waiting.clear()

    def _publish(self, names: Iterable[str], value: Tensor, at: int | None) -> None:
        for name in names:
            self._callback[name] = value
            self._measured[name] = (value, at)

    def _kept(self) -> tuple[dict[str, Any], ...]:
        self._bring_up()
        return self._callback, self._progress_bar, self._logged, self._measured
