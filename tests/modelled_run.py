"""A run on a modelled disk: it plans each of its moments, and the disk does what the plan says."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.policy.plan import Amend, Plan, Policy, Save, plan
from holdfast.policy.values import Event, Moment, Progress, Record, Request, Score, Tally
from holdfast.policy.what import What, full
from holdfast.policy.when import When, at, every
from holdfast.policy.where import Where
from holdfast.policy.which import Which, last

RUN = "run"
BATCH, EPOCH, VALIDATION, FIT = (
    Event.BATCH_END,
    Event.TRAIN_EPOCH_END,
    Event.VALIDATION_END,
    Event.FIT_END,
)
ALWAYS = every(steps=1) | at(FIT)


@dataclass
class Disk:
    """A folder, modelled: it does what a plan says, and refuses what would lose a checkpoint."""

    records: dict[str, Record] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    written: int = 0

    @property
    def names(self) -> dict[str, str]:
        """Name to id."""
        return {name: r.id for r in self.records.values() for name in r.names}

    @property
    def ids(self) -> list[str]:
        """The checkpoints that are there, in the order in which they came."""
        return list(self.records)

    def put(self, *records: Record) -> None:
        """These are there as well."""
        self.records.update({r.id: r for r in records})

    def apply(self, decided: Plan, progress: Progress, *, durable: int | None = None) -> None:
        """Carry out a plan, of whose saves only the first ``durable`` succeed."""
        for amend in decided.amends:
            self._amend(amend, decided.evict)
        new = [self._save(save, progress, decided.evict) for save in decided.saves[:durable]]
        if len(new) == len(decided.saves):
            for id in decided.evict:
                self.records.pop(id, None)

    def _amend(self, amend: Amend, going: Collection[str]) -> None:
        record = self.records[amend.id]
        self.records[amend.id] = replace(
            record,
            policies=(*record.policies, *amend.policies),
            scores={**record.scores, **amend.scores},
            label=amend.label or record.label,
        )
        for name in amend.names:
            self._give(amend.id, name, move=name in amend.moves, going=going)

    def _save(self, save: Save, progress: Progress, going: Collection[str]) -> str:
        self.written += 1
        id = f"#{self.written}"
        self.records[id] = Record(
            id=id,
            run=RUN,
            sequence=max((r.sequence for r in self.records.values() if r.run == RUN), default=0) + 1,
            progress=progress,
            scores=save.scores,
            policies=save.policies,
            reason=save.reason,
            label=save.label,
            what=str(save.what),
        )
        for name in save.names:
            self._give(id, name, move=name in save.moves, going=going)
        return id

    def _give(self, id: str, name: str, *, move: bool, going: Collection[str]) -> None:
        assert name not in self.records[id].names, "no name is given to the one that has it"
        holder = self.records.get(self.names.get(name, ""))
        assert move or (holder is None and name not in self.foreign), f"{name} is taken"
        if holder is not None:
            left = tuple(n for n in holder.names if n != name)
            assert left or holder.id in going, f"{holder.id} would be left without a name"
            self.records[holder.id] = replace(holder, names=left)
            if not left:
                del self.records[holder.id]  # its last name has gone to what replaces it
        self.foreign.discard(name)
        self.records[id] = replace(self.records[id], names=(*self.records[id].names, name))


@dataclass
class Training:
    """A run that plans each of its moments and has the disk follow."""

    policies: Sequence[Policy]
    disk: Disk = field(default_factory=Disk)
    progress: Progress = field(default_factory=Progress)
    metrics: dict[str, Score] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    protected: dict[str, str] = field(default_factory=dict)
    abandoned: set[str] = field(default_factory=set)

    def moment(self, *events: Event, follows: bool = False, requests: Sequence[Request] = ()) -> Moment:
        """This step, now."""
        return Moment(frozenset(events), self.progress, dict(self.metrics), follows, tuple(requests))

    def decide(self, moment: Moment, *, rng: random.Random | None = None) -> Plan:
        """The plan; with ``rng`` the folder is listed in another order."""
        records, taken = list(self.disk.records.values()), [*self.disk.names, *self.disk.foreign]
        if rng is not None:
            rng.shuffle(records)
            rng.shuffle(taken)
        return plan(
            self.policies,
            self.tallies,
            moment,
            records=records,
            run=RUN,
            protected=self.protected,
            abandoned=self.abandoned,
            taken=taken,
        )

    def happen(
        self,
        *events: Event,
        follows: bool = False,
        requests: Sequence[Request] = (),
        durable: int | None = None,
    ) -> Plan:
        """Plan what has happened, and do it; of the saves only the first ``durable`` succeed."""
        decided = self.decide(self.moment(*events, follows=follows, requests=requests))
        self.tallies = decided.tallies
        self.disk.apply(decided, self.progress, durable=durable)
        return decided

    def at(self, steps: int, **measured: float) -> Training:
        """Go on to a step of the first epoch, and measure there."""
        self.progress = Progress(batch=steps, batches=steps, steps=steps)
        self.metrics.update({name: Score(value, steps) for name, value in measured.items()})
        return self

    def save(self, steps: int, **measured: float) -> Plan:
        """A batch's end at ``steps`` at which ``measured`` is known."""
        return self.at(steps, **measured).happen(BATCH)

    def epoch_over(self) -> Training:
        """The epoch is complete."""
        self.progress = replace(self.progress, complete=True)
        return self


def rules(which: Which, when: When = ALWAYS, *, what: What = full, template: str = "{epoch}-{step}") -> Policy:
    """The policy of the user's rules."""
    return Policy("rules", when, which, what, Where(template))


def newest(when: When = ALWAYS) -> Policy:
    """The policy of the alias."""
    return Policy("last", when, last(1), full, Where(None, alias="last"))


def on_disk(id: str, steps: int, *names: str, **more: Any) -> Record:
    """A checkpoint of this run that ``rules`` asked for, in the order of its steps."""
    known = Record(
        id=id,
        names=names or (f"{id}.ckpt",),
        run=RUN,
        sequence=steps,
        progress=Progress(batch=steps, batches=steps, steps=steps),
        policies=("rules",),
    )
    return replace(known, **more)


def by_hand(label: str | None = None) -> Request:
    """A user's request."""
    return Request("by hand" if label is None else f"by hand: {label}", Event.MANUAL, label=label)


SIGNAL = Request("SIGTERM", Event.SIGNAL)
TIME = Request("600 s have passed", Event.BATCH_END)
