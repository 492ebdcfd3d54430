"""``"last"`` is the newest state or an error, and ``"auto"`` takes none for damaged that could not be read."""

import errno
import os

import pytest
import torch

from checkpointer.loop import damage
from faults import unreadable
from fitting import loader, net, trainer
from holdfast import Checkpointer, Trainer, every
from holdfast import last as newest
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import Corrupt, Unreadable


def test_a_plain_loop_hears_that_the_last_one_is_cut_short(tmp_path, caplog):
    """``resume("last")`` names it and what there is; ``resume()`` goes back and says so."""
    model = torch.nn.Linear(2, 2)
    with Checkpointer(tmp_path, when=every(steps=1), which=newest(3)) as saver:
        saver.resume(model=model)
        for _ in range(3):
            saver.step()
    (tmp_path / "epoch=0-step=3.ckpt").chmod(0o644)
    with (tmp_path / "epoch=0-step=3.ckpt").open("r+b") as file:
        file.truncate(300)

    with Checkpointer(tmp_path, when=every(steps=1)) as saver:
        with pytest.raises(Corrupt, match=r"step=3.ckpt' is corrupt.*newest, of step 3.*step=2.ckpt.*resume\(\)"):
            saver.resume("last", model=model)
        assert saver.resume(model=model).steps == 2
    assert "1 step is lost" in caplog.text


def test_a_fit_hears_it_too(tmp_path):
    """``ckpt_path="last"`` is refused, whichever name the file has; ``"auto"`` goes on from the one before."""

    def saving():
        saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=-1)
        return Trainer(
            max_epochs=2, callbacks=[saver], logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, accelerator="cpu",
        )  # fmt: skip

    saving().fit(net(), loader())
    path = tmp_path / "last.ckpt"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(500)

    with pytest.raises(Corrupt, match="newest"):
        saving().fit(net(), loader(), ckpt_path="last")


@pytest.mark.parametrize("word", ["last", "best"])
def test_whoever_asks_by_a_word_for_a_damaged_one_hears_of_auto(tmp_path, word):
    """A flipped bit in the weights: in a loop as in a fit, and once only."""
    saver = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    options = {"max_epochs": 2, "callbacks": [saver], "enable_checkpointing": True}
    trainer(tmp_path, **options).fit(net(), loader(), loader())
    (path,) = tmp_path.glob("epoch*.ckpt")
    damage(path, offset=5000)
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    with pytest.raises(Corrupt) as in_a_fit:
        trainer(tmp_path, **{**options, "callbacks": [best]}).fit(net(), loader(), loader(), ckpt_path=word)
    with pytest.raises(Corrupt) as in_a_loop:
        Checkpointer(tmp_path, when=every(steps=1)).load(word)
    with pytest.raises(Corrupt) as of_a_tensor:
        Checkpointer(tmp_path, when=every(steps=1)).load_tensor("state_dict.layers.0.weight", word)
    for caught in (in_a_fit, in_a_loop, of_a_tensor):
        assert str(caught.value).count("'auto' (with a Checkpointer: resume())") == 1


def spoilt_copy(folder):
    """``last.ckpt`` becomes a file of its own, and is cut short; the same checkpoint's own name stays whole."""
    content = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").write_bytes(content[:500])


def test_a_damaged_copy_beside_the_whole_newest_is_told_of(three, caplog):
    """The state is the last one none the less, in a loop as in a fit."""
    spoilt_copy(three)
    with Checkpointer(three, when=every(steps=1)) as saver:
        assert saver.resume("last", model=torch.nn.Linear(2, 2)).steps == 3
    assert caplog.text.count("'last.ckpt' is corrupt: its end is not that of a checkpoint") == 1
    assert "Its other file is read: 'epoch=0-step=3.ckpt'" in caplog.text


def test_a_damaged_file_that_makes_room_is_told_of_once(three, caplog):
    """By its new name it is known for what it was: older than what is gone on from, so that no resume tells of it."""
    spoilt_copy(three)
    with Checkpointer(three, when=every(steps=1), which=newest(3)) as saver:
        saver.resume(model=torch.nn.Linear(2, 2))
        saver.step()
    told = "'last.ckpt' is now 'last-v1.ckpt', and gives its name to another: its end is not that of a checkpoint"
    assert caplog.text.count(told) == 1
    caplog.clear()
    with Checkpointer(three, when=every(steps=1), which=newest(3)) as saver:
        assert saver.resume(model=torch.nn.Linear(2, 2)).steps == 4
        saver.step()
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []
    assert (three / "last-v1.ckpt").stat().st_size == 500


def test_a_damaged_file_with_another_name_needs_no_third(three, caplog):
    """``last.ckpt`` moves on from it; it is told of where it is passed over, and stays under its own name."""
    damage(of_step(three, 3), offset=5000)
    with Checkpointer(three, when=every(steps=1), which=newest(3)) as saver:
        assert saver.resume(model=torch.nn.Linear(2, 2)).steps == 2
        saver.step()
    names = ["epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt", "epoch=0-step=3-v1.ckpt", "epoch=0-step=3.ckpt", "last.ckpt"]
    assert sorted(path.name for path in three.glob("*.ckpt")) == names
    assert "is now" not in caplog.text


# Files that cannot be read, which may be whole


@pytest.fixture
def three(tmp_path):
    """A folder with a checkpoint of each of three steps, the newest of which is ``last.ckpt`` too."""
    with Checkpointer(tmp_path / "run", when=every(steps=1), which=newest(3)) as saver:
        saver.resume(model=torch.nn.Linear(2, 2))
        for _ in range(3):
            saver.step()
    return tmp_path / "run"


def of_step(folder, step):
    return folder / f"epoch=0-step={step}.ckpt"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder, source="auto"):
    """What the error says with which a loop's resume ends; it has changed nothing, in memory and on disk."""
    model = torch.nn.Linear(2, 2)
    weights, files = model.weight.clone(), contents(folder)
    with Checkpointer(folder, when=every(steps=1)) as saver, pytest.raises(Unreadable) as caught:
        saver.resume(source, model=model)
    assert torch.equal(model.weight, weights)
    assert contents(folder) == files
    return str(caught.value)


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_run_does_not_begin_anew_where_no_file_can_be_read(three, ledger):
    """All are named, with the reason and what to do; when they can be read again, the run goes on."""
    if ledger == "lost":
        (three / ".holdfast/ledger.jsonl").write_bytes(b"")
    with unreadable(*(of_step(three, step) for step in (1, 2, 3))):
        told = refused(three)
    for step in (1, 2, 3):
        assert f"cannot open '{of_step(three, step)}': Permission denied" in told
    for words in (
        "Nothing was changed",
        "No other checkpoint can be read",
        "permissions",
        'resume("fresh")',
        "ckpt_path=None",
    ):
        assert words in told
    with Checkpointer(three, when=every(steps=1)) as saver:
        assert saver.resume(model=torch.nn.Linear(2, 2)).steps == 3


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_an_older_state_is_not_taken_for_one_that_cannot_be_read(three, ledger, code):
    """What could be gone on from is named too: whoever is content with it gives its path, and loses the rest."""
    if ledger == "lost":
        (three / ".holdfast/ledger.jsonl").write_bytes(b"")
    with unreadable(of_step(three, 3), code=code):
        told = refused(three)
        with Checkpointer(three, when=every(steps=1)) as saver:
            assert saver.resume("epoch=0-step=2.ckpt", model=torch.nn.Linear(2, 2)).steps == 2
    assert os.strerror(code) in told
    assert "'epoch=0-step=2.ckpt' (step 2) is the newest other one" in told


def test_an_older_one_that_cannot_be_read_stops_nothing(three):
    """The newest is whole: nobody needs what came before it."""
    with unreadable(of_step(three, 1), of_step(three, 2)), Checkpointer(three, when=every(steps=1)) as saver:
        assert saver.resume(model=torch.nn.Linear(2, 2)).steps == 3


def test_what_is_damaged_is_passed_over_until_one_cannot_be_read(three):
    """The newest is damaged, the one before it may be whole: the third is not gone back to."""
    of_step(three, 3).chmod(0o644)
    os.truncate(of_step(three, 3), 300)
    with unreadable(of_step(three, 2)):
        assert "step=2.ckpt' cannot be read" in refused(three)


def test_one_process_sees_that_a_file_can_be_read_again(three):
    """Permissions change nothing by which a file is told from another."""
    (three / ".holdfast/ledger.jsonl").write_bytes(b"")
    with Checkpointer(three, when=every(steps=1)) as saver:
        with unreadable(of_step(three, 3)), pytest.raises(Unreadable):
            saver.resume(model=torch.nn.Linear(2, 2))
        assert saver.resume(model=torch.nn.Linear(2, 2)).steps == 3


def test_last_is_no_older_state_than_one_that_cannot_be_read(three):
    """Of a file that no ledger tells of, nobody knows that it is older."""
    (three / ".holdfast/ledger.jsonl").write_bytes(b"")
    with unreadable(of_step(three, 3)):
        assert "step=3.ckpt' cannot be read" in refused(three, "last")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_fit_does_not_begin_anew_either(tmp_path, code):
    """``ckpt_path="auto"`` trains nothing and saves nothing; then it goes on from where the run was."""

    def fit(epochs, **options):
        saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_last=True)
        one = trainer(tmp_path, max_epochs=epochs, callbacks=[saver], enable_checkpointing=True)
        one.fit(model := net(), loader(), **options)
        return [step for step in model.seen if step.startswith("t")]

    fit(2)
    files = contents(tmp_path)
    with unreadable(*tmp_path.glob("*.ckpt"), code=code), pytest.raises(Unreadable, match="Nothing was changed"):
        fit(3, ckpt_path="auto")
    assert contents(tmp_path) == files
    assert fit(3, ckpt_path="auto") == ["t2.0", "t2.1", "t2.2", "t2.3"]
