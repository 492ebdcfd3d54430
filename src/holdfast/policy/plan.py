"""Decide what to save, under which names, and what to evict. Pure: any rank would decide the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.policy.due import due_at
from holdfast.policy.naming import Names, alias_of, labelled, left_over, name_of
from holdfast.policy.values import Event, Moment, Progress, Record, Tally
from holdfast.policy.what import What, full
from holdfast.policy.when import When
from holdfast.policy.where import Where
from holdfast.policy.which import Which

BY_HAND = "by hand"
"""Stands among a record's policies for the user who asked for it: no rule lets such a checkpoint go."""


@dataclass(frozen=True)
class Policy:
    """One answer to the four questions, under a name.

    Args:
        name: Tells it from the other policies of a run; its records bear it.
        when: When to save.
        which: Which of its checkpoints to keep.
        what: Which parts of the state.
        where: File names.
    """

    name: str
    when: When
    which: Which
    what: What = full
    where: Where = field(default_factory=Where)


@dataclass(frozen=True)
class Save:
    """One write: the state of this step, once, under all its names.

    Args:
        what: Which parts.
        names: Names for it; those that may replace what stands there are in ``moves``.
        moves: Names among ``names`` that move here from another checkpoint.
        policies: Who wants it; ``BY_HAND`` among them for a save by hand.
        scores: All metrics of its step, those of the checkpoint that it replaces included.
        reason: Why, for the log line.
        label: The user's name for it.
    """

    what: What
    names: tuple[str, ...]
    moves: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    label: str | None = None


@dataclass(frozen=True)
class Amend:
    """What is added to a checkpoint that exists, instead of writing the same step again.

    Args:
        id: The checkpoint.
        names: Names that it gets as well; those that may replace what stands there are in ``moves``.
        moves: Names among ``names`` that move here from another checkpoint.
        policies: Policies that want it from now on.
        scores: Metrics measured at its step after it was saved.
        label: The user's name for it.
    """

    id: str
    names: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None


@dataclass(frozen=True)
class Plan:
    """The answer of ``plan``.

    Args:
        saves: What to write, one for each distinct ``What``.
        amends: What to add to checkpoints that exist; before the saves' names move.
        evict: Id to reason: what goes once every save is durable. A failed save runs none of it.
        drops: Name to reason: second names that go then, of checkpoints that stay under another.
        tallies: What each policy must remember from now on.
        declined: Policy to reason, where a trigger was due and makes no checkpoint.
    """

    saves: tuple[Save, ...] = ()
    amends: tuple[Amend, ...] = ()
    evict: Mapping[str, str] = field(default_factory=dict)
    drops: Mapping[str, str] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether there is anything to do on disk."""
        return bool(self.saves or self.amends)


def horizon(policies: Sequence[Policy], tallies: Mapping[str, Tally]) -> tuple[tuple[str, int], ...]:
    """Counters and numbers; while each is below its number, no policy is due at a bare batch end."""
    lowest: dict[str, int] = {}
    for policy in policies:
        for counter, number in policy.when.horizon(tallies.get(policy.name, Tally())):
            lowest[counter] = min(number, lowest.get(counter, number))
    return tuple(sorted(lowest.items()))


def plan(
    policies: Sequence[Policy],
    tallies: Mapping[str, Tally],
    moment: Moment,
    *,
    records: Sequence[Record],
    run: str,
    protected: Mapping[str, str] | None = None,
    abandoned: Collection[str] = (),
    taken: Collection[str] = (),
) -> Plan:
    """Decide one step.

    Args:
        policies: All that are registered, in order; names are unique.
        tallies: What each remembers.
        moment: The step.
        records: Every checkpoint of the folder.
        run: Id of the run that decides; it ranks and evicts its own records alone.
        protected: Id to reason: never evicted, never replaced (what was resumed from, the last good one).
        abandoned: Ids of the run's checkpoints that the state at hand does not come from, for the run went back
            to an earlier one: none of them holds this step, whatever its counters say.
        taken: Names that are taken in the folder, by whatever.
    """
    due, remembered = due_at(moment, policies, tallies)
    manual = [r for r in moment.requests if r.event is Event.MANUAL]
    if not due and not manual:
        return Plan(tallies=remembered)
    step = _Step(policies, moment, records, run, protected or {}, abandoned, taken)
    for what in dict.fromkeys(p.what for p in policies if p.name in due):
        step.add({p.name: due[p.name] for p in policies if p.name in due and p.what == what}, what)
    for request in manual:
        step.add({BY_HAND: request.reason}, full, label=request.label)
    return step.finish(remembered)


def _told(before: str, due: Mapping[str, str], kept: Mapping[str, str]) -> str:
    """Why a step is saved, each reason once; an alias that goes along with others is none."""
    triggers = [due[name] for name, why in kept.items() if why and name in due]
    triggers = triggers or [due[name] for name in kept if name in due]
    ranks = [rank for why in kept.values() for rank in why.split("; ")]
    return "; ".join(dict.fromkeys(filter(None, [before, *triggers, *ranks])))


class _Step:
    """The folder as it will be after one step, put together policy by policy."""

    def __init__(
        self,
        policies: Sequence[Policy],
        moment: Moment,
        records: Sequence[Record],
        run: str,
        protected: Collection[str],
        abandoned: Collection[str],
        taken: Collection[str],
    ) -> None:
        # In one order, so that the plan cannot depend on how the folder was listed.
        records = sorted(records, key=lambda r: (r.order, r.id))
        self.policies = policies
        self.moment = moment
        self.run = run
        self.protected = protected
        self.abandoned = abandoned
        self.taken = taken
        self.others = [r for r in records if r.run != run]
        self.before = {r.id: r for r in records if r.run == run}
        self.after = dict(self.before)
        self.new: dict[str, What] = {}
        self.superseded: dict[str, str] = {}
        self.declined: dict[str, str] = {}

    def add(self, due: Mapping[str, str], what: What, *, label: str | None = None) -> None:
        """Let those who are due have this step: by the checkpoint that holds it already, or by a new one."""
        now = self.moment.progress
        same = [r for r in self.after.values() if r.progress.steps == now.steps and r.what == str(what)]
        same = [r for r in same if r.id not in self.abandoned]
        record = next((r for r in reversed(same) if r.progress == now), None)
        if record is None:
            record = self._candidate(what)
        else:
            record = self.after[record.id] = _scored(record, self.moment.scores())
        replaced = [r for r in same if r.order < record.order and self._may_go(r)]
        for older in reversed(replaced):
            record = _scored(record, {m: v for m, v in older.scores.items() if m not in record.scores})
        kept = self._kept(record, due, what, replaced)
        if not kept.keys() & due.keys():
            return
        if record.id not in self.before:
            record = replace(record, reason=_told(record.reason, due, kept))
            self.new[record.id] = what
        policies = tuple(dict.fromkeys([*record.policies, *kept]))
        self.after[record.id] = replace(record, policies=policies, label=label or record.label)
        for older in replaced:
            del self.after[older.id]
            self.superseded[older.id] = "replaced by the later save of the same step"

    def _kept(self, record: Record, due: Mapping[str, str], what: What, replaced: Sequence[Record]) -> dict[str, str]:
        """Who keeps this step, of those who are due, had what it replaces, or follow every save; and why."""
        inherited = {name for r in replaced for name in r.policies}
        kept: dict[str, str] = {}
        for policy in self.policies:
            # An alias without files of its own points at the newest there is.
            follows = policy.where.template is None
            if policy.what != what or not (follows or policy.name in due or policy.name in inherited):
                continue
            rest = [r for r in self.after.values() if r.id != record.id and r not in replaced]
            rest = [r for r in rest if policy.name in r.policies]
            why = policy.which.keep([*rest, record]).get(record.id)
            if why is not None:
                kept[policy.name] = "" if follows else why
            elif policy.name in due:
                self.declined[policy.name] = f"{due[policy.name]}: not kept by {policy.which}"
        if BY_HAND in due:
            kept[BY_HAND] = ""
        return kept

    def finish(self, tallies: Mapping[str, Tally]) -> Plan:
        """Names for what is kept, and what goes."""
        changed = [r for r in self.after.values() if r != self.before.get(r.id)]
        if not changed:
            return Plan(tallies=tallies, declined=self.declined)
        keepers = self._keepers()
        newest = max(self.after.values(), key=lambda r: r.order)
        # Where what is new turns out not to be healthy, whoever publishes it spares those that are.
        healthy = max(self.after.values(), key=lambda r: (r.healthy, r.order))
        evict = dict(self.superseded)
        for record in self.after.values():
            if record.id not in (newest.id, healthy.id) and not keepers[record.id] and self._may_go(record):
                evict[record.id] = self._why_not(record)
        vacated = {name: self.before[id].what for id in evict for name in self.before[id].names}
        replaced = [name for id in self.superseded for name in self.before[id].names]
        names = Names(self.taken, vacated, replaced)
        for record in changed:
            self._claim(names, record)
        for record in (*self.others, *self.after.values()):
            if record.id not in evict:
                self._name_what_stays(names, record, keepers.get(record.id, []))
        saves = [self._save(names, self.after[id]) for id in self.new]
        amends = [self._amend(names, r) for r in (*self.others, *self.after.values()) if r.id not in self.new]
        return Plan(
            saves=tuple(saves),
            # Who loses an alias gets a name of its own first.
            amends=tuple(sorted((a for a in amends if a != Amend(a.id)), key=lambda a: bool(a.moves))),
            evict=evict,
            drops={
                name: reason
                for record in self.after.values()
                if record.id in self.before and record.id not in evict and record.id not in self.protected
                for name, reason in self._drops(names, record, keepers[record.id]).items()
            },
            tallies=tallies,
            declined=self.declined,
        )

    def _claim(self, names: Names, record: Record) -> None:
        """The names that go with what is new of a record: with those who want it, and with its label."""
        before = self.before.get(record.id, Record(record.id))
        own: dict[str, Where] = {}
        for policy in self.policies:
            if policy.name in record.policies and policy.name not in before.policies:
                if policy.where.template is not None:
                    own[name_of(policy.where, record)] = policy.where
                names.move_alias(record, alias_of(policy.where, record))
        by_hand = self._by_hand()
        aliases = {alias_of(policy.where, record) for policy in self.policies}
        if record.label is not None and record.label != before.label:
            own[labelled(by_hand, record)] = by_hand
        elif BY_HAND in record.policies and not own and not set(record.names) - aliases:
            own[name_of(by_hand, record)] = by_hand
        for name, where in own.items():
            names.give(record, where, name)

    def _name_what_stays(self, names: Names, record: Record, keepers: Sequence[Policy]) -> None:
        """A name of its own for what would be left without any."""
        if not names.of(record):
            where = next((p.where for p in keepers if p.where.template is not None), self._by_hand())
            names.give(record, where, name_of(where, record))

    def _drops(self, names: Names, record: Record, keepers: Sequence[Policy]) -> dict[str, str]:
        """The names of a checkpoint under which those knew it who do not keep it any more, others still do."""
        going = [p for p in self.policies if p.name in record.policies and p not in keepers]
        if record.pinned or not going:
            return {}
        reason = "; ".join(f"not kept by {p.which}" for p in going)
        there = replace(record, names=names.of(record))
        return dict.fromkeys(left_over(there, [p.where for p in going], [p.where for p in keepers]), reason)

    def _save(self, names: Names, record: Record) -> Save:
        given = names.given(record)
        return Save(
            what=self.new[record.id],
            names=given,
            moves=tuple(name for name in given if name in names.moves),
            policies=record.policies,
            scores=record.scores,
            reason=record.reason,
            label=record.label,
        )

    def _amend(self, names: Names, record: Record) -> Amend:
        before = self.before.get(record.id, record)
        given = names.given(record)
        return Amend(
            id=record.id,
            names=given,
            moves=tuple(name for name in given if name in names.moves),
            policies=tuple(name for name in record.policies if name not in before.policies),
            scores={m: v for m, v in record.scores.items() if _differs(before.scores.get(m), v)},
            label=record.label if record.label != before.label else None,
        )

    def _candidate(self, what: What) -> Record:
        own = self.before.values()
        return Record(
            id=f"new {len(self.new)}",
            run=self.run,
            run_ordinal=max((r.run_ordinal for r in own), default=0),
            sequence=max((r.sequence for r in own), default=0) + 1 + len(self.new),
            progress=self.moment.progress,
            scores=self.moment.scores(),
            what=str(what),
        )

    def _keepers(self) -> dict[str, list[Policy]]:
        """The policies that keep each checkpoint."""
        keeps = {p.name: p.which.keep([r for r in self.after.values() if p.name in r.policies]) for p in self.policies}
        return {id: [p for p in self.policies if id in keeps[p.name]] for id in self.after}

    def _may_go(self, record: Record) -> bool:
        """Whether rules may let it go: not what a user wants kept, nor what no policy of now knows."""
        known = any(p.name in record.policies for p in self.policies)
        users = record.pinned or BY_HAND in record.policies
        return known and not users and record.id not in self.protected

    def _why_not(self, record: Record) -> str:
        rules = "; ".join(str(p.which) for p in self.policies if p.name in record.policies)
        return f"no rule keeps it ({rules})"

    def _by_hand(self) -> Where:
        """How a checkpoint is named that no policy names: after the first one that names any."""
        return next((p.where for p in self.policies if p.where.template is not None), Where())


def _scored(record: Record, scores: Mapping[str, float]) -> Record:
    new = {name: value for name, value in scores.items() if _differs(record.scores.get(name), value)}
    return replace(record, scores={**record.scores, **new}) if new else record


def _differs(known: float | None, value: float) -> bool:
    return known is None or (known != value and not (math.isnan(known) and math.isnan(value)))


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, to be broadcast."""
    return {
        "saves": [{**vars(s), "what": vars(s.what)} for s in plan.saves],
        "amends": [vars(a) for a in plan.amends],
        "evict": dict(plan.evict),
        "drops": dict(plan.drops),
        "tallies": {n: {"fired": t.fired.to_json(), "armed": t.armed} for n, t in plan.tallies.items()},
        "declined": dict(plan.declined),
    }


def from_json(data: Mapping[str, Any]) -> Plan:
    """The plan that ``to_json`` wrote."""
    return Plan(
        saves=tuple(Save(**{**_tuples(s), "what": What(**_tuples(s["what"]))}) for s in data["saves"]),
        amends=tuple(Amend(**_tuples(a)) for a in data["amends"]),
        evict=data["evict"],
        drops=data["drops"],
        tallies={n: Tally(Progress.from_json(t["fired"]), t["armed"]) for n, t in data["tallies"].items()},
        declined=data["declined"],
    )


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
