"""When a checkpoint is due: tables for each trigger, and properties of the horizon and of unions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from operator import or_

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigError
from holdfast.policy.values import Event, Progress, Tally
from holdfast.policy.when import When, at, every, never

BATCH = frozenset({Event.BATCH_END})
EPOCH = frozenset({Event.TRAIN_EPOCH_END})
VALIDATION = frozenset({Event.VALIDATION_END})


def join(whens: list[When]) -> When:
    """Their union."""
    return reduce(or_, whens, never())


counters = st.sampled_from(["steps", "batches", "samples"])
intervals = st.integers(1, 50)
counts = st.builds(lambda counter, n: every(**{counter: n}), counters, intervals)
whens = st.lists(
    st.one_of(
        counts,
        st.builds(lambda n: every(epochs=n), intervals),
        st.builds(lambda n: every(epochs=n, on=Event.VALIDATION_END), intervals),
        st.builds(lambda s: every(seconds=s), st.floats(0.001, 1e6)),
        st.builds(at, st.sampled_from(Event)),
    ),
    max_size=5,
).map(join)
progresses = st.builds(
    Progress,
    epoch=st.integers(0, 60),
    batch=st.integers(0, 60),
    complete=st.booleans(),
    batches=st.integers(0, 300),
    steps=st.integers(0, 300),
    samples=st.integers(0, 300),
)


@pytest.mark.parametrize("counter", ["steps", "batches", "samples"])
@pytest.mark.parametrize(
    ("n", "fired", "now", "due"),
    [
        (500, 0, 499, False),
        (500, 0, 500, True),
        (500, 500, 500, False),
        (500, 500, 999, False),
        (500, 500, 1000, True),
        (500, 499, 503, True),  # the multiple was jumped over
        (500, 503, 999, False),  # the late save does not move the grid
        (500, 503, 1001, True),
        (500, 0, 5000, True),
        (1, 7, 8, True),
        (3, 0, 0, False),
    ],
)
def test_counts_fire_at_the_first_batch_end_at_or_past_each_multiple(
    counter: str, n: int, fired: int, now: int, due: bool
) -> None:
    """Every multiple gives one save, late if it was jumped over, and only at a batch's end."""
    when = every(**{counter: n})
    tally = Tally(fired=Progress(**{counter: fired}))
    progress = Progress(**{counter: now})
    assert when.due(BATCH, progress, tally) == (str(when) if due else None)
    assert when.due(frozenset(Event) - BATCH, progress, tally) is None


@pytest.mark.parametrize("jumps", [[1], [2], [3], [2, 3], [7], [1, 1, 9]])
def test_a_run_saves_once_for_each_multiple_however_its_steps_jump(jumps: list[int]) -> None:
    """With two or three optimizers a batch, each interval that a batch ends in gives exactly one save."""
    when, tally, steps, saved = every(steps=5), Tally(), 0, []
    for batch in range(60):
        steps += jumps[batch % len(jumps)]
        if when.due(BATCH, Progress(steps=steps), tally):
            tally = replace(tally, fired=Progress(steps=steps))
            saved.append(steps // 5)
    seen = {total // 5 for total in _totals(jumps, 60)} - {0}
    assert saved == sorted(seen)


def _totals(jumps: list[int], batches: int) -> list[int]:
    return [sum(jumps[b % len(jumps)] for b in range(last + 1)) for last in range(batches)]


@pytest.mark.parametrize(
    ("n", "fired", "epochs", "due"),
    [(1, 0, 1, True), (2, 0, 1, False), (2, 0, 2, True), (2, 2, 3, False), (2, 1, 2, True), (3, 2, 7, True)],
)
def test_epochs_fire_at_a_training_epochs_end(n: int, fired: int, epochs: int, due: bool) -> None:
    """Epochs are counted when complete, and other events of the same counters do not fire."""
    when = every(epochs=n)
    progress = Progress(epoch=epochs - 1, complete=True)
    tally = Tally(fired=Progress(epoch=fired))
    assert when.due(EPOCH, progress, tally) == (str(when) if due else None)
    assert when.due(BATCH | VALIDATION, progress, tally) is None


def test_epochs_at_validation_fire_only_where_both_intervals_divide() -> None:
    """Of 12 epochs, validated every 3rd, every 2 saves 6 and 12 (ModelCheckpoint API page, Lightning 1.5)."""
    when, tally, saved = every(epochs=2, on=Event.VALIDATION_END), Tally(), []
    for epoch in range(12):
        if (epoch + 1) % 3 == 0:
            progress = Progress(epoch=epoch)
            if when.due(BATCH | VALIDATION, progress, tally):
                tally = Tally(fired=progress)
                saved.append(epoch + 1)
        assert when.due(BATCH | EPOCH, Progress(epoch=epoch, complete=True), tally) is None
    assert saved == [6, 12]


def test_epochs_at_validation_fire_at_every_validation_of_the_epoch() -> None:
    """Several validations in one epoch are several saves: each may be the best."""
    when = every(epochs=2, on=Event.VALIDATION_END)
    first = Progress(epoch=1, batch=4, steps=4)
    assert when.due(VALIDATION, first, Tally()) == "every 2 epochs at validation end"
    assert when.due(VALIDATION, replace(first, batch=8, steps=8), Tally(fired=first)) is not None


@pytest.mark.parametrize("event", list(Event))
def test_at_fires_at_its_event_and_no_other(event: Event) -> None:
    """Each event has its own trigger."""
    assert at(event).due(frozenset({event}), Progress(), Tally()) == str(at(event))
    assert at(event).due(frozenset(Event) - {event}, Progress(), Tally()) is None


@given(whens, progresses, progresses)
def test_clocks_never_fire_by_themselves(when: When, now: Progress, fired: Progress) -> None:
    """Adding a time trigger changes no answer: only its owner's request can."""
    timed = when | every(minutes=10)
    for events in (frozenset(), BATCH, frozenset(Event)):
        assert timed.due(events, now, Tally(fired=fired)) == when.due(events, now, Tally(fired=fired))


def test_never_is_never_due() -> None:
    """No event and no progress makes it fire, and the loop has nothing to compare."""
    assert never().due(frozenset(Event), Progress(9, 9, True, 9, 9, 9), Tally()) is None
    assert never().horizon(Tally()) == ()
    assert never().intervals == ()


advances = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))


@given(st.one_of(st.lists(counts, min_size=1, max_size=4).map(join), whens), progresses, advances)
def test_below_the_horizon_nothing_is_due_and_at_it_something_is(
    when: When, fired: Progress, advance: tuple[int, int, int]
) -> None:
    """The loop's integer comparison agrees with ``due`` at every bare batch end, whatever the counters."""
    steps, batches, samples = advance
    now = Progress(steps=fired.steps + steps, batches=fired.batches + batches, samples=fired.samples + samples)
    tally = Tally(fired=fired)
    below = all(getattr(now, counter) < number for counter, number in when.horizon(tally))
    assert (when.due(BATCH, now, tally) is None) == below


def test_the_horizon_names_each_counter_once() -> None:
    """Of two triggers on one counter the nearer counts, and a trigger at batch ends means always asking."""
    when = every(steps=10) | every(steps=4) | every(samples=100)
    assert when.horizon(Tally(fired=Progress(steps=9, samples=250))) == (("steps", 10), ("samples", 300))
    assert (every(batches=3) | at(Event.BATCH_END)).horizon(Tally()) == (("batches", 0),)


@given(whens, whens, progresses, progresses, st.frozensets(st.sampled_from(Event)))
def test_a_union_is_due_when_either_is(
    one: When, other: When, now: Progress, fired: Progress, events: frozenset[Event]
) -> None:
    """Joining loses no trigger and adds none; both reasons are said."""
    tally = Tally(fired=fired)
    reasons = [r for w in (one, other) for r in (w.due(events, now, tally) or "").split(" and ") if r]
    assert (one | other).due(events, now, tally) == (" and ".join(dict.fromkeys(reasons)) or None)


@given(whens, whens, whens)
def test_unions_are_associative_and_hold_no_trigger_twice(a: When, b: When, c: When) -> None:
    """``|`` can be grouped in any way, is idempotent, has ``never()`` as zero, and hashes as it compares."""
    assert (a | b) | c == a | (b | c)
    assert a | a == a == a | never() == never() | a
    assert hash(a | b) == hash(When(a.triggers) | When(b.triggers))


@pytest.mark.parametrize(
    ("when", "words", "seconds"),
    [
        (every(steps=500), "every 500 steps", ()),
        (every(steps=10_000), "every 10,000 steps", ()),
        (every(steps=1), "every step", ()),
        (every(batches=1), "every batch", ()),
        (every(samples=2), "every 2 samples", ()),
        (every(epochs=1), "every epoch", ()),
        (every(epochs=3, on=Event.TRAIN_EPOCH_END), "every 3 epochs", ()),
        (every(epochs=1, on=Event.VALIDATION_END), "every epoch at validation end", ()),
        (every(minutes=10), "every 10 minutes", (600.0,)),
        (every(seconds=600), "every 10 minutes", (600.0,)),
        (every(seconds=90), "every 90 seconds", (90.0,)),
        (every(seconds=0.5), "every 0.5 seconds", (0.5,)),
        (every(hours=1.5), "every 90 minutes", (5400.0,)),
        (every(minutes=60), "every hour", (3600.0,)),
        (at(Event.FIT_END, Event.EXCEPTION), "at fit end or on exception", ()),
        (at(Event.SIGNAL, Event.MANUAL), "on signal or on request", ()),
        (never(), "never", ()),
        (every(steps=500) | every(minutes=10), "every 500 steps or every 10 minutes", (600.0,)),
        (every(hours=2) | every(seconds=1), "every 2 hours or every second", (7200.0, 1.0)),
    ],
)
def test_a_when_reads_as_words_and_gives_its_intervals(when: When, words: str, seconds: tuple[float, ...]) -> None:
    """Log lines and plans print the words; the owner of the clock gets seconds."""
    assert str(when) == words
    assert when.intervals == seconds


def test_equal_times_in_other_units_are_equal() -> None:
    """Ten minutes are six hundred seconds, as values and in a union."""
    assert every(minutes=10) == every(seconds=600)
    assert every(minutes=10) | every(seconds=600) == every(minutes=10)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "got none"),
        ({"steps": 1, "epochs": 1}, "got steps and epochs"),
        ({"steps": 0}, "steps= is a whole number of at least 1, not 0"),
        ({"batches": -3}, "batches= is"),
        ({"samples": 1.5}, "samples= is a whole number"),
        ({"epochs": True}, "epochs= is a whole number"),
        ({"steps": "5"}, "not '5'"),
        ({"seconds": 0}, "seconds= is a number above 0"),
        ({"minutes": -1.0}, "minutes= is"),
        ({"hours": math.inf}, "hours= is"),
        ({"seconds": math.nan}, "seconds= is"),
        ({"hours": 10**400}, "hours= is"),
        ({"seconds": True}, "seconds= is"),
        ({"minutes": "10"}, "not '10'"),
        ({"steps": 5, "on": Event.VALIDATION_END}, "on= goes with epochs= only"),
        ({"epochs": 5, "on": Event.FIT_END}, "on= is Event.TRAIN_EPOCH_END or Event.VALIDATION_END"),
    ],
)
def test_every_refuses_what_cannot_work(arguments: dict[str, object], complaint: str) -> None:
    """A schedule that could not fire, or would mean two things, is refused by the name of the argument."""
    with pytest.raises(ConfigError) as caught:
        every(**arguments)
    assert complaint in str(caught.value)


def test_every_names_all_problems_at_once() -> None:
    """Nobody has to fix one mistake to hear of the next."""
    with pytest.raises(ConfigError) as caught:
        every(steps=0, minutes=-1, on=Event.VALIDATION_END)
    for complaint in ("steps= is", "minutes= is", "got steps and minutes", "on= goes with"):
        assert complaint in str(caught.value)


@pytest.mark.parametrize("events", [(), ("batch end",), (None,)])
def test_at_refuses_what_is_no_event(events: tuple[object, ...]) -> None:
    """A string that merely looks like an event is a mistake, not a trigger that never fires."""
    with pytest.raises(ConfigError, match=r"at\(\)"):
        at(*events)


def test_a_when_joins_only_a_when() -> None:
    """Joining with something else is a TypeError of Python's own."""
    with pytest.raises(TypeError):
        every(steps=1) | "every 2 steps"
