"""The front door: what it counts, when it saves, what it restores, what it finds and what it reads."""

# ruff: noqa: PT012, PT031  # what raises is a with block, and all that happens in it

from __future__ import annotations

import errno
import os
import random
import re
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from checkpointer.loop import BATCHES, Gone, build, damage, everything, kept, listing, train
from holdfast import (
    Checkpointer,
    ConfigError,
    Corrupt,
    Event,
    Incompatible,
    MemoryStore,
    NotFound,
    Progress,
    SaveFailed,
    StoreError,
    at,
    best,
    every,
    full,
    last,
    never,
    trainable_only,
    weights_only,
)
from holdfast import everything as all_of_them
from holdfast.engine.engine import SaveFailedWarning
from sameness import same

PATIENCE = 60.0  # seconds; only ever waited out by a test that fails
EACH = {"when": every(steps=1) | at(Event.VALIDATION_END, Event.TRAIN_EPOCH_END), "which": last(2)}


def run(folder, steps, *, when, which=None, validate_at=(), scores=None, **options):
    """A run of a bare model: so many steps, validations after some of them."""
    model = torch.nn.Linear(2, 2)
    with Checkpointer(folder, when=when, which=which, **options) as ckpt:
        start = ckpt.resume(model=model)
        for step in range(start.steps + 1, steps + 1):
            ckpt.step()
            if scores and step in scores:
                ckpt.validated({"val_loss": scores[step]})
    return model


def until(condition):
    """Look again and again, without sleeping, until it is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"


# Counting


def test_step_validated_and_epoch_end_count_what_a_loop_does():
    """Batches, steps and samples add up; an epoch's end completes it, and the next step begins the next one."""
    with Checkpointer(MemoryStore(), when=never()) as ckpt:
        assert ckpt.resume(model=torch.nn.Linear(1, 1)) == Progress()
        ckpt.step(samples=16)
        ckpt.step(samples=5)
        assert ckpt.progress == Progress(epoch=0, batch=2, batches=2, steps=2, samples=21)
        ckpt.validated({"val_loss": 1.0})
        ckpt.epoch_end()
        assert ckpt.progress == Progress(epoch=0, batch=2, complete=True, batches=2, steps=2, samples=21)
        assert ckpt.progress.epochs == 1
        ckpt.step()
        assert ckpt.progress == Progress(epoch=1, batch=1, batches=3, steps=3, samples=21)


def test_progress_comes_back_and_says_what_of_an_epoch_is_done(tmp_path):
    """After a resume in the middle of an epoch, its done batches are skipped; after its end, none of the next."""
    for gone_at, epochs, done in ((("step", 6), 1, 2), (("epoch_end", 8), 2, 0)):
        folder = tmp_path / gone_at[0]
        with pytest.raises(Gone), Checkpointer(folder, **EACH) as ckpt:
            train(ckpt, build(), gone_at=gone_at)
        with Checkpointer(folder, **EACH) as ckpt:
            start = ckpt.resume(**build().objects())
            assert (start.steps, start.epochs, start.samples) == (gone_at[1], epochs, 10 * gone_at[1])
            assert (start.done_in(epochs), start.done_in(epochs + 1)) == (done, 0)


# Exact resume

POINTS = [
    *(("step", step) for step in range(1, 3 * BATCHES + 1)),
    *(("validated", epoch * BATCHES) for epoch in (1, 2, 3)),
    *(("epoch_end", epoch * BATCHES) for epoch in (1, 2, 3)),
]


@pytest.fixture(scope="module")
def uninterrupted():
    """The end of a run of three epochs that nothing stopped."""
    state = build()
    with Checkpointer(MemoryStore(), when=never()) as ckpt:
        train(ckpt, state)
    return everything(state)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[0]}-{point[1]}")
def test_resuming_gives_the_same_state_as_never_having_stopped(point, uninterrupted, tmp_path):
    """Weights, moments, schedule, lists and generators are equal, bit for bit, wherever the run was stopped."""
    with pytest.raises(Gone), Checkpointer(tmp_path, **EACH) as ckpt:
        train(ckpt, build(), gone_at=point)
    state = build(seed=99)
    with Checkpointer(tmp_path, **EACH) as ckpt:
        train(ckpt, state)
    assert same(everything(state), uninterrupted)


def test_saving_does_not_change_the_run(uninterrupted):
    """A run that saves at every event ends as one that saves once at its end."""
    state = build()
    with Checkpointer(MemoryStore(), **EACH) as ckpt:
        train(ckpt, state)
    assert same(everything(state), uninterrupted)


def go_on(folder):
    """In another process: finish the run and keep what it came to."""
    state = build(seed=5)
    with Checkpointer(folder, **EACH) as ckpt:
        train(ckpt, state)
    torch.save(everything(state), Path(folder) / "end.pt")


def test_a_new_process_goes_on_exactly(forks, uninterrupted, tmp_path):
    """What is restored is in the file, not in the process that wrote it."""
    with pytest.raises(Gone), Checkpointer(tmp_path, **EACH) as ckpt:
        train(ckpt, build(), gone_at=("step", 6))
    with forks.start("checkpointer.test_checkpointer:go_on", str(tmp_path)) as child:
        assert child.wait() == 0
    assert same(torch.load(tmp_path / "end.pt", weights_only=False), uninterrupted)


def test_lists_and_dicts_are_filled_in_place_and_saved_as_they_were(tmp_path):
    """The loop's own objects get the state; what it does to them after a step is not in that step's file."""
    history, notes = [1, {"deep": [2.5]}], {"words": "before", "gone": 1}
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(history=history, notes=notes)
        ckpt.step()
        history[1]["deep"].append("after")
        history.append("after")
        notes.clear()
        saved = ckpt.load("last")
    assert saved == {**saved, "history": [1, {"deep": [2.5]}], "notes": {"words": "before", "gone": 1}}
    there, words = ["something"], {"else": 0}
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(history=there, notes=words)
        assert there == [1, {"deep": [2.5]}]
        assert words == {"words": "before", "gone": 1}


class LooksAtWeights:
    """An object that notes, when it is loaded, what the weights of a model are by then."""

    def __init__(self, model):
        self.model, self.seen = model, None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.seen = self.model.weight.item()


def test_models_are_restored_before_all_else(tmp_path):
    """What is given before a model is loaded after it."""
    model = torch.nn.Linear(1, 1)
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(first=LooksAtWeights(model), model=model)
        ckpt.step()
    other = torch.nn.Linear(1, 1)
    looks = LooksAtWeights(other)
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(first=looks, model=other)
    assert looks.seen == model.weight.item()


class DrawsOnLoad:
    """An object whose loading draws from every generator."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        torch.randn(3)
        random.random()


def test_the_random_state_is_restored_last(tmp_path):
    """What an object draws while it is loaded does not show in what the run draws next."""
    with pytest.raises(Gone), Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(thing=DrawsOnLoad())
        ckpt.step()
        expected = torch.randn(3).tolist(), random.random()
        raise Gone
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(thing=DrawsOnLoad())
        assert (torch.randn(3).tolist(), random.random()) == expected


# When


def test_a_rule_that_ranks_saves_at_the_validation_after_its_trigger(tmp_path):
    """The trigger at step 2 waits for the validation at 3, that at 4 has its score at once; `last` never waits."""
    run(tmp_path, 6, when=every(steps=2), which=best(3, "val_loss"), scores={3: 0.5, 4: 0.4})
    assert kept(tmp_path) == [("epoch=0-step=3.ckpt",), ("epoch=0-step=4.ckpt",), ("last.ckpt",)]
    assert [r.scores for r in listing(tmp_path).records] == [{"val_loss": 0.5}, {"val_loss": 0.4}, {}]


def test_a_metric_measured_late_ranks_the_step_that_was_saved_already(tmp_path):
    """Nothing is written twice: the score goes to the ledger, and decides which checkpoint is kept."""
    with Checkpointer(tmp_path, when=every(steps=1), which=best(1, "val_loss") | last(1)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        for score in (0.3, 0.2, 0.9):
            ckpt.step()
            ckpt.load("last")  # waits for the save
            inodes = {path.stat().st_ino for path in tmp_path.glob("*.ckpt")}
            ckpt.validated({"val_loss": score})
            ckpt.load("last")
            assert {path.stat().st_ino for path in tmp_path.glob("*.ckpt")} <= inodes
    assert [(r.progress.steps, r.scores) for r in listing(tmp_path).records] == [
        (2, {"val_loss": 0.2}),
        (3, {"val_loss": 0.9}),
    ]


def test_a_metric_of_another_step_does_not_rank(tmp_path):
    """A score belongs to the step at which it was measured: the step after a good validation has none."""
    with Checkpointer(tmp_path, when=every(steps=1), which=best(5, "val_loss") | last(5)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step(metrics={"val_loss": 0.1})
        ckpt.step()
    assert [r.scores for r in listing(tmp_path).records] == [{"val_loss": 0.1}, {}]


def test_a_validation_before_any_step_is_no_trouble(tmp_path):
    """A sanity check before training saves nothing, unless a rule asks for every validation."""
    for name, when, expected in (("steps", every(steps=5), []), ("each", at(Event.VALIDATION_END), [0])):
        with pytest.raises(Gone), Checkpointer(tmp_path / name, when=when, which=best(1, "val_loss")) as ckpt:
            ckpt.resume(model=torch.nn.Linear(1, 1))
            ckpt.validated({"val_loss": 3.0})
            raise Gone
        assert [r.progress.steps for r in listing(tmp_path / name).records] == expected


def test_time_saves_at_the_first_step_past_the_interval(tmp_path):
    """A short interval fires again and again; no step before it does, and the state saved is that of its step."""
    passed = [time.monotonic()]  # after each step
    with Checkpointer(tmp_path, when=every(seconds=0.05), which=last(100)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))

        def stepped():
            ckpt.step()
            passed.append(time.monotonic())
            return len(list(tmp_path.glob("epoch*.ckpt"))) >= 3

        until(stepped)
    saved = [r for r in listing(tmp_path).records if "0.05 s" in r.reason]
    assert len(saved) >= 3
    for number, record in enumerate(saved, start=1):
        assert passed[record.progress.steps] - passed[0] >= 0.05 * number


def test_samples_are_a_trigger(tmp_path):
    """A multiple that is jumped over still counts."""
    with Checkpointer(tmp_path, when=every(samples=100), which=all_of_them()) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        for _ in range(7):
            ckpt.step(samples=40)
    assert [r.progress.samples for r in listing(tmp_path).records] == [120, 200, 280]


# Busy


class GatedStore(MemoryStore):
    """A store whose checkpoints are published only while its gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def create(self, name, *, owner, size):
        assert self.gate.wait(PATIENCE)
        return super().create(name, owner=owner, size=size)


def test_skip_leaves_out_the_steps_at_which_a_save_is_being_written():
    """While the writer is busy no step waits; the first step that finds it free saves."""
    store = GatedStore()
    with Checkpointer(store, when=every(steps=1), which=all_of_them(), when_busy="skip") as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        for _ in range(5):
            ckpt.step()
        store.gate.set()

        def stepped():
            ckpt.step()
            return any(entry.name == "last.ckpt" for entry in store.list())

        until(stepped)
        ckpt.load("last")
        ckpt.step()
        newest = ckpt.progress.steps
    steps = [r.progress.steps for r in listing(store).records]
    assert steps[0] == 1
    assert not {2, 3, 4, 5} & set(steps)
    assert steps[-1] == newest


def test_wait_saves_every_step_however_slow_the_store_is():
    """A trigger that finds the writer busy waits for it: the gate opens only once the main thread stands there."""
    store, main = GatedStore(), threading.get_ident()

    def open_when_somebody_waits():
        def waits():
            frame = sys._current_frames()[main]
            while frame is not None and frame.f_code.co_name != "settle":
                frame = frame.f_back
            return frame is not None

        until(waits)
        store.gate.set()

    opener = threading.Thread(target=open_when_somebody_waits)
    with Checkpointer(store, when=every(steps=1), which=all_of_them(), when_busy="wait") as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
        opener.start()
        ckpt.step()
        opener.join()
        ckpt.step()
    assert [r.progress.steps for r in listing(store).records] == [1, 2, 3]


def test_skip_does_not_skip_a_save_by_hand_or_the_end_of_an_epoch():
    """Only bare steps are skipped; what will not come again waits."""
    store = GatedStore()
    with Checkpointer(store, when=every(steps=1) | every(epochs=1), which=all_of_them(), when_busy="skip") as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
        ckpt.step()
        opener = threading.Thread(target=store.gate.set)
        opener.start()
        ckpt.save("now")
        opener.join()
        ckpt.epoch_end()
    progresses = [(r.progress.steps, r.progress.complete) for r in listing(store).records]
    assert (2, False) in progresses
    assert (2, True) in progresses


# By hand


def test_a_save_by_hand_is_durable_when_it_returns_and_outlives_the_rules(tmp_path):
    """It has its label in its name, and no rule lets it go."""
    with Checkpointer(tmp_path, when=every(steps=1), which=last(1)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
        path = ckpt.save("before: lr/drop")
        assert path == tmp_path / "epoch=0-step=1-before--lr-drop.ckpt"
        assert torch.load(path, weights_only=True)["global_step"] == 1
        for _ in range(4):
            ckpt.step()
    by_hand, newest = listing(tmp_path).records
    assert path.name in by_hand.names
    assert by_hand.label == "before: lr/drop"
    assert newest.progress.steps == 5


def test_a_save_by_hand_needs_no_rule(tmp_path):
    """It is made at a step that no rule wants, without a label too, and at a step that is saved already."""
    with Checkpointer(tmp_path, when=never()) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
        first = ckpt.save()
        assert first.name == "epoch=0-step=1.ckpt"
        assert ckpt.save() == first
        assert ckpt.save("a").samefile(first)
        assert ckpt.save("b").name == "epoch=0-step=1-b.ckpt"
        ckpt.step()
        assert ckpt.save() == tmp_path / "epoch=0-step=2.ckpt"
    assert [r.progress.steps for r in listing(tmp_path).records] == [1, 2]


# Reading


@pytest.fixture
def three(tmp_path):
    """Three scored checkpoints of one run, the second the best; the weights at each step are the step's number."""
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Checkpointer(tmp_path, when=every(steps=1), which=best(3, "val_loss") | last(3)) as ckpt:
        ckpt.resume(model=model, optimizer=optimizer)
        for step, score in ((1, 0.5), (2, 0.1), (3, 0.9)):
            with torch.no_grad():
                model.weight.fill_(step)
            ckpt.step()
            ckpt.validated({"val_loss": score})
    return tmp_path


def weight(parts):
    return parts["model"]["weight"].item()


def test_load_reads_what_a_word_a_name_or_a_path_says(three, monkeypatch):
    """In a block or outside one, before a resume or after; all parts or some; nothing is changed by it."""
    ckpt = Checkpointer(three, when=never(), which=best(3, "val_loss"))
    monkeypatch.chdir(three)
    before = sorted(p.name for p in three.rglob("*"))
    for source, step in {
        "last": 3,
        "best": 2,
        "epoch=0-step=1.ckpt": 1,
        str(three / "epoch=0-step=2.ckpt"): 2,
        three / "last.ckpt": 3,
        "./epoch=0-step=1.ckpt": 1,
    }.items():
        assert weight(ckpt.load(source)) == step, source
    assert set(ckpt.load()) == {"model", "optimizer", "random", "fingerprint"}
    assert set(ckpt.load(parts=["optimizer"])) == {"optimizer"}
    assert ckpt.load(parts=[]) == {}
    assert ckpt.load(location="meta")["model"]["weight"].device.type == "meta"
    assert sorted(p.name for p in three.rglob("*")) == before


def test_best_is_by_the_rules_of_the_run_where_the_reader_has_none(three):
    """Another script, which knows nothing of the rules, gets what was best by them; never silently the last."""
    assert weight(Checkpointer(three, when=never()).load("best")) == 2


def test_there_is_no_best_where_no_rule_ranks(tmp_path):
    """What is best cannot be guessed: neither without a rule, nor without a score."""
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
        with pytest.raises(NotFound, match=r"no rule of this run ranks its checkpoints\. Say by what"):
            ckpt.load("best")
    with pytest.raises(NotFound, match="no checkpoint has a score for 'loss'"):
        Checkpointer(tmp_path, when=never(), which=best(1, "loss")).load("best")


def test_a_checkpoint_found_damaged_ranks_no_more(tmp_path):
    """Once a resume has passed over it, its place in the ranking is free, and its file stays for its owner to see."""
    model = torch.nn.Linear(1, 1)
    with Checkpointer(tmp_path, when=every(steps=1), which=best(1, "loss")) as ckpt:
        ckpt.resume(model=model)
        ckpt.step(metrics={"loss": 0.1})
    (only,) = tmp_path.glob("epoch*.ckpt")
    damage(only)
    with Checkpointer(tmp_path, when=every(steps=1), which=best(1, "loss")) as ckpt:
        assert ckpt.resume(model=model).steps == 0
        ckpt.step(metrics={"loss": 0.9})
        assert ckpt.load("best", parts=["model"])
    found = listing(tmp_path)
    assert [(r.scores["loss"], r.progress.steps) for r in found.records] == [(0.9, 1)]
    assert only.name in {s.name for s in found.strangers}


@pytest.mark.parametrize(("source", "step"), [("auto", 3), ("last", 3), ("best", 2), ("epoch=0-step=1.ckpt", 1)])
def test_resume_takes_what_the_source_says(three, source, step):
    """Words and names alike; the progress is that of the checkpoint."""
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(Gone), Checkpointer(three, when=never(), which=best(3, "val_loss")) as ckpt:
        assert ckpt.resume(source, model=model, optimizer=optimizer).steps == step
        assert model.weight.item() == step
        raise Gone


def test_fresh_begins_anew_whatever_is_there(three):
    """The objects stay as they are, the counters are zero, and what was there stays."""
    model, before = torch.nn.Linear(1, 1, bias=False), kept(three)
    weights = model.weight.clone()
    with Checkpointer(three, when=every(steps=1)) as ckpt:
        assert ckpt.resume("fresh", model=model) == Progress()
        assert torch.equal(model.weight, weights)
        ckpt.step()
    old, new = listing(three).records[:3], listing(three).records[3:]
    assert [r.names[0] for r in old] == [names[0] for names in before]
    assert [r.progress.steps for r in new] == [1]


def test_auto_walks_back_over_what_is_damaged_and_says_so(three, caplog):
    """The newest that verifies is taken; each one passed over is named, and the steps lost are counted."""
    damage(three / "epoch=0-step=3.ckpt", offset=5000)
    (three / "epoch=0-step=2.ckpt").chmod(0o644)
    os.truncate(three / "epoch=0-step=2.ckpt", 3000)
    model = torch.nn.Linear(1, 1, bias=False)
    with Checkpointer(three, when=never()) as ckpt:
        assert ckpt.resume(model=model).steps == 1
    assert model.weight.item() == 1
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("passed over 'epoch=0-step=3.ckpt'" in line for line in said)
    assert any("passed over 'epoch=0-step=2.ckpt'" in line for line in said)
    assert said[-1] == "going on from 'epoch=0-step=1.ckpt': 2 steps are lost"


def test_what_is_wrong_with_one_passed_over_is_said_once(three, caplog):
    """In the warning, in the listing and in the error of who names it: a reason, and no sentences of another error."""
    name, model = "epoch=0-step=3.ckpt", torch.nn.Linear(1, 1, bias=False)
    damage(three / name, offset=5000)
    with Checkpointer(three, when=never()) as ckpt:
        ckpt.resume(model=model)
    why = next(stranger.why for stranger in listing(three).strangers if stranger.name == name)
    assert re.fullmatch(r"tensor \S+ has CRC-32 \w{8}, not \w{8} as when it was saved", why)
    assert f"passed over '{name}': {why}" in caplog.messages
    with Checkpointer(three, when=never()) as ckpt, pytest.raises(Corrupt) as raised:
        ckpt.resume(name, model=model)
    assert raised.value.what == f"checkpoint '{three / name}' is corrupt: {why}."


def test_what_a_file_of_unknown_age_costs_is_said_to_be_unknown(three, caplog):
    """A stranger that is no checkpoint any more may have been older than what is gone on from."""
    (three / "of-somebody.ckpt").write_bytes((three / "epoch=0-step=1.ckpt").read_bytes()[:3000])
    with Checkpointer(three, when=never()) as ckpt:
        assert ckpt.resume(model=torch.nn.Linear(1, 1, bias=False)).steps == 3
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said[-1].startswith("going on from 'epoch=0-step=3.ckpt': it is not known whether steps are lost")


def test_auto_counts_the_steps_of_a_file_of_which_nothing_is_left(three, caplog):
    """The ledger remembers what the newest was, even when the file itself says nothing any more."""
    for name in ("epoch=0-step=3.ckpt", "last.ckpt"):
        (three / name).chmod(0o644)
        (three / name).write_bytes(b"x" * 10)
    with Checkpointer(three, when=never()) as ckpt:
        assert ckpt.resume(model=torch.nn.Linear(1, 1, bias=False)).steps == 2
    assert "going on from 'epoch=0-step=2.ckpt': 1 step is lost" in caplog.messages


def test_auto_starts_afresh_where_nothing_is_whole_and_loses_no_file(three, caplog):
    """All are damaged: the run begins at zero, says so, and leaves every file where it is."""
    for path in three.glob("epoch*.ckpt"):
        damage(path, offset=5000)
    inodes = {path.stat().st_ino for path in three.glob("*.ckpt")}
    with Checkpointer(three, when=every(steps=1)) as ckpt:
        assert ckpt.resume(model=torch.nn.Linear(1, 1, bias=False)) == Progress()
        ckpt.step()
    assert "going on from the beginning: 3 steps are lost" in caplog.messages
    assert inodes <= {path.stat().st_ino for path in three.glob("*.ckpt")}


def test_a_memory_store_is_a_directory_too():
    """Saves, resumes, paths of saves and words all work; the store is all that is kept."""
    store, model = MemoryStore(), torch.nn.Linear(1, 1)
    with Checkpointer(store, when=every(steps=1), which=last(2)) as ckpt:
        ckpt.resume(model=model)
        ckpt.step()
        path = ckpt.save("mine")
    assert path == "memory:/epoch=0-step=1-mine.ckpt"
    other = torch.nn.Linear(1, 1)
    with Checkpointer(store, when=every(steps=1)) as ckpt:
        assert ckpt.resume(model=other).steps == 1
        assert torch.equal(ckpt.load(path)["model"]["weight"], model.weight)
    assert torch.equal(other.weight, model.weight)


# What


def backbone_and_head():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(3, 3), "head": torch.nn.Linear(3, 1)})
    model["backbone"].requires_grad_(False)
    return model, torch.optim.Adam(model["head"].parameters())


@pytest.mark.parametrize(
    ("what", "parts", "keys"),
    [
        (weights_only, {"model"}, {"backbone.weight", "backbone.bias", "head.weight", "head.bias"}),
        (trainable_only, {"model"}, {"head.weight", "head.bias"}),
        (
            full.excluding("model.backbone.*"),
            {"model", "optimizer", "random", "fingerprint"},
            {"head.weight", "head.bias"},
        ),
        (
            full.including("model.*.bias"),
            {"model", "optimizer", "random", "fingerprint"},
            {"backbone.bias", "head.bias"},
        ),
    ],
    ids=["weights", "trainable", "excluding", "including"],
)
def test_what_says_what_the_files_of_the_rules_hold_and_last_holds_all(what, parts, keys, tmp_path):
    """The light files are the rules'; `last.ckpt` is another file, and the only one a resume takes."""
    model, optimizer = backbone_and_head()
    with Checkpointer(tmp_path, when=every(steps=1), which=last(1), what=what) as ckpt:
        ckpt.resume(model=model, optimizer=optimizer)
        ckpt.step()
    light = Checkpointer(tmp_path, when=never()).load("epoch=0-step=1.ckpt")
    assert set(light) == parts
    assert set(light["model"]) == keys
    whole = Checkpointer(tmp_path, when=never()).load("last")
    assert set(whole) == {"model", "optimizer", "random", "fingerprint"}
    assert len(whole["model"]) == 4
    other, adam = backbone_and_head()
    with Checkpointer(tmp_path, when=every(steps=1), which=last(1), what=what) as ckpt:
        assert ckpt.resume(model=other, optimizer=adam).steps == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


# Parts that may start afresh


def test_a_part_named_fresh_need_not_be_there(three):
    """It stays as it is where the checkpoint lacks it; where the checkpoint has it, it is restored."""
    model, extra = torch.nn.Linear(1, 1, bias=False), {"mine": 1}
    with pytest.raises(Gone), Checkpointer(three, when=every(steps=1), which=last(9)) as ckpt:
        ckpt.resume(model=model, extra=extra, fresh=["extra"])
        assert (model.weight.item(), extra) == (3, {"mine": 1})
        ckpt.step()
        raise Gone
    extra["mine"] = 2
    with Checkpointer(three, when=every(steps=1), which=last(9)) as ckpt:
        ckpt.resume(model=model, extra=extra, fresh=["extra"])
        assert extra == {"mine": 1}


# Ends


def test_leaving_the_block_saves_once_more_only_if_there_is_anything_new(tmp_path):
    """A step that is on disk is not written again; nor is a run that did nothing."""
    run(tmp_path / "new", 5, when=every(steps=2), which=all_of_them())
    assert [r.progress.steps for r in listing(tmp_path / "new").records] == [2, 4, 5]
    run(tmp_path / "new", 5, when=every(steps=2), which=all_of_them())
    assert [r.progress.steps for r in listing(tmp_path / "new").records] == [2, 4, 5]
    run(tmp_path / "old", 4, when=every(steps=2), which=all_of_them())
    assert [r.progress.steps for r in listing(tmp_path / "old").records] == [2, 4]
    run(tmp_path / "none", 0, when=every(steps=2))
    assert kept(tmp_path / "none") == []


@pytest.mark.parametrize("error", [RuntimeError("the loop's own"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_error_in_the_block_saves_nothing_and_goes_on_its_way(error, tmp_path):
    """The state may be half a step: what was saved stands, and the error is the loop's own."""
    with pytest.raises(type(error)) as caught, Checkpointer(tmp_path, when=every(steps=2)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        for _ in range(3):
            ckpt.step()
        raise error
    assert caught.value is error
    assert kept(tmp_path) == [("epoch=0-step=2.ckpt", "last.ckpt")]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("holdfast")]


def test_a_save_that_fails_while_an_error_goes_by_does_not_hide_it():
    """The loop's error is the one that is seen; that the save failed too is a warning, which points to the block."""

    class FullStore(GatedStore):
        def create(self, name, *, owner, size):
            raise StoreError("create", name, OSError(errno.ENOSPC, "No space left on device"))

    with (
        pytest.warns(SaveFailedWarning, match="No space left") as told,
        pytest.raises(Gone),
        ExitStack() as stack,
    ):
        ckpt = stack.enter_context(Checkpointer(FullStore(), when=every(steps=1)))
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
        raise Gone
    assert told[0].filename == __file__


def test_a_last_save_that_fails_raises_and_the_run_has_not_ended_clean(tmp_path):
    """Nobody tries again after the end: the failure is the error of the block."""

    class FailingStore(MemoryStore):
        def create(self, name, *, owner, size):
            raise StoreError("create", name, OSError(errno.ENOSPC, "No space left on device"))

    store = FailingStore()
    with pytest.raises(SaveFailed, match="No space left"), Checkpointer(store, when=never()) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
    assert listing(store).ended == frozenset()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("holdfast")]


@pytest.mark.parametrize(("sig", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("call", ["step", "validated", "epoch_end"])
def test_a_signal_is_answered_at_the_next_call_by_a_save_and_the_end(sig, end, call, tmp_path):
    """That very state is durable, whatever the rules are; then the program ends as the signal would end it."""
    before = signal.getsignal(sig)
    with pytest.raises(end) as ended, Checkpointer(tmp_path, when=never(), which=best(1, "val_loss")) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        for _ in range(3):
            ckpt.step()
        os.kill(os.getpid(), sig)
        getattr(ckpt, call)(**{"metrics": {"val_loss": 0.5}} if call == "validated" else {})
        raise AssertionError("the call has returned")
    assert signal.getsignal(sig) is before
    if sig == signal.SIGTERM:
        assert ended.value.code == 143
    (record,) = listing(tmp_path).records
    assert record.names == ("last.ckpt",)
    assert record.progress == ckpt.progress
    assert record.progress.steps == 3 + (call == "step")


def test_a_signal_during_the_last_save_still_ends_the_program(tmp_path):
    """It comes when no step follows: what is to be saved is saved, and the program ends all the same."""

    class Late(MemoryStore):
        def create(self, name, *, owner, size):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().create(name, owner=owner, size=size)

    store = Late()
    with pytest.raises(SystemExit) as ended, Checkpointer(store, when=never()) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        ckpt.step()
    assert ended.value.code == 143
    assert [r.progress.steps for r in listing(store).records] == [1]


def test_a_checkpointer_can_be_entered_again(tmp_path):
    """A second block resumes; nothing of the first is left over in memory."""
    ckpt = Checkpointer(tmp_path, when=every(steps=1))
    for expected in (0, 2):
        with ckpt:
            assert ckpt.resume(model=torch.nn.Linear(1, 1)).steps == expected
            ckpt.step()
            ckpt.step()
    with ckpt:
        assert ckpt.resume("fresh", model=torch.nn.Linear(1, 1)) == Progress()


def test_missing_parts_and_checkpoints_are_named(three, tmp_path):
    """What there is stands in the sentence."""
    ckpt = Checkpointer(three, when=never())
    with pytest.raises(Incompatible, match=r"no part named ema\. It holds: fingerprint, model, optimizer, random"):
        ckpt.load(parts=["ema"])
    with pytest.raises(NotFound, match=r"does not exist\. The folder holds epoch=0-step=1\.ckpt, epoch=0-step=2\.ckpt"):
        ckpt.load("epoch=9.ckpt")
    with pytest.raises(NotFound, match="holds no checkpoint"):
        Checkpointer(tmp_path / "empty", when=never()).load("last")
    with pytest.raises(ConfigError, match="with block"):
        ckpt.resume(model=torch.nn.Linear(1, 1))
