"""What a user may get wrong: each gets one clear error of ours, and nothing is lost for it, on disk or in memory."""

# ruff: noqa: PT012  # what raises is a with block, and all that happens in it

from __future__ import annotations

import copy
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from checkpointer.loop import Gone, build, damage, everything, kept, listing, train
from holdfast import (
    Checkpointer,
    ConfigError,
    Corrupt,
    Event,
    Foreign,
    HoldfastError,
    Incompatible,
    MemoryStore,
    NotFound,
    SaveFailed,
    StoreError,
    at,
    best,
    every,
    full,
    last,
    never,
)
from holdfast.engine.engine import SaveFailedWarning
from sameness import same

ROOT = os.geteuid() == 0


@pytest.fixture
def saved(tmp_path):
    """A folder with two checkpoints of a run of the whole loop, and the state that it came to."""
    folder, state = tmp_path / "saved", build()
    with Checkpointer(folder, when=every(steps=4), which=last(2)) as ckpt:
        train(ckpt, state, epochs=2)
    return folder


def contents(folder):
    """Every file below a folder, byte for byte."""
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def resume(folder, source="last", **objects):
    """Try to resume; whatever comes of it, nothing is trained."""
    with Checkpointer(folder, when=never()) as ckpt:
        return ckpt.resume(source, **objects)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"when": "every step"}, ["when= takes every(...)", "'every step'"]),
        ({"when": last(1)}, ["when= takes every(...)"]),
        ({"which": 3}, ["which= takes best(...)", "3"]),
        ({"which": every(steps=1)}, ["which= takes best(...)"]),
        ({"what": "weights"}, ["what= takes full", "'weights'"]),
        ({"on_save_error": "ignore"}, ["on_save_error= is 'warn' or 'raise'", "'ignore'"]),
        ({"when_busy": "never"}, ["when_busy= is 'wait' or 'skip'", "'never'"]),
        ({"when": 1, "which": 2, "when_busy": 3}, ["when= takes", "which= takes", "when_busy= is"]),
        ({"filename": "{epoch"}, ["brace", "not closed"]),
        ({"filename": "../{epoch}"}, ["out of the folder"]),
        ({"filename": "last"}, ["'last'", "alias"]),
        ({"filename": 3}, ["text", "3"]),
        ({"signals": [9]}, ["SIGKILL"]),
    ],
    ids=str,
)
def test_what_a_checkpointer_cannot_work_with_is_refused_before_anything_is_touched(arguments, words, tmp_path):
    """All problems in one sentence, and no folder made."""
    with pytest.raises(ConfigError) as caught:
        Checkpointer(tmp_path / "new", **{"when": never(), **arguments})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ({}, ["needs what makes up the state"]),
        ({"random": {}}, ["random", "Holdfast's own"]),
        ({"progress": {}, "random": []}, ["progress, random", "Holdfast's own"]),
        ({"model": 3, "names": ("a",), "fine": {}}, ["model is a int", "names is a tuple", "state_dict()"]),
    ],
    ids=str,
)
def test_objects_without_a_state_and_reserved_names_are_refused(objects, words, tmp_path):
    """All of them by name, with what to give instead."""
    with pytest.raises(ConfigError) as caught:
        resume(tmp_path, "auto", **objects)
    assert all(word in str(caught.value) for word in words), caught.value
    assert kept(tmp_path) == []


@pytest.mark.parametrize("call", ["step", "validated", "epoch_end", "save"])
def test_a_call_before_resume_says_what_to_call_first(call, tmp_path):
    """The run has not begun; nothing is counted."""
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt, pytest.raises(ConfigError, match=r"Call resume\("):
        getattr(ckpt, call)(*[{}] if call == "validated" else [])
    assert ckpt.progress.steps == 0
    assert kept(tmp_path) == []


def test_resume_is_called_once(tmp_path):
    """A second call would begin another run under the feet of the first, which goes on."""
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(notes={})
        with pytest.raises(ConfigError, match="called once"):
            ckpt.resume(notes={})
        ckpt.step()
    assert [r.progress.steps for r in listing(tmp_path).records] == [1]


def test_a_resume_that_failed_can_be_tried_again(saved):
    """After an error nothing has begun: another source, or other objects, may work."""
    state = build(seed=3)
    with pytest.raises(Gone), Checkpointer(saved, when=never()) as ckpt:
        with pytest.raises(NotFound):
            ckpt.resume("nothing.ckpt", **state.objects())
        with pytest.raises(Incompatible):
            ckpt.resume(model=torch.nn.Linear(1, 1))
        assert ckpt.resume(**state.objects()).steps == 8
        raise Gone


@pytest.mark.parametrize(
    ("fresh", "words"), [("extra", "none named 'extra'"), (["modle"], "none named 'modle'. The objects are model")]
)
def test_fresh_names_objects(fresh, words, saved):
    """A misspelt name would restore what was to stay."""
    with pytest.raises(ConfigError, match=words), Checkpointer(saved, when=never()) as ckpt:
        ckpt.resume(model=build().model, fresh=fresh)


@pytest.mark.parametrize("source", [None, 3, torch.nn.Linear(1, 1), b"last"], ids=repr)
def test_a_source_is_a_word_or_a_path(source, saved):
    """A model in the place of the source is the likeliest slip."""
    with pytest.raises(ConfigError, match="named by a word such as 'last' or by a path"):
        resume(saved, source, model=torch.nn.Linear(1, 1))


# Metrics


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"loss": "0.5"}, "'loss' is '0.5', not a number"),
        ({"loss": None}, "'loss' is None, not a number"),
        ({"loss": True}, "'loss' is True, not a number"),
        ({"loss": torch.ones(2)}, "'loss' is not one number"),
        ({"loss": torch.tensor(1j)}, r"'loss' is tensor.*, not a number"),
        ({3: 0.5}, "name of a metric is text, not 3"),
        (0.5, "mapping of names to numbers, not 0.5"),
    ],
    ids=str,
)
def test_a_metric_that_is_no_number_is_refused_and_none_is_noted(metrics, words, tmp_path):
    """The sentence names it; the ones beside it are not taken either."""
    both = {"good": 1.0, **metrics} if isinstance(metrics, dict) else metrics
    with pytest.raises(Gone), Checkpointer(tmp_path, when=every(steps=1), which=last(5)) as ckpt:
        ckpt.resume(notes={})
        with pytest.raises(ConfigError, match=words):
            ckpt.validated(both)
        ckpt.step()
        raise Gone
    assert [r.scores for r in listing(tmp_path).records] == [{}]


@pytest.mark.parametrize("value", [torch.tensor(0.5), torch.tensor([0.5]), torch.nn.Parameter(torch.tensor(0.5))])
def test_one_element_tensors_are_numbers(value, tmp_path):
    """With or without a shape, or a gradient."""
    with Checkpointer(tmp_path, when=at(Event.VALIDATION_END), which=best(1, "loss")) as ckpt:
        ckpt.resume(notes={})
        ckpt.step()
        ckpt.validated({"loss": value})
    assert [r.scores for r in listing(tmp_path).records] == [{"loss": 0.5}]


def test_nan_is_never_best_and_infinity_is_a_number(tmp_path):
    """A diverged run does not push out a good checkpoint, nor is it kept for its NaN."""
    scores = [0.5, math.nan, -math.inf, math.nan]
    with Checkpointer(tmp_path, when=at(Event.VALIDATION_END), which=best(2, "loss")) as ckpt:
        ckpt.resume(notes={})
        for score in scores:
            ckpt.step()
            ckpt.validated({"loss": score})
        assert ckpt.load("best", parts=[]) == {}
    found = [(r.progress.steps, r.scores.get("loss")) for r in listing(tmp_path).records]
    assert found[:2] == [(1, 0.5), (3, -math.inf)]
    assert found[2][0] == 4  # the last one, which only `last.ckpt` holds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"which": best(1, "val_loss")}, "which= needs 'val_loss'"),
        ({"filename": "{step}-{val_loss:.2f}"}, "filename= needs 'val_loss'"),
        (
            {"which": best(1, "val_acc", "max"), "filename": "{val_loss}"},
            "which= needs 'val_acc' and filename= needs 'val_loss'",
        ),
    ],
    ids=["which", "filename", "both"],
)
@pytest.mark.parametrize("call", ["validated", "epoch_end"])
def test_a_misspelt_metric_is_an_error_at_the_first_validation(call, options, words, tmp_path):
    """It lists what was measured; what was saved before stands."""
    with (
        pytest.raises(ConfigError, match=words) as caught,
        Checkpointer(tmp_path, when=every(steps=2), **options) as ckpt,
    ):
        ckpt.resume(notes={})
        for _ in range(3):
            ckpt.step(metrics={"train_loss": 0.1})
        getattr(ckpt, call)({"valid_loss": 0.3})
    assert "Measured so far: 'train_loss', 'valid_loss'." in str(caught.value)
    assert [r.progress.steps for r in listing(tmp_path).records] == [2]


def test_no_save_is_lost_for_a_metric_in_its_name(tmp_path):
    """A step at which it was not measured has no number in its name, before the first validation and after."""
    options = {"when": every(steps=2), "which": last(9), "filename": "{step}-{val_loss:.2f}"}
    with Checkpointer(tmp_path, **options) as ckpt:
        ckpt.resume(notes={})
        for step in range(1, 6):
            ckpt.step()
            if step == 3:
                ckpt.validated({"val_loss": 0.251})
        ckpt.save("mine")
    assert [r.names[0] for r in listing(tmp_path).records] == [
        "step=2-val_loss=none.ckpt",
        "step=4-val_loss=none.ckpt",
        "step=5-val_loss=none-mine.ckpt",
    ]


# Folders


def test_a_folder_that_is_a_file_is_refused_at_once(tmp_path):
    """Before any training, with the path; the file is what it was."""
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=str(path)):
            Checkpointer(path, when=never())
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused_at_once(tmp_path):
    """Before any training, with the path."""
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StoreError, match=str(tmp_path)):
            Checkpointer(tmp_path, when=never())
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_where_nobody_may_write_is_refused_at_once():
    """Not even root makes a folder in /proc."""
    with pytest.raises(StoreError, match="/proc/holdfast"):
        Checkpointer("/proc/holdfast", when=never())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        ROOT
        and shutil.which("mount")
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False)
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_costs_the_saves_that_do_not_fit_and_no_others(small_disk):
    """A warning, again, then an error; what was saved stands, and with space again the run goes on."""
    model = torch.nn.Linear(100, 100)  # 40 KiB
    with Checkpointer(small_disk, when=every(steps=1), which=last(1)) as ckpt:
        ckpt.resume(model=model)
        ckpt.step()
        ckpt.load("last")
        (small_disk / "ballast").write_bytes(b"x" * 180_000)
        before = kept(small_disk)
        for _ in range(2):
            ckpt.step()
            with pytest.warns(SaveFailedWarning, match=r"No space left.*'epoch=0-step=1.ckpt' \(step 1\)"):
                ckpt.load("last")
        assert kept(small_disk) == before
        (small_disk / "ballast").unlink()
        ckpt.step()
    assert kept(small_disk) == [("epoch=0-step=4.ckpt", "last.ckpt")]
    assert listing(small_disk).leftovers == ()


def test_the_third_failure_in_a_row_ends_the_run(small_disk):
    """Training for nothing is no service: the third failure is an error, in the words of the first."""
    with (
        pytest.raises(SaveFailed, match="No space left") as caught,
        Checkpointer(small_disk, when=every(steps=1)) as ckpt,
    ):
        ckpt.resume(model=torch.nn.Linear(300, 300))
        ckpt.step()
        for _ in range(2):
            with pytest.warns(SaveFailedWarning) as told:
                ckpt.step()
            assert told[0].filename == __file__, "the line of the user's that heard of it"
        ckpt.step()
        raise AssertionError("it went on")
    assert "There is no other checkpoint in this folder." in str(caught.value)
    assert listing(small_disk).leftovers == ()


def test_on_save_error_raise_raises_at_the_next_call(small_disk):
    """Asked for, the first failure is an error."""
    with (
        pytest.raises(SaveFailed, match="No space left"),
        Checkpointer(small_disk, when=every(steps=1), on_save_error="raise") as ckpt,
    ):
        ckpt.resume(model=torch.nn.Linear(300, 300))
        ckpt.step()
        ckpt.step()
        raise AssertionError("it went on")


def test_a_save_by_hand_that_fails_raises_at_once(small_disk):
    """Whoever asked for it is told."""
    with pytest.raises(Gone), Checkpointer(small_disk, when=never()) as ckpt:
        ckpt.resume(model=torch.nn.Linear(300, 300))
        ckpt.step()
        with pytest.raises(SaveFailed, match="No space left"):
            ckpt.save("mine")
        raise Gone


# Sources


def cut(path):
    """A checkpoint cut short, as a copy that ran out of disk."""
    path.write_bytes(path.read_bytes()[:-500])


def flip(path):
    """A checkpoint with one bit of a tensor flipped."""
    damage(path, offset=4200)


@pytest.mark.parametrize("harm", [cut, flip, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "empty"])
@pytest.mark.parametrize("where", ["here", "elsewhere", "alone"])
def test_a_damaged_source_is_named_with_the_newest_good_one_and_nothing_changes(harm, where, saved, tmp_path):
    """`last` and paths are taken at their word: no other is loaded in its stead."""
    state = build(seed=3)
    before = copy.deepcopy(everything(state))
    path = saved / "epoch=1-step=8.ckpt"
    if where == "alone":
        path = Path(shutil.copy(path, tmp_path / "alone.ckpt"))
    path.chmod(0o644)
    harm(path)
    files = contents(tmp_path)
    home = tmp_path / "home" if where != "here" else saved
    empty = path.stat().st_size == 0
    with pytest.raises(Foreign if empty and where == "alone" else Corrupt, match=f"'{path}'") as caught:
        resume(home, path, **state.objects())
    if where == "here":
        assert "'epoch=0-step=4.ckpt' (step 4) is the newest other one." in caught.value.good
    if where == "alone":
        assert caught.value.good == ""  # a folder without a ledger may be anybody's: it is not looked through
    assert "Nothing was loaded." in str(caught.value)
    assert same(everything(state), before)
    assert {name: contents(tmp_path).get(name) for name in files} == files


def test_a_file_of_somebody_else_is_no_source(saved, tmp_path):
    """A torch file, text, and a zip are foreign: named as such, nothing loaded."""
    state = build()
    torch.save(state.model.state_dict(), tmp_path / "theirs.ckpt")
    (tmp_path / "notes.txt").write_text("hello")
    torch.save(state.model.state_dict(), saved / "theirs.ckpt")
    for path in (tmp_path / "theirs.ckpt", tmp_path / "notes.txt", saved / "theirs.ckpt"):
        with pytest.raises(Foreign, match="was not written by Holdfast"):
            resume(saved, path, **state.objects())


def test_a_source_that_is_not_there_is_not_found(saved, tmp_path):
    """A path of nothing, a name of nothing, a folder, an impossible path, a word in an empty folder."""
    state = build()
    for source, words in (
        (tmp_path / "none.ckpt", "none.ckpt' does not exist"),
        (tmp_path / "no" / "folder" / "x.ckpt", "x.ckpt' does not exist"),
        ("none.ckpt", r"does not exist. The folder holds epoch=0-step=4.ckpt, epoch=1-step=8.ckpt\."),
        (saved, "is a folder, not a checkpoint. Name a checkpoint in it"),
        (tmp_path, "is a folder"),
        ("", "is a folder|does not exist"),
        (saved / "last.ckpt" / "below", "does not exist"),
    ):
        with pytest.raises(NotFound, match=words):
            resume(saved, source, **state.objects())
    for word in ("last", "best"):
        with pytest.raises(NotFound, match="holds no checkpoint"):
            resume(tmp_path / "empty", word, **state.objects())
    with pytest.raises(NotFound, match=r"With 'auto' \(with a Checkpointer: resume\(\)\) a run begins"):
        resume(tmp_path / "empty", "last", **state.objects())
    with pytest.raises(HoldfastError):
        resume(saved, "x" * 5000, **state.objects())


def test_a_whole_checkpoint_is_a_source_under_any_name(saved, tmp_path):
    """Renamed, with another ending, elsewhere or here: what it is stands inside it."""
    shutil.copy(saved / "last.ckpt", tmp_path / "model.pt")
    shutil.copy(saved / "epoch=0-step=4.ckpt", saved / "kept-for-later")
    for path, step in ((tmp_path / "model.pt", 8), (saved / "kept-for-later", 4)):
        with pytest.raises(Gone), Checkpointer(saved, when=never()) as ckpt:
            assert ckpt.resume(path, **build().objects()).steps == step
            raise Gone


# States that do not fit


def another_model():
    model = build().model
    model[0] = torch.nn.Linear(6, 8, bias=False)  # one key missing here
    model[4] = torch.nn.Linear(8, 3)  # two of another shape
    model.append(torch.nn.Linear(2, 2))  # two that the checkpoint lacks
    return model


def test_all_that_does_not_fit_is_in_one_error_and_nothing_is_changed(saved):
    """Missing, extra and misshapen entries of model and optimizer at once; every tensor is as it was."""
    model = another_model()
    optimizer = torch.optim.AdamW(model.parameters())
    history, notes = ["here"], {"here": 1}
    before, files = copy.deepcopy((model.state_dict(), optimizer.state_dict())), contents(saved)
    generator = torch.get_rng_state()
    with pytest.raises(Incompatible) as caught:
        resume(saved, model=model, optimizer=optimizer, history=history, notes=notes)
    text = str(caught.value)
    for words in (
        "model.5.weight is missing from the checkpoint",
        "model.5.bias is missing from the checkpoint",
        "model.0.bias is not in the model",
        "model.4.weight has shape [3, 8] here and [2, 8] there",
        "model.4.bias has shape [3] here and [2] there",
        "optimizer's group 0 has 7 parameters here and 6 there",
        f"{saved}/epoch=1-step=8.ckpt",
        "Nothing was changed",
        'give the Checkpointer another folder, or call resume("fresh", ...)',
    ):
        assert words in text
    assert same((model.state_dict(), optimizer.state_dict()), before)
    assert (history, notes) == (["here"], {"here": 1})
    assert torch.equal(torch.get_rng_state(), generator)
    assert contents(saved) == files


def with_groups(state, *order):
    parameters = list(state.model.parameters())
    return torch.optim.AdamW([{"params": [parameters[i] for i in group]} for group in order])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: torch.optim.SGD(s.model.parameters(), lr=0.1), "optimizer is SGD here, with dampening, momentum"),
        (lambda s: torch.optim.RMSprop(s.model.parameters()), "optimizer is RMSprop here, with alpha"),
        (lambda s: with_groups(s, [0, 1, 2], [3, 4, 5]), "optimizer has 2 parameter groups here and 1 there"),
        (lambda s: with_groups(s, [0, 1, 2, 3]), "optimizer's group 0 has 4 parameters here and 6 there"),
        (
            lambda s: with_groups(s, [0, 2, 1, 3, 4, 5]),
            "optimizer's group 0 has 1.weight here where it has 0.bias there",
        ),
        (lambda s: [], "optimizer is a list here and a dict there"),
    ],
    ids=["SGD", "RMSprop", "groups", "fewer", "order", "list"],
)
def test_another_optimizer_is_refused(make, words, saved):
    """Of another kind, with other groups, or with its parameters in another order: never loaded as if it fitted."""
    state = build(seed=3)
    optimizer = make(state)
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(Incompatible) as caught:
        resume(saved, model=state.model, optimizer=optimizer)
    assert words in str(caught.value)
    assert same(state.model.state_dict(), before)


@pytest.mark.parametrize(
    ("part", "thing", "words"),
    [
        ("history", {}, "history is a dict here and a list there"),
        ("notes", [], "notes is a list here and a dict there"),
        ("notes", torch.nn.Linear(1, 1), "notes.weight is missing from the checkpoint"),
        ("history", torch.nn.Linear(1, 1), "history holds a list, not a module's state"),
        ("notes", torch.optim.SGD([torch.zeros(1)], lr=1), "notes holds no optimizer's state"),
    ],
)
def test_a_part_of_another_kind_is_refused(part, thing, words, saved):
    """The names are the user's, so a name may come to mean something else."""
    with pytest.raises(Incompatible, match=words):
        resume(saved, **{part: thing})


class Extra(torch.nn.Module):
    """A module with extra state, in place of a tensor of the same name."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def get_extra_state(self):
        return torch.ones(2) if self.tensor else {"plain": 1}

    def set_extra_state(self, state):
        raise AssertionError("it was loaded")


def test_a_tensor_in_place_of_something_else_is_refused(tmp_path):
    """Found before anything is loaded."""
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(model=Extra(tensor=True))
        ckpt.step()
    with pytest.raises(Incompatible, match=r"model\._extra_state is a dict here and a Tensor there"):
        resume(tmp_path, model=Extra(tensor=False))


class Refuses:
    """An object whose own check comes while it is loaded."""

    def state_dict(self):
        return {"version": 1}

    def load_state_dict(self, state):
        raise KeyError("version 2 is wanted")


def test_an_object_that_refuses_its_state_is_named(tmp_path):
    """Its error is told with the part's name; what it means for the other objects is said."""
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(loader=Refuses())
        ckpt.step()
    with pytest.raises(Incompatible, match="loader refused its state: KeyError: 'version 2 is wanted'") as caught:
        resume(tmp_path, loader=Refuses())
    assert "Nothing on disk was changed." in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_part_that_the_checkpoint_lacks_is_an_error_that_says_what_it_holds(saved):
    """With the way out; nothing is changed."""
    state = build(seed=3)
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(
        Incompatible, match=r"holds no part named ema, scaler\. It holds: fingerprint, history, model, notes"
    ) as caught:
        resume(saved, model=state.model, ema={}, scaler={})
    assert "fresh=[...]" in str(caught.value)
    assert same(state.model.state_dict(), before)


def test_a_checkpoint_of_part_of_the_state_is_not_resumed_by_accident(tmp_path):
    """`auto` takes only what holds everything; named, a part of a state is refused for what it lacks."""
    state = build()
    with Checkpointer(tmp_path, when=every(steps=1), what=full.excluding("model.0.*")) as ckpt:
        ckpt.resume(model=state.model)
        ckpt.step()
    with pytest.raises(Incompatible, match=r"model.0.weight is missing from the checkpoint"):
        resume(tmp_path, "epoch=0-step=1.ckpt", model=build().model)
    assert resume(tmp_path, "auto", model=build().model).steps == 1


def test_a_state_that_a_file_cannot_hold_is_an_error_that_names_it(tmp_path):
    """A sparse tensor, found at the save: what was saved before stands."""
    state = {"weights": torch.ones(2)}
    with pytest.raises(ConfigError, match=r"state\.weights"), Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(state=state)
        ckpt.step()
        state["weights"] = torch.ones(2).to_sparse()
        ckpt.step()
    assert kept(tmp_path) == [("epoch=0-step=1.ckpt", "last.ckpt")]


@pytest.mark.parametrize("wrong", [None, 3, MemoryStore, b"folder"], ids=repr)
def test_a_directory_is_a_path_or_a_store(wrong):
    """A class of stores is none."""
    with pytest.raises(ConfigError, match="directory= is a path or a store"):
        Checkpointer(wrong, when=never())


def test_one_name_where_several_belong_is_said_to_be_so(tmp_path):
    """A string would be taken letter by letter."""
    with pytest.raises(ConfigError, match=r"parts= takes several names, not 'model'\. Write parts=\['model'\]"):
        Checkpointer(tmp_path, when=never()).load(parts="model")
