"""The metrics by which something is decided, compared over the ranks: whether each has measured them for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holdfast.engine.group import Group
from holdfast.log import logger
from holdfast.policy.values import Score
from holdfast.policy.where import COUNTERS
from holdfast.training.ranks import each


class Monitored:
    """The names that are monitored; each is compared once, when rank 0 has a value of it.

    Attributes:
        uncompared: Those that are still to be compared, the same on every rank.

    Args:
        group: The ranks; with one there is nothing to compare.
        names: What checkpoints are ranked by, and what stops a fit or steps a scheduler.
    """

    def __init__(self, group: Group, names: Iterable[str]) -> None:
        self._group = group
        self.uncompared = set(names) - set(COUNTERS) if group.size > 1 else set()

    def compare(self, scores: Mapping[str, Score]) -> None:
        """Ask all ranks for their values, and say which differ: rank 0's decides, and users may not know.

        Whoever reduces a metric himself has the same value everywhere, and is not told anything.

        Args:
            scores: The metrics now.
        """
        told = each(self._group, {name: scores[name].value for name in self.uncompared if name in scores})
        for name, value in told[0].items():
            self.uncompared.discard(name)
            those = [one.get(name) for one in told]
            if self._group.rank == 0 and any(repr(one) != repr(value) for one in those):
                logger.warning(
                    "%r is monitored, and each rank has measured it for itself: %s. Checkpoints go by what rank 0 "
                    "has measured, schedulers and early stopping by each rank's own value; log it with sync_dist=True "
                    "for one over all ranks.",
                    name, ", ".join("nothing" if one is None else f"{one:g}" for one in those),
                )  # fmt: skip
