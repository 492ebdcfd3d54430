"""What holds for every plan: random runs on a modelled disk, with saves that fail; and plans as JSON."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.policy.plan import BY_HAND, Amend, Plan, Policy, Save, from_json, horizon, plan, to_json
from holdfast.policy.values import Event, Moment, Progress, Record, Score, Tally
from holdfast.policy.what import What, full, trainable_only, weights_only
from holdfast.policy.when import When, at, every, never
from holdfast.policy.where import Where
from holdfast.policy.which import Which, best, everything, last, nothing, pinned
from holdfast.policy.which import every as every_steps
from modelled_run import BATCH, EPOCH, FIT, RUN, SIGNAL, TIME, VALIDATION, Disk, Training, by_hand, on_disk

small = st.integers(1, 4)
whens = st.lists(
    st.one_of(
        st.builds(lambda n: every(steps=n), small),
        st.builds(lambda n: every(batches=n), small),
        st.builds(lambda n: every(epochs=n), st.integers(1, 2)),
        st.builds(lambda n: every(epochs=n, on=VALIDATION), st.integers(1, 2)),
        st.builds(at, st.sampled_from(Event)),
    ),
    max_size=3,
).map(lambda many: When(tuple(t for when in many for t in when.triggers)))
whiches = st.lists(
    st.one_of(
        st.builds(best, small, st.just("loss")),
        st.builds(best, small, st.just("score"), st.just("max")),
        st.builds(last, small),
        st.builds(every_steps, small),
        st.sampled_from([everything(), nothing(), pinned()]),
    ),
    max_size=3,
).map(lambda many: Which(tuple(r for which in many for r in which.rules)))
whats = st.sampled_from([full, full, weights_only])
templates = st.sampled_from(["{epoch}-{step}", "{epoch}", "best", "{step}-{loss:.2f}"])


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    """One to three rules of a user, mostly with the alias that goes with them."""
    chosen = [
        Policy(f"rules {i}", draw(whens), draw(whiches), draw(whats), Where(draw(templates)))
        for i in range(draw(st.integers(1, 3)))
    ]
    if draw(st.integers(0, 3)):
        alias = Policy("last", draw(st.one_of(st.just(chosen[0].when), whens)), last(1), full, Where(None, "last"))
        chosen.insert(draw(st.integers(0, len(chosen))), alias)
    return tuple(chosen)


scores = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, math.nan, math.inf])
happenings = st.lists(
    st.one_of(
        st.just("batch"),
        st.just("batch"),
        st.sampled_from(
            [
                "batch, validated",
                "half a batch",
                "validated",
                "epoch over",
                "epoch over, validated",
                "fit over",
            ]
        ),
        st.sampled_from(["by hand", "labelled", "signal", "clock", "pin", "go back"]),
    ),
    max_size=25,
)
failures = st.lists(st.sampled_from([None, None, None, 0, 1]), min_size=1, max_size=5)


class Checked(Training):
    """A training whose every plan is held against what must be true of all plans."""

    def start(self, *, losses: list[float], failures: list[int | None], rng: random.Random) -> Checked:
        """The scores of its steps, over and over, and which of its plans fail, over and over."""
        self.losses, self.failures, self.rng = losses, failures, rng
        self.plans = 0
        self.saved: dict[str, Record] = {}
        return self

    def measure(self, name: str) -> None:
        """A metric's value is a function of the step: measured again, it is the same."""
        steps = self.progress.steps
        value = self.losses[(steps + len(name)) % len(self.losses)]
        self.metrics[name] = Score(value, steps)

    def checked(self, *events: Event, **more: object) -> None:
        """Plan, look at the plan, carry it out, look at the disk."""
        moment = self.moment(*events, **more)
        decided = self.decide(moment)
        self.look_at(decided, moment)
        assert repr(self.decide(moment, rng=self.rng)) == repr(decided)
        self.tallies = decided.tallies
        fails = self.failures[self.plans % len(self.failures)]
        self.plans += 1
        before = self.disk.ids
        self.disk.apply(decided, self.progress, durable=fails)
        self.look_at_disk(decided, [id for id in self.disk.ids if id not in before])

    def look_at(self, decided: Plan, moment: Moment) -> None:
        """What it does is allowed."""
        assert repr(from_json(json.loads(json.dumps(to_json(decided))))) == repr(decided)
        known = {policy.name for policy in self.policies}
        for id in decided.evict:
            record = self.disk.records[id]
            assert record.run == RUN
            assert not record.pinned
            assert id not in self.protected
            assert BY_HAND not in record.policies
            assert known & {*record.policies}
        whats = [save.what for save in decided.saves]
        assert len(set(whats)) == len(whats)
        own = [r for r in self.disk.records.values() if r.run == RUN and r.id not in self.abandoned]
        written = {r.what for r in own if r.progress == moment.progress}
        assert not written & {str(what) for what in whats}
        assert not {a.id for a in decided.amends} & {*decided.evict}
        assert decided.acts or not decided.evict
        for save in decided.saves:
            assert save.names
            assert {*save.moves} <= {*save.names}
            # Measured at this step: now, or for a checkpoint of the same step that this one replaces.
            measured = [moment.scores(), *(r.scores for r in own if r.progress.steps == moment.progress.steps)]
            assert all(any(repr(s.get(n)) == repr(v) for s in measured) for n, v in save.scores.items())

    def look_at_disk(self, decided: Plan, new: list[str]) -> None:
        """Nothing is lost that should be there."""
        records = self.disk.records
        names = [name for r in records.values() for name in r.names]
        assert all(r.names for r in records.values())
        assert len(set(names)) == len(names)
        self.saved.update({id: records[id] for id in new})
        for id in list(self.saved):
            if id in records:
                self.saved[id] = records[id]
            elif decided.evict.get(id, "").startswith("replaced"):
                del self.saved[id]
        if self.saved:
            assert max(self.saved, key=lambda id: self.saved[id].order) in records
        for policy in self.policies:
            got = [r for r in self.saved.values() if policy.name in r.policies]
            assert {*policy.which.keep(got)} <= {*records}
            if policy.where.alias == "last" and got:
                newest = max((r for r in got if r.id in records), key=lambda r: r.order)
                assert "last.ckpt" in newest.names


def play(training: Checked, what: str) -> None:
    """One thing that happens in a run."""
    now = training.progress
    if what in ("batch", "batch, validated", "half a batch"):
        epoch, batch = (now.epoch + 1, 1) if now.complete else (now.epoch, now.batch + 1)
        steps = now.steps + (what != "half a batch")
        training.progress = Progress(epoch, batch, False, now.batches + 1, steps, now.samples + 3)
        if training.rng.random() < 0.3:
            training.measure("score")
        training.checked(BATCH, follows=what == "batch, validated")
    elif what.startswith("epoch over"):
        training.progress = replace(now, complete=True)
        if what == "epoch over":
            training.checked(EPOCH)
    elif what == "fit over":
        training.checked(FIT)
    elif what in ("by hand", "labelled"):
        training.checked(Event.MANUAL, requests=[by_hand("a label" if what == "labelled" else None)])
    elif what in ("signal", "clock"):
        request = SIGNAL if what == "signal" else TIME
        training.checked(BATCH, Event.SIGNAL, requests=[request], follows=training.rng.random() < 0.5)
    elif what in ("pin", "go back"):
        own = [r for r in training.disk.records.values() if r.run == RUN]
        record = training.rng.choice(own)
        if what == "pin":
            training.disk.records[record.id] = replace(record, pinned=True)
        else:
            training.progress = record.progress
            training.metrics, training.tallies = {}, {}
            training.protected = {record.id: "the run went on from it"}
            training.abandoned |= {r.id for r in own if r.order > record.order}
    if what.endswith("validated"):
        training.measure("loss")
        training.checked(VALIDATION, *([EPOCH] if what.startswith("epoch") else []))


@settings(deadline=None, max_examples=400)
@example(  # back at a step with half of the next one done, whose score only the checkpoint there remembers
    (
        Policy("last", When((*every(steps=1).triggers, *every(epochs=1).triggers)), last(1), full, Where(None, "last")),
        Policy("rules 0", every(steps=1), best(1, "score", "max"), weights_only, Where("{epoch}-{step}")),
    ),
    ["batch", "half a batch", "go back", "epoch over"],
    [0.1],
    [None],
    random.Random(3),
)
@given(
    policies(),
    happenings,
    st.lists(scores, min_size=1, max_size=12),
    failures,
    st.randoms(use_true_random=False),
)
def test_whatever_happens_no_plan_loses_what_the_rules_keep(
    chosen: tuple[Policy, ...],
    what: list[str],
    losses: list[float],
    failures: list[int | None],
    rng: random.Random,
) -> None:
    """I2, I5, I7, I9 and the words of the rules, in a folder shared with other runs and files."""
    disk = Disk(foreign={"best-v1.ckpt", "epoch=0-v1.ckpt"})
    disk.put(
        on_disk("theirs", 3, "last.ckpt", run="other", run_ordinal=-1),
        on_disk("theirs too", 4, "epoch=0-step=2.ckpt", run="another", run_ordinal=-2),
        on_disk("forgotten", 0, "best.ckpt", policies=("no policy of now",)),
        on_disk("by hand", 0, "epoch=0-step=1.ckpt", policies=(BY_HAND,)),
    )
    training = Checked(chosen, disk).start(losses=losses, failures=failures, rng=rng)
    for happening in what:
        play(training, happening)


whole = st.integers(0, 40)
progresses = st.builds(
    Progress,
    epoch=whole,
    batch=whole,
    complete=st.booleans(),
    batches=whole,
    steps=whole,
    samples=whole,
)


@given(policies(), st.lists(progresses, min_size=4, max_size=4), progresses, st.booleans())
def test_the_horizon_is_exact_for_bare_batch_ends(
    chosen: tuple[Policy, ...], fired: list[Progress], more: Progress, armed: bool
) -> None:
    """Below it a plan does nothing and remembers nothing; from there on some policy fires."""
    tallies = {
        policy.name: Tally(progress, "because" if armed else None)
        for policy, progress in zip(chosen, fired, strict=False)
    }
    now = Progress(
        epoch=40,
        batches=more.batches + max(p.batches for p in fired) + 1,
        steps=more.steps + max(p.steps for p in fired),
    )
    decided = plan(chosen, tallies, Moment(frozenset({BATCH}), now), records=[], run=RUN)
    below = all(getattr(now, counter) < number for counter, number in horizon(chosen, tallies))
    assert below is not any(tally.fired == now for tally in decided.tallies.values())
    if below:
        assert decided == Plan(tallies=tallies)


def test_the_horizon_is_the_lowest_of_each_counter() -> None:
    """Two policies that count the same thing are one number; one that never fires is none."""
    chosen = [
        Policy("a", every(steps=7) | every(batches=5), last(1)),
        Policy("b", every(steps=10), last(1)),
        Policy("c", never(), last(1)),
    ]
    fired = {"a": Tally(Progress(steps=7, batches=7))}
    assert horizon(chosen, fired) == (("batches", 10), ("steps", 10))
    assert horizon(chosen[2:], {}) == ()


text = st.text(max_size=5)
names = st.lists(text, max_size=3).map(tuple)
metrics = st.dictionaries(text, st.one_of(st.floats(), st.integers()), max_size=3)
notes = st.dictionaries(text, text, max_size=3)
all_whats = st.builds(
    What,
    mode=st.sampled_from([full.mode, weights_only.mode, trainable_only.mode]),
    include=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    exclude=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
)
saves = st.builds(Save, all_whats, names, names, names, metrics, text, st.none() | text)
amends = st.builds(Amend, text, names, names, names, metrics, st.none() | text)
plans = st.builds(
    Plan,
    saves=st.lists(saves, max_size=2).map(tuple),
    amends=st.lists(amends, max_size=2).map(tuple),
    evict=notes,
    tallies=st.dictionaries(text, st.builds(Tally, progresses, st.none() | text), max_size=2),
    declined=notes,
)


@given(plans)
@example(Plan(saves=(Save(full, ("a",), scores={"loss": math.nan, "score": -math.inf}),)))
def test_a_plan_survives_being_broadcast_as_json(decided: Plan) -> None:
    """Every rank has the same plan, with NaN, infinities, types and order."""
    assert repr(from_json(json.loads(json.dumps(to_json(decided))))) == repr(decided)
