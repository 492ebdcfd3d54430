"""Decide what to save, under which names, and what to evict. Pure: the same arguments give the same plan on any rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.policy.values import Event, Moment, Progress, Record, Request, Tally
from holdfast.policy.what import What, full
from holdfast.policy.when import When
from holdfast.policy.where import Where
from holdfast.policy.which import Which, nothing

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
        reason: Why, for the log line.
        label: The user's name for it.
    """

    what: What
    names: tuple[str, ...]
    moves: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    reason: str = ""
    label: str | None = None


@dataclass(frozen=True)
class Amend:
    """What is added to a checkpoint that exists, instead of writing the same step again.

    Args:
        id: The checkpoint.
        names: Names that it gets as well.
        policies: Policies that want it from now on.
        scores: Metrics measured at its step after it was saved.
        label: The user's name for it.
    """

    id: str
    names: tuple[str, ...] = ()
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
        tallies: What each policy must remember from now on.
        declined: Policy to reason, where a trigger was due and makes no checkpoint.
    """

    saves: tuple[Save, ...] = ()
    amends: tuple[Amend, ...] = ()
    evict: Mapping[str, str] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether there is anything to do on disk."""
        return bool(self.saves or self.amends)


def horizon(policies: Sequence[Policy], tallies: Mapping[str, Tally]) -> tuple[tuple[str, int], ...]:
    """Counters and numbers below which a bare batch end needs no look at any policy: the lowest number of each."""
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
        taken: Names that are taken in the folder, by whatever.
    """
    due, remembered = _due(policies, tallies, moment)
    manual = [r for r in moment.requests if r.event is Event.MANUAL and r.policy is None]
    if not due and not manual:
        return Plan(tallies=remembered)
    step = _Step(policies, moment, [r for r in records if r.run == run], dict(protected or {}), set(taken))
    for what in dict.fromkeys(p.what for p in policies if p.name in due):
        step.add({p.name: due[p.name] for p in policies if p.name in due and p.what == what}, what)
    for request in manual:
        step.add({BY_HAND: request.reason}, full, label=request.label)
    return step.finish(remembered)


def _due(
    policies: Sequence[Policy], tallies: Mapping[str, Tally], moment: Moment
) -> tuple[dict[str, str], dict[str, Tally]]:
    """Who saves now and why, and what each remembers from now on."""
    remembered = {p.name: tallies.get(p.name, Tally()) for p in policies}
    due: dict[str, str] = {}
    waits: set[str] = set()
    scores = moment.scores()
    validated = Event.VALIDATION_END in moment.events
    for policy in policies:
        tally = remembered[policy.name]
        asked = [r for r in moment.requests if r.event is not Event.MANUAL and r.policy in (None, policy.name)]
        reason = asked[0].reason if asked else policy.when.due(moment.events, moment.progress, tally)
        if validated and tally.armed:
            reason, tally = reason or tally.armed, replace(tally, armed=None)
        if reason:
            due[policy.name] = reason
            tally = replace(tally, fired=moment.progress)
            unscored = policy.which.ranks() and not any(m in scores for m in policy.which.metrics)
            if unscored and not validated and not asked:
                tally = replace(tally, armed=reason)
                if policy.which.without_score() == nothing():
                    waits.add(policy.name)
        remembered[policy.name] = tally
    if moment.validation_follows and any(remembered[name].armed for name in due):
        # One save serves the whole step: all wait for the validation that runs at this very step.
        remembered.update({n: replace(remembered[n], armed=reason) for n, reason in due.items()})
        return {}, remembered
    return {name: reason for name, reason in due.items() if name not in waits}, remembered


class _Step:
    """The plan of one step while it is put together."""

    def __init__(
        self,
        policies: Sequence[Policy],
        moment: Moment,
        own: Sequence[Record],
        protected: dict[str, str],
        taken: set[str],
    ) -> None:
        self.policies = policies
        self.moment = moment
        self.own = {r.id: r for r in own}
        self.protected = protected
        self.taken = taken
        self.new: dict[str, Record] = {}
        self.whats: dict[str, What] = {}
        self.amends: dict[str, Amend] = {}
        self.superseded: dict[str, str] = {}
        self.declined: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def add(self, due: Mapping[str, str], what: What, *, label: str | None = None) -> None:
        """Let those who are due have this step: by a new checkpoint, or by the one that has it already."""
        same = self._same_step(what)
        identical = next((r for r in same if r.progress == self.moment.progress), None)
        if identical is not None:
            self._adopt(identical, due, label)
            return
        # An alias without files of its own points at the newest there is: it goes along with every save.
        followers = {p.name: "" for p in self.policies if p.what == what and p.where.template is None}
        inherited = {name: "" for r in same for name in r.policies if self._policy(name)}
        wanted = {**followers, **inherited, **due}
        candidate = self._candidate(what, wanted, {k: v for r in same for k, v in r.scores.items()})
        gone = {r.id: "replaced by the later save of the same step" for r in same if self._may_go(r)}
        kept: dict[str, str] = {}
        for name in wanted:
            policy = self._policy(name)
            if policy is None:
                kept[name] = ""  # by hand: kept without a rule
                continue
            visible = [r for r in self.own.values() if name in r.policies and r.id not in gone]
            why = policy.which.keep([*visible, candidate]).get(candidate.id)
            if why is not None:
                kept[name] = why
            elif name in due:
                self.declined[name] = f"{due[name]}: not kept by {policy.which}"
        if any(name in due or name in inherited for name in kept):
            self.superseded.update(gone)
            reasons = [*(due[n] for n in kept if n in due), *(kept[n] for n in kept if n not in followers)]
            reason = "; ".join(dict.fromkeys(filter(None, reasons)))
            self.new[candidate.id] = replace(candidate, policies=tuple(kept), reason=reason, label=label)
            self.whats[candidate.id] = what

    def finish(self, tallies: Mapping[str, Tally]) -> Plan:
        """Names for what is kept, and what goes."""
        after = {id: r for id, r in {**self.own, **self.new}.items() if id not in self.superseded}
        wanted = {id: self._keepers(id, after) for id in after}
        evict = dict(self.superseded)
        if self.new or self.amends:
            evict |= {id: self._why_not(after[id]) for id in after if not wanted[id] and self._may_go(after[id])}
        saves = [self._save(r, wanted[r.id], evict) for r in self.new.values()]
        moved = {name for save in saves for name in save.moves}
        for id, keepers in wanted.items():
            if id in self.own and id not in evict:
                self._name_kept(after[id], keepers, moved)
        amends = {i: a for i, a in self.amends.items() if i in self.own and a != Amend(i)}
        return Plan(tuple(saves), tuple(amends.values()), evict, tallies, self.declined)

    def _save(self, record: Record, keepers: Sequence[str], evict: Mapping[str, str]) -> Save:
        own: dict[str, Where] = {}
        aliases: dict[str, None] = {}
        for policy in self._namers(record, keepers):
            if policy.where.template is not None:
                name = policy.where.name(record.progress, record.scores)
                if policy.name == BY_HAND and record.label:
                    name = _labelled(name, record.label)
                own[name] = policy.where
            alias = policy.where.alias_name(record.progress, record.scores)
            if alias is not None:
                aliases[alias] = None
        names, moves = [], list(aliases)
        for name, where in own.items():
            holder = next((r for r in self.own.values() if name in r.names), None)
            if holder is not None and holder.id in evict:
                moves.append(name)
            else:
                name = where.versioned(name, self.taken)
            self.taken.add(name)
            names.append(name)
        return Save(
            self.whats[record.id],
            (*names, *aliases),
            tuple(moves),
            record.policies,
            record.reason,
            record.label,
        )

    def _name_kept(self, record: Record, keepers: Sequence[str], moved: Collection[str]) -> None:
        """Give a checkpoint that stays a name of its own, where its only names are aliases or about to move."""
        amend = self.amends.get(record.id, Amend(record.id))
        aliases = {p.where.alias_name(record.progress, record.scores) for p in self.policies}
        own = [n for n in record.names if n not in aliases and n not in moved]
        stays = [n for n in record.names if n not in moved]
        namers = [p for p in self._namers(record, keepers) if p.where.template is not None]
        if (own and not amend.label) or (stays and not namers):
            return
        where = namers[0].where if namers else self._user().where
        name = where.name(record.progress, record.scores)
        if amend.label:
            name = _labelled(name, amend.label)
        name = where.versioned(name, self.taken)
        self.taken.add(name)
        self.amends[record.id] = replace(amend, names=(*amend.names, name))

    def _adopt(self, record: Record, due: Mapping[str, str], label: str | None) -> None:
        """The step is on disk already, or in this plan: what is new of it is only said."""
        scores = {k: v for k, v in self.moment.scores().items() if not _same_number(record.scores.get(k), v)}
        policies = tuple(name for name in due if name not in record.policies)
        amended = replace(
            record,
            scores={**record.scores, **scores},
            policies=(*record.policies, *policies),
            label=label or record.label,
        )
        if record.id in self.new:
            self.new[record.id] = amended
            return
        self.own[record.id] = amended
        self.amends[record.id] = Amend(record.id, policies=policies, scores=scores, label=label)

    def _candidate(self, what: What, wanted: Mapping[str, str], scores: Mapping[str, float]) -> Record:
        newest = max((r.sequence for r in self.own.values()), default=0)
        ordinal = max((r.run_ordinal for r in self.own.values()), default=0)
        run = next(iter(self.own.values())).run if self.own else ""
        return Record(
            id=f"new {len(self.new)}",
            run=run,
            run_ordinal=ordinal,
            sequence=newest + 1 + len(self.new),
            progress=self.moment.progress,
            scores={**scores, **self.moment.scores()},
            policies=tuple(wanted),
            what=str(what),
        )

    def _keepers(self, id: str, after: Mapping[str, Record]) -> tuple[str, ...]:
        """Names of the policies that keep a record, and ``BY_HAND`` where the user does."""
        names = [BY_HAND] if BY_HAND in after[id].policies else []
        for policy in self.policies:
            if policy.name in after[id].policies:
                visible = [r for r in after.values() if policy.name in r.policies]
                if id in policy.which.keep(visible):
                    names.append(policy.name)
        return tuple(names)

    def _same_step(self, what: What) -> list[Record]:
        steps = self.moment.progress.steps
        known = [*self.own.values(), *self.new.values()]
        return [r for r in known if r.progress.steps == steps and r.what == str(what)]

    def _may_go(self, record: Record) -> bool:
        """Whether rules may let it go. Not what a user pinned or saved by hand, nor what no rule of now knows."""
        return (
            record.id in self.own
            and record.id not in self.protected
            and not record.pinned
            and BY_HAND not in record.policies
            and any(self._policy(name) for name in record.policies)
        )

    def _why_not(self, record: Record) -> str:
        rules = "; ".join(str(p.which) for p in self.policies if p.name in record.policies)
        return f"no rule keeps it ({rules})"

    def _policy(self, name: str) -> Policy | None:
        return next((p for p in self.policies if p.name == name), None)

    def _namers(self, record: Record, keepers: Sequence[str]) -> list[Policy]:
        """Whose names a record gets: those of the policies that keep it, and the user's."""
        by_hand = [self._user()] if BY_HAND in record.policies else []
        return [*by_hand, *(p for p in self.policies if p.name in keepers)]

    def _user(self) -> Policy:
        """The user as a policy: names are as the first policy that has any makes them."""
        named = [p for p in self.policies if p.where.template is not None]
        where = replace(named[0].where, alias=None) if named else Where()
        return Policy(BY_HAND, When(), nothing(), full, where)


def _same_number(a: float | None, b: float) -> bool:
    return a == b or (a is not None and a != a and b != b)


def _labelled(name: str, label: str) -> str:
    stem, dot, extension = name.rpartition(".")
    safe = "".join(c if c.isalnum() or c in "-_=+" else "-" for c in label)[:100]
    return f"{stem}-{safe}{dot}{extension}"


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, to be broadcast."""
    return {
        "saves": [{**vars(s), "what": vars(s.what)} for s in plan.saves],
        "amends": [vars(a) for a in plan.amends],
        "evict": dict(plan.evict),
        "tallies": {n: {"fired": t.fired.to_json(), "armed": t.armed} for n, t in plan.tallies.items()},
        "declined": dict(plan.declined),
    }


def from_json(data: Mapping[str, Any]) -> Plan:
    """The plan that ``to_json`` wrote."""
    return Plan(
        saves=tuple(
            Save(**{**_tuples(s), "what": What(**_tuples(s["what"]))})
            for s in data["saves"]
        ),
        amends=tuple(Amend(**_tuples(a)) for a in data["amends"]),
        evict=data["evict"],
        tallies={n: Tally(Progress.from_json(t["fired"]), t["armed"]) for n, t in data["tallies"].items()},
        declined=data["declined"],
    )


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
