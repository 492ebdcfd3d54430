"""Say why each checkpoint of a folder is kept now, and which would be next to go. Pure: removes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.catalog.folder import Listing
from holdfast.errors import ConfigError
from holdfast.policy.plan import BY_HAND
from holdfast.policy.values import Record
from holdfast.policy.which import Best, Which

_Rules = Mapping[str, Which | None]
"""What each policy of a run keeps; None where this version cannot read it."""


@dataclass(frozen=True)
class Kept:
    """Why a checkpoint is there.

    Args:
        why: In words, true now; ``(when saved)`` marks what was true then, where the rules are not known.
        next_to_go: Whether the rules would let it go for one more checkpoint, newer and better than all.
    """

    why: str
    next_to_go: bool = False


def judge(listing: Listing) -> dict[str, Kept]:
    """Every record of the folder, by id."""
    judged: dict[str, Kept] = {}
    newest = listing.newest_run()
    runs: dict[str, list[Record]] = {}
    for record in listing.records:
        runs.setdefault(record.run, []).append(record)
    for run, records in runs.items():
        rules = _read(listing.rules.get(run, {}))
        reasons = _keep(rules, records)
        stay = _keep(rules, records, and_one_more=True)
        for record in records:
            because = [*_user(record), *dict.fromkeys(reasons.get(record.id, ()))]
            if run != newest:
                judged[record.id] = Kept("; ".join(["of an earlier run", *because]))
                continue
            may_go = _may_go(record, rules)
            if not because and may_go:
                because = ["no rule keeps it any more"]
            elif not because:
                because = [f"{record.reason or 'for a reason not known'} (when saved)"]
            judged[record.id] = Kept("; ".join(because), may_go and record.id not in stay)
    return judged


def _read(policies: object) -> _Rules:
    if not isinstance(policies, Mapping):  # the ledger is a diary that anybody may have written into
        return {}
    rules: dict[str, Which | None] = {}
    for name, data in policies.items():
        try:
            rules[name] = Which.from_json(data)
        except ConfigError:  # a later version's rules: not known, so nothing is said in their name
            rules[name] = None
    return rules


def _keep(rules: _Rules, records: Sequence[Record], *, and_one_more: bool = False) -> dict[str, list[str]]:
    """Why the rules that are known keep each record; ``and_one_more``: with the newcomer hardest on each."""
    reasons: dict[str, list[str]] = {}
    for name, which in rules.items():
        own = [record for record in records if name in record.policies]
        for rule in which.rules if which else ():
            newcomer = [_newcomer(own[-1], rule)] if and_one_more and own else []
            for id, why in Which((rule,)).keep([*own, *newcomer]).items():
                reasons.setdefault(id, []).append(why)
    return reasons


def _newcomer(newest: Record, rule: object) -> Record:
    """A checkpoint after ``newest`` that no other beats in the eyes of ``rule``."""
    scores = {rule.metric: math.inf if rule.mode == "max" else -math.inf} if isinstance(rule, Best) else {}
    progress = replace(newest.progress, steps=newest.progress.steps + 1)
    return Record(
        id="",
        run=newest.run,
        run_ordinal=newest.run_ordinal,
        sequence=newest.sequence + 1,
        progress=progress,
        scores=scores,
    )


def _user(record: Record) -> Iterable[str]:
    """What the user has said about it."""
    label = f": {record.label}" if record.label else ""
    if BY_HAND in record.policies:
        yield f"saved by hand{label}"
    if record.pinned:
        yield "pinned" if BY_HAND in record.policies else f"pinned{label}"


def _may_go(record: Record, rules: _Rules) -> bool:
    """Whether rules could let it go at all: it is not the user's, and its rules are known."""
    policies = [name for name in record.policies if name in rules]
    return (
        bool(policies)
        and all(rules[name] is not None for name in policies)
        and BY_HAND not in record.policies
        and not record.pinned
    )
