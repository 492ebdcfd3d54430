"""Where a run stands: written as Lightning's loops count it, and read back."""

from __future__ import annotations

import pytest

from holdfast.formats import loops
from holdfast.formats.loops import Stand
from holdfast.policy.values import Progress


def counts(*numbers):
    """The four counters of a loop in the order in which they go up."""
    return dict(zip(("ready", "started", "processed", "completed"), numbers, strict=True))


WRITTEN = {
    # Seen in files of Lightning 2.6.6, epochs of four batches.
    "an epoch's end": (
        {"progress": Progress(1, 4, True, 8, 8), "validated": True},
        (counts(2, 2, 2, 1), counts(8, 8, 8, 8), counts(4, 4, 4, 4), True, 8),
    ),
    "the end of a batch": (
        {"progress": Progress(0, 2, False, 2, 2)},
        (counts(1, 1, 0, 0), counts(2, 2, 2, 1), counts(2, 2, 2, 1), False, 1),
    ),
    "the end of the last batch": (
        {"progress": Progress(0, 4, False, 4, 4), "last_batch": True},
        (counts(1, 1, 0, 0), counts(4, 4, 4, 3), counts(4, 4, 4, 3), True, 3),
    ),
    "after a validation": (
        {"progress": Progress(0, 2, False, 2, 2), "validated": True},
        (counts(1, 1, 0, 0), counts(2, 2, 2, 2), counts(2, 2, 2, 2), False, 1),
    ),
    "between the batches of a step": (
        {"progress": Progress(0, 3, False, 3, 1), "window": True, "stepped": 1},
        (counts(1, 1, 0, 0), counts(3, 3, 3, 2), counts(3, 3, 3, 2), False, 1),
    ),
    "the beginning": ({"progress": Progress()}, (counts(0, 0, 0, 0),) * 3 + (False, 0)),
}


@pytest.mark.parametrize(("how", "seen"), WRITTEN.values(), ids=WRITTEN)
def test_the_counters_are_those_of_lightning(how, seen):
    """Each is where it stands in Lightning's own file of the same place."""
    fit = loops.written(**how)["fit_loop"]
    epochs, batches = fit["epoch_progress"], fit["epoch_loop.batch_progress"]
    assert epochs["current"] == epochs["total"]
    found = epochs["total"], batches["total"], batches["current"], batches["is_last_batch"]
    assert (*found, fit["epoch_loop.state_dict"]["_batches_that_stepped"]) == seen


@pytest.mark.parametrize("automatic", [True, False])
def test_steps_stand_where_they_are_looked_for(automatic):
    """With automatic optimisation in one loop, without it in another."""
    fit = loops.written(Progress(1, 4, True, 8, 16), automatic=automatic)["fit_loop"]
    steps = fit[loops.AUTOMATIC]["optimizer"]["step"]["total"], fit[loops.MANUAL]["total"]
    assert [s["completed"] for s in steps] == ([16, 0] if automatic else [0, 16])
    assert loops.read({"loops": {"fit_loop": fit}}).progress.steps == 16


@pytest.mark.parametrize("how", [how for how, _ in WRITTEN.values()], ids=WRITTEN)
def test_what_is_written_is_read_back(how):
    """The position is the same, whatever it is."""
    stand = loops.read({"loops": loops.written(**how)})
    assert stand.progress == how["progress"]
    # That gradients wait is not to be seen in it: the batch counts as one that stepped.
    assert stand.stepped == how.get("stepped", how["progress"].steps) + how.get("window", False)


def test_an_epoch_that_was_cut_short_is_gone_on_with():
    """Lightning calls it processed; its last batch is not the epoch's last."""
    state = {"loops": loops.written(Progress(1, 2, True, 6, 6))}
    state["loops"]["fit_loop"][loops.BATCHES]["is_last_batch"] = False
    assert loops.read(state).progress == Progress(1, 2, False, 6, 6)


def test_the_beginning_of_an_epoch_has_no_batch_yet():
    """There the counters of batches are still those of the epoch before."""
    state = {"loops": loops.written(Progress(0, 4, True, 4, 4))}
    epochs = {which: counts(2, 1, 1, 1) for which in ("total", "current")}
    state["loops"]["fit_loop"][loops.EPOCHS] = epochs
    assert loops.read(state) == Stand(Progress(1, 0, False, 4, 4), 4)


def test_a_batch_that_an_error_broke_off_is_not_done():
    """It was begun, and not processed."""
    state = {"loops": loops.written(Progress(0, 2, False, 2, 2))}
    batches = state["loops"]["fit_loop"][loops.BATCHES]
    batches["current"], batches["total"] = counts(3, 3, 2, 2), counts(3, 3, 2, 2)
    stand = loops.read(state)
    assert (stand.progress.batch, stand.validated) == (2, False)


def test_steps_that_do_not_divide_the_batches_say_that_gradients_wait():
    """Of three batches one was stepped after: the third waits for another."""
    stand = loops.read({"loops": loops.written(Progress(0, 3, False, 3, 1), window=True, stepped=1)})
    assert (stand.accumulating, stand.stepped) == (False, 2)  # one step in three batches may be any accumulation
    state = {"loops": loops.written(Progress(0, 3, False, 3, 1), window=True, stepped=1)}
    state["loops"]["fit_loop"][loops.AUTOMATIC]["optimizer"]["step"]["current"]["completed"] = 2
    assert loops.read(state).accumulating is True
