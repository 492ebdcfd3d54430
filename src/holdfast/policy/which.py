"""Decide which checkpoints to keep. Pure: no clock, no disk; it removes nothing, it says what may go."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from holdfast.errors import ConfigError
from holdfast.policy.values import Record

Mode = Literal["min", "max"]

# Words in a metric's name that say that more is better. Ranking these by "min" keeps the worst and deletes
# the best, so it has to be asked for. A word too many costs one argument, one missing may cost a checkpoint.
_HIGHER_IS_BETTER = re.compile(
    r"""(?<![^\W_])  # a whole word: what stands around it is no letter and no digit
    (acc|accuracy|ap|auc|aucpr|auprc|auroc|bleu|cider|dice|f1|f1score|fscore|iou|jaccard|kappa|map|mcc|meteor
    |miou|mrr|ndcg|precision|psnr|r2|recall|return|reward|rouge|sensitivity|specificity|ssim)
    (?![^\W_])""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Best:
    """Keeps the ``k`` best by one score. NaN, missing and sick never rank; of equal scores the older is first.

    Args:
        k: How many.
        metric: The score's name.
        mode: Whether less or more is better.
        elsewhere: Scores of older checkpoints that no record tells of, and that take places in the ranking.
    """

    k: int
    metric: str
    mode: Mode
    elsewhere: tuple[float, ...] = ()

    def ranked(self, ordered: Sequence[Record]) -> list[Record]:
        """Those that rank, the best first. ``ordered`` is oldest first."""
        healthy = [r for r in ordered if r.healthy]
        scored = [r for r in healthy if not math.isnan(r.scores.get(self.metric, math.nan))]
        # A stable sort, reversed or not, leaves equals in their order: the older one stays first.
        return sorted(scored, key=lambda r: r.scores[self.metric], reverse=self.mode == "max")

    def keep(self, ordered: Sequence[Record]) -> dict[str, str]:
        """The ``k`` first, each with its rank and score."""
        placed = [
            (place + self._before(record.scores[self.metric]), record)
            for place, record in enumerate(self.ranked(ordered)[: self.k], start=1)
        ]
        return {
            record.id: f"{self._rank(place)}: {_number(record.scores[self.metric])}"
            for place, record in placed
            if place <= self.k
        }

    def _before(self, score: float) -> int:
        """How many of those elsewhere come before one of this score."""
        return sum(other >= score if self.mode == "max" else other <= score for other in self.elsewhere)

    def _rank(self, place: int) -> str:
        return str(self) if self.k == 1 else f"{_ordinal(place)} of {self}"

    def __str__(self) -> str:
        number = "" if self.k == 1 else f"{self.k:,} "
        return f"{number}best by {self.metric} ({self.mode})"


@dataclass(frozen=True)
class Last:
    """Keeps the ``k`` newest."""

    k: int

    def keep(self, ordered: Sequence[Record]) -> dict[str, str]:
        """The last ``k``."""
        return {record.id: str(self) for record in ordered[-self.k :]}

    def __str__(self) -> str:
        return "last" if self.k == 1 else f"last {self.k:,}"


@dataclass(frozen=True)
class Every:
    """Keeps, for good, the first checkpoint at or past each multiple of ``n`` optimizer steps."""

    n: int

    def keep(self, ordered: Sequence[Record]) -> dict[str, str]:
        """Those that reach a multiple which none before them has reached."""
        kept: dict[str, str] = {}
        reached = 0
        for record in ordered:
            multiple = record.progress.steps // self.n
            if multiple > reached:
                kept[record.id] = str(self)
                reached = multiple
        return kept

    def __str__(self) -> str:
        return "every step" if self.n == 1 else f"every {self.n:,} steps"


@dataclass(frozen=True)
class Everything:
    """Keeps all."""

    def keep(self, ordered: Sequence[Record]) -> dict[str, str]:
        """All of them."""
        return {record.id: str(self) for record in ordered}

    def __str__(self) -> str:
        return "everything"


@dataclass(frozen=True)
class Pinned:
    """Keeps what a user has pinned."""

    def keep(self, ordered: Sequence[Record]) -> dict[str, str]:
        """Those that are pinned."""
        return {record.id: str(self) for record in ordered if record.pinned}

    def __str__(self) -> str:
        return "pinned"


Rule = Best | Last | Every | Everything | Pinned


@dataclass(frozen=True)
class Which:
    """Which checkpoints of a run to keep: a union of rules. Made by ``best`` and its kin; joined by ``|``.

    Args:
        rules: In the order in which they were written; none is there twice.
    """

    rules: tuple[Rule, ...] = ()

    def __or__(self, other: Which) -> Which:
        if not isinstance(other, Which):
            return NotImplemented
        return Which(tuple(dict.fromkeys(self.rules + other.rules)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.rules)) or "nothing"

    def keep(self, records: Sequence[Record]) -> dict[str, str]:
        """What to keep, and why. What is not in the answer may go, as far as these rules are concerned.

        Args:
            records: Checkpoints of one run, in any order.

        Returns:
            Id to reason in words, oldest first; where several rules keep one, their reasons joined by "; ".
        """
        ordered = _oldest_first(records)
        reasons: dict[str, list[str]] = {record.id: [] for record in ordered}
        for rule in self.rules:
            for id, reason in rule.keep(ordered).items():
                reasons[id].append(reason)
        return {id: "; ".join(why) for id, why in reasons.items() if why}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that its rules rank by, each once."""
        return tuple(dict.fromkeys(rule.metric for rule in self.rules if isinstance(rule, Best)))

    def ranks(self) -> bool:
        """Whether any of its rules needs a score."""
        return any(isinstance(rule, Best) for rule in self.rules)

    def without_score(self) -> Which:
        """The union of its rules that need no score; ``nothing()`` if there are none."""
        return Which(tuple(rule for rule in self.rules if not isinstance(rule, Best)))

    def to_json(self) -> list[dict[str, Any]]:
        """The rules as plain values, such as ``{"rule": "last", "k": 2}``, in their order."""
        return [
            {"rule": _KINDS[type(rule)], **{k: v for k, v in asdict(rule).items() if k != "elsewhere" or v}}
            for rule in self.rules
        ]

    @classmethod
    def from_json(cls, data: Sequence[object]) -> Which:
        """The rules that ``to_json`` wrote.

        Raises:
            ConfigError: One is no rule that this version knows, or its arguments are not that rule's.
        """
        if not isinstance(data, (list, tuple)):
            raise ConfigError(f"rules are a list, not {data!r:.200}.")
        return Which(tuple(dict.fromkeys(rule for item in data for rule in _from_json(item).rules)))

    def for_good(self) -> Which:
        """The union of its rules that promise to keep for ever what they keep once."""
        return Which(tuple(rule for rule in self.rules if isinstance(rule, (Everything, Every))))

    def best_of(self, records: Sequence[Record]) -> Record | None:
        """The one to call the best.

        Returns:
            The first in the ranking of its first rule that needs a score. Where it has no such rule, or no
            record has that score: the newest healthy one that it keeps. None if it keeps nothing that can be
            called the best.
        """
        ordered = _oldest_first(records)
        ranking = next((rule for rule in self.rules if isinstance(rule, Best)), None)
        ranked = ranking.ranked(ordered) if ranking else []
        if ranked:
            return ranked[0]
        kept = self.keep(ordered)
        newest = [record for record in reversed(ordered) if record.id in kept and (record.healthy or not ranking)]
        return max(newest, key=lambda record: record.healthy, default=None)


def more_is_better(metric: str) -> bool:
    """Whether the name of a metric says that more of it is better."""
    return _HIGHER_IS_BETTER.search(metric) is not None


def best(k: int, metric: str, mode: Mode | None = None) -> Which:
    """Keep the ``k`` best by ``metric``.

    NaN and missing scores never rank, infinities do; of two equal scores the older is kept. A checkpoint whose weights
    are not all finite never ranks, whatever its score.

    Args:
        k: How many, at least 1.
        metric: The name under which it is logged.
        mode: ``"min"`` if less is better, ``"max"`` if more is. None means ``"min"``, and is refused for a
            name with a word in it that says that more is better, such as ``val_acc``.

    Raises:
        ConfigError: An argument cannot work, or ``mode`` has to be said.
    """
    if problems := _count_problems("k", k) + _ranking_problems(metric, mode):
        raise ConfigError(f"best(): {'; '.join(problems)}.")
    return Which((Best(k, metric, mode or "min"),))


def last(k: int) -> Which:
    """Keep the ``k`` newest, in the order in which they were committed.

    Raises:
        ConfigError: ``k`` is not a whole number of at least 1.
    """
    if problems := _count_problems("k", k):
        raise ConfigError(f"last(): {'; '.join(problems)}.")
    return Which((Last(k),))


def every(n: int) -> Which:
    """Keep, for good, the first checkpoint at or past each multiple of ``n`` optimizer steps, 0 not counted.

    Raises:
        ConfigError: ``n`` is not a whole number of at least 1.
    """
    if problems := _count_problems("n", n):
        raise ConfigError(f"every(): {'; '.join(problems)}.")
    return Which((Every(n),))


def everything() -> Which:
    """Keep all."""
    return Which((Everything(),))


def nothing() -> Which:
    """Keep none: whatever another policy does not keep may go."""
    return Which()


def pinned() -> Which:
    """Keep what a user has pinned."""
    return Which((Pinned(),))


_MAKERS: dict[str, tuple[type[Rule], Callable[..., Which]]] = {
    "best": (Best, best),
    "last": (Last, last),
    "every": (Every, every),
    "everything": (Everything, everything),
    "pinned": (Pinned, pinned),
}
_KINDS: dict[type[Rule], str] = {kind: name for name, (kind, _) in _MAKERS.items()}


def _from_json(data: object) -> Which:
    name = data.get("rule") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(name, str) or name not in _MAKERS:
        raise ConfigError(f"{data!r:.200} is no rule that this version of Holdfast knows.")
    kind, make = _MAKERS[name]
    arguments = {key: value for key, value in data.items() if key != "rule"}
    elsewhere = arguments.pop("elsewhere", ()) if name == "best" else ()
    wanted = {field.name for field in fields(kind)} - {"elsewhere"}
    if set(arguments) != wanted or not isinstance(elsewhere, (list, tuple)) or not all(map(_is_score, elsewhere)):
        # A later version's rule with one argument more is another rule: guessing could let the wrong ones go.
        raise ConfigError(f"{data!r:.200}: the rule {name!r} has the arguments {sorted(wanted)}.")
    if name == "best" and arguments["mode"] is None:
        raise ConfigError(f"{data!r:.200}: mode is 'min' or 'max'.")
    made = make(**arguments)
    if not elsewhere:
        return made
    return Which(tuple(replace(rule, elsewhere=tuple(elsewhere)) for rule in made.rules if isinstance(rule, Best)))


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _oldest_first(records: Sequence[Record]) -> list[Record]:
    # The id breaks ties of order, so that the answer cannot depend on how the records were listed.
    return sorted(records, key=lambda record: (record.order, record.id))


def _count_problems(name: str, number: object) -> list[str]:
    whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
    return [] if whole else [f"{name} is a whole number of at least 1, not {number!r}"]


def _ranking_problems(metric: object, mode: object) -> list[str]:
    problems = [] if mode in (None, "min", "max") else [f"mode is 'min' or 'max', not {mode!r}"]
    if not isinstance(metric, str) or not metric:
        problems.append(f"metric is the name of a metric, not {metric!r}")
    elif mode is None and (word := _HIGHER_IS_BETTER.search(metric)):
        problems.append(
            f"the {word[0]!r} in {metric!r} says that more is better, while the default keeps the lowest: "
            "say mode='max' or mode='min'"
        )
    return problems


def _ordinal(place: int) -> str:
    teen = place % 100 in (11, 12, 13)
    return f"{place:,}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th')}"


def _number(value: float) -> str:
    # Six digits would blur a count, such as a step; for other scores they are enough for the eye.
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else f"{value:.6g}"
