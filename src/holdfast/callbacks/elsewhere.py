"""Checkpoints of another program that a run went on from, which still count in the ranking. Pure: removes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.policy.which import Mode


@dataclass(frozen=True)
class Elsewhere:
    """Those that a callback of the other program had kept for their rank.

    Args:
        scores: Path to score.
        newest: The path that it called the best without ranking; empty where there is none.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    newest: str = ""

    def first(self, path: str, score: float | None, mode: Mode) -> tuple[str, float | None]:
        """The better of the run's own best and the best of these, which are older; its path and score."""
        if not self.scores:
            return (path, score) if path else (self.newest, None)
        best = sorted(self.scores.items(), key=lambda item: item[1], reverse=mode == "max")[0]
        if score is None or (best[1] >= score if mode == "max" else best[1] <= score):
            return best
        return path, score

    def among(self, models: Mapping[str, float], k: int, mode: Mode) -> dict[str, float]:
        """The ``k`` best of these and the run's own, by path; all of them where ``k`` is -1."""
        if not self.scores:
            return dict(models)
        ranked = sorted({**self.scores, **models}.items(), key=lambda item: item[1], reverse=mode == "max")
        return dict(ranked if k < 0 else ranked[:k])

    def to_state(self) -> dict[str, Any]:
        """As plain values, under the key ``elsewhere``; nothing where there are none."""
        if not self.scores and not self.newest:
            return {}
        return {"elsewhere": {"scores": dict(self.scores), "newest": self.newest}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, there: Callable[[str], bool]) -> Elsewhere:
        """What ``to_state`` wrote, as far as it is still ``there``."""
        told = state.get("elsewhere", {})
        newest = str(told.get("newest", ""))
        scores = {path: float(score) for path, score in told.get("scores", {}).items() if there(path)}
        return cls(scores, newest if newest and there(newest) else "")
