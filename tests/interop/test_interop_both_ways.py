"""Train with one, go on with the other: files of real Lightning, in an environment of its own, here; ours there."""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

import holdfast
from both_ways import SCENARIOS, fit
from holdfast.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from holdfast.formats import loops

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-lightning" / "bin" / "python"
pytestmark = pytest.mark.interop


def lightning(jobs):
    """What happened in fits that Lightning did, all in one process."""
    script = HERE / "lightning_fits.py"
    run = subprocess.run([PYTHON, script, json.dumps(jobs)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def ours(scenario, folder, **more):
    """A fit of ours; on the way it warns of what a foreign file cannot say."""
    return fit(holdfast, ModelCheckpoint, scenario, folder, stopping=EarlyStopping, averaging=WeightAveraging, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("both")


@pytest.fixture(scope="module")
def theirs(root):
    """Lightning's fits, one of each scenario, and longer ones of those that go on longer."""
    jobs = [{"scenario": name, "folder": str(root / "theirs" / name)} for name in SCENARIOS]
    longer = [{**job, "folder": f"{job['folder']} longer", "longer": True} for job in jobs]
    answers = lightning([*jobs, *longer])
    return {name: pair for name, *pair in zip(SCENARIOS, answers[: len(jobs)], answers[len(jobs) :], strict=True)}


@pytest.fixture(scope="module")
def made_here(root):
    """The same fits, by Holdfast."""
    return {name: ours(name, root / "ours" / name) for name in SCENARIOS}


@pytest.fixture(scope="module")
def resumed_there(root, theirs, made_here):
    """Lightning going on from each file of ours, and from its own of the same name."""
    jobs, keys = [], []
    for name in SCENARIOS:
        for whose, straight in (("ours", made_here[name]), ("theirs", theirs[name][0])):
            for path in straight["files"]:
                keys.append((name, Path(path).name, whose))
                jobs.append({"scenario": name, "folder": str(root / "there" / str(len(jobs))), "ckpt_path": path})
    return dict(zip(keys, lightning(jobs), strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_script_is_the_same_run(name, theirs, made_here):
    """Weights bit for bit, every call with its epoch, batch and step, and the names of all files."""
    there, here = theirs[name][0], made_here[name]
    assert {k: v for k, v in here.items() if k != "files"} == {k: v for k, v in there.items() if k != "files"}
    assert [Path(p).name for p in here["files"]] == [Path(p).name for p in there["files"]]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_file_of_lightning_goes_on_here_as_if_nothing_had_happened(name, theirs, root):
    """From each file, wherever in an epoch it was saved: the rest of the calls, and the weights bit for bit."""
    straight, longer = theirs[name]
    for place, path in enumerate(straight["files"]):
        found = ours(name, root / "here" / name / str(place), ckpt_path=path)
        seen = found["seen"]
        if seen:  # else nothing was left to do, and no end of a fit put the average in the place of the weights
            assert (path, found["weights"]) == (path, longer["weights"])
        assert (path, seen) == (path, longer["seen"][len(longer["seen"]) - len(seen) :])
        assert all(found[k] == longer[k] for k in ("step", "epoch", "lr"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_lightning_goes_on_from_ours_exactly_as_from_its_own(name, made_here, resumed_there):
    """Every call with its epoch, batch and step, the weights and the learning rate; from each file of the run."""
    for path in map(Path, made_here[name]["files"]):
        mine, its_own = (resumed_there[name, path.name, whose] for whose in ("ours", "theirs"))
        for answer in (mine, its_own):
            answer.pop("files", None)
        assert (path.name, mine) == (path.name, its_own)
        assert "error" not in mine


WHOLE = {
    "epoch ends": "epoch",
    "steps by hand": "epoch",
    "no validation": "epoch",
    "averaged": "epoch",
    "after validations": "validation",
    "a loader with a state": "anywhere",
}


@pytest.mark.parametrize("name", WHOLE)
def test_at_epoch_ends_and_after_validations_the_run_is_whole_there(name, theirs, made_here, resumed_there):
    """The weights are those of a run that never stopped. Within an epoch Lightning's loaders begin anew: the calls."""
    straight = theirs[name][0]
    for path in map(Path, made_here[name]["files"]):
        found = resumed_there[name, path.name, "ours"]
        if found["seen"] and (WHOLE[name] != "validation" or int(path.stem.rpartition("=")[2]) % 4 == 0):
            assert (path.name, found["weights"]) == (path.name, straight["weights"])
        assert found["seen"] == straight["seen"][len(straight["seen"]) - len(found["seen"]) :]


def test_the_loops_of_our_files_are_those_of_lightnings(theirs, made_here):
    """Every key, and every counter that Lightning goes on from."""
    aside = ("epoch_loop.scheduler_progress", "epoch_loop.val_loop.batch_progress")  # counted, and used for nothing
    for name, here in made_here.items():
        for mine, its_own in zip(here["files"], theirs[name][0]["files"], strict=True):
            own, other = (torch.load(p, weights_only=True)["loops"] for p in (mine, its_own))
            assert own.keys() == other.keys()
            assert {k: set(v) for k, v in own.items()} == {k: set(v) for k, v in other.items()}
            fit_loop = {k: v for k, v in own["fit_loop"].items() if k not in aside}
            if Path(mine).name != "epoch=2-step=11.ckpt":  # cut short: here the epoch is not over
                assert (mine, fit_loop) == (mine, {k: v for k, v in other["fit_loop"].items() if k not in aside})
            assert loops.read({"loops": own}).progress == loops.read({"loops": other}).progress


def test_ranking_and_patience_go_on_in_both_directions(root):
    """Best path and score, the ranked ones, how many checks without improvement: as in a run that never stopped."""
    folder = root / "ranked"
    straight, first = lightning(
        [
            {"scenario": "ranked", "folder": str(folder / "straight"), "extra": "stopping", "max_epochs": 6},
            {"scenario": "ranked", "folder": str(folder / "theirs"), "extra": "stopping", "max_epochs": 3},
        ]
    )
    assert straight["stopped"] == 5
    here = ours("ranked", folder / "theirs", ckpt_path=first["best"]["last"], extra="stopping", max_epochs=6)
    assert here["stopped"] == straight["stopped"]
    assert [Path(p).name for p in here["best"]["models"]] == [Path(p).name for p in straight["best"]["models"]]
    assert (Path(here["best"]["path"]).name, here["best"]["score"]) == (
        Path(straight["best"]["path"]).name,
        straight["best"]["score"],
    )

    made = ours("ranked", folder / "ours", extra="stopping", max_epochs=3)
    (there,) = lightning(
        [
            {
                "scenario": "ranked", "folder": str(folder / "ours"), "extra": "stopping", "max_epochs": 6,
                "ckpt_path": made["best"]["last"],
            }
        ]
    )  # fmt: skip
    assert there["stopped"] == straight["stopped"]
    assert there["best"]["score"] == straight["best"]["score"]
    assert [Path(p).name for p in there["best"]["models"]] == [Path(p).name for p in straight["best"]["models"]]


def test_hyperparameters_of_lightning_come_back_from_a_safe_load(root):
    """Everyday values as they were, which Lightning itself gives back only to those who trust the file."""
    (answer,) = lightning([{"hyperparameters": str(root / "values.ckpt")}])
    assert answer["refused"] is True

    class Any(holdfast.LightningModule):
        def __init__(self, **anything):
            super().__init__()
            self.save_hyperparameters()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = Any.load_from_checkpoint(root / "values.ckpt")
    found = {name: [type(value).__name__, repr(value)] for name, value in back.hparams.items()}
    assert found == answer["values"]


def test_early_stopping_keeps_its_key():
    """Both call it the same, so that each finds the other's."""
    assert EarlyStopping("val_loss").state_key == "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"
