"""Going on from files that Holdfast did not write: of Lightning 2.6, of older versions, and of nobody known."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

import holdfast as L
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
from holdfast.errors import Foreign, Incompatible
from small_fits import Net as Dropping
from small_fits import falling, loaders, make_trainer, names, read, rising

NO_RANDOM = "holds no random state"
EARLY = "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"


class Net(Dropping):
    """Without dropout: nothing is random but the first weights."""

    def __init__(self, script=None, width=8):
        super().__init__(script, width=width)
        self.layers[2] = nn.Identity()


def fit(folder, *callbacks, script=None, ckpt_path=None, net=None, weights_only=None, **options):
    """A fit; trainer and module."""
    L.seed_everything(1)
    net = Net(script) if net is None else net
    trainer = make_trainer(folder, *callbacks, **options)
    trainer.fit(net, *loaders(), ckpt_path=ckpt_path, weights_only=weights_only)
    return trainer, net


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def as_lightning_writes(path):
    """What a file of ours holds for readers of this family, and nothing of our own."""
    state = read(path)
    del state["holdfast"]
    return state


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that never stopped, and its files as Lightning would have written them."""
    folder = tmp_path_factory.mktemp("straight")
    stop = EarlyStopping("val_loss", patience=9)
    saver = ModelCheckpoint(folder, monitor="val_loss", save_top_k=-1)
    _, net = fit(folder, saver, stop, script=rising, max_epochs=4)
    files = {int(name.partition("step=")[2].removesuffix(".ckpt")): folder / name for name in names(folder)}
    return net, files


@pytest.fixture
def state(straight):
    """The state after the second of four epochs."""
    return as_lightning_writes(straight[1][8])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "theirs" / "a.ckpt"


def write(path, state):
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path)
    return path


def go_on(tmp_path, path, **options):
    """The rest of the fit: its trainer, module and early stopping."""
    stop = EarlyStopping("val_loss", patience=9)
    trainer, net = fit(tmp_path / "here", stop, script=rising, max_epochs=4, ckpt_path=path, **options)
    return trainer, net, stop


def test_a_file_of_today_goes_on_as_if_nothing_had_happened(straight, state, path, tmp_path, caplog):
    """Weights, optimizer, scheduler, counters and early stopping; that the random state is missing is said."""
    trainer, net, stop = go_on(tmp_path, write(path, state))
    assert same(net, straight[0])
    assert (trainer.global_step, trainer.current_epoch, stop.wait_count) == (16, 4, 3)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"'{path}' {NO_RANDOM}: what is drawn from here on is not what would have been drawn."
    ]


def test_what_is_saved_here_is_a_run_of_its_own(state, path, tmp_path):
    """The foreign file stays as it is, and no folder of ours comes to be beside it."""
    before = write(path, state).read_bytes()
    go_on(tmp_path, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.ckpt"]
    assert names(tmp_path / "here") == ["checkpoints/epoch=3-step=16.ckpt"]


THEIR_MODULES = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.early_stopping")


# Older forms, made from today's: each function undoes what a version changed.


def before_2_0(state):
    state["pytorch-lightning_version"] = "1.9.0"
    fit_loop = state["loops"]["fit_loop"]
    for new, old in (("automatic_optimization", "optimizer_loop"), ("manual_optimization", "manual_loop")):
        for key in [key for key in fit_loop if new in key]:
            fit_loop[key.replace(new, old)] = fit_loop.pop(key)
    state["native_amp_scaling_state"] = {}


def before_1_9(state):
    before_2_0(state)
    state["pytorch-lightning_version"] = "1.8.6"
    fit_loop = state["loops"]["fit_loop"]
    for key in [key for key in fit_loop if "_loop.optim" in key or "manual_loop" in key or "optimizer_loop" in key]:
        fit_loop[key.replace("epoch_loop.", "epoch_loop.batch_loop.")] = fit_loop.pop(key)
    fit_loop["epoch_loop.batch_loop.state_dict"] = {}


def before_1_6(state):
    state["pytorch-lightning_version"] = "1.5.10"
    del state["loops"]
    state["epoch"] += 1


def before_1_5(state):
    """Callbacks were keyed by their classes."""
    before_1_6(state)
    state["pytorch-lightning_version"] = "1.4.9"
    for name in THEIR_MODULES:
        sys.modules.setdefault(name, types.ModuleType(name))
    theirs = type("EarlyStopping", (), {"__module__": THEIR_MODULES[-1]})
    sys.modules[THEIR_MODULES[-1]].EarlyStopping = theirs
    state["callbacks"] = {theirs: state["callbacks"][EARLY]}


def before_0_10(state):
    before_1_6(state)
    state["pytorch-lightning_version"] = "0.9.0"
    told = state.pop("callbacks")[EARLY]
    state["early_stop_callback_wait"], state["early_stop_callback_patience"] = told["wait_count"], told["patience"]
    state["module_arguments"] = state.pop("hyper_parameters")


def before_versions(state):
    before_0_10(state)
    del state["pytorch-lightning_version"]


@pytest.mark.parametrize("age", [before_2_0, before_1_9, before_1_6, before_1_5, before_0_10, before_versions])
def test_older_files_go_on_too(age, straight, state, path, tmp_path, caplog):
    """Of each form: the same weights in the end, the same counters, and early stopping counts on."""
    age(state)
    write(path, state)
    for name in THEIR_MODULES:
        sys.modules.pop(name, None)
    trainer, net, stop = go_on(tmp_path, path)
    assert same(net, straight[0])
    assert (trainer.global_step, trainer.current_epoch) == (16, 4)
    # Before 0.10 the best score was not in the file: the first check after it finds its value good.
    assert stop.wait_count == (1 if "early_stop_callback_wait" in state else 3)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and NO_RANDOM not in r.message] == []


def test_hooks_see_the_form_of_today(state, path, tmp_path):
    """Whatever the file's, and they may edit it."""
    before_1_6(state)
    seen = {}

    class Looking(Net):
        def on_load_checkpoint(self, checkpoint):
            seen.update(checkpoint)

    go_on(tmp_path, write(path, state), net=Looking(rising))
    assert seen["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 2
    assert seen["legacy_pytorch-lightning_version"] == "1.5.10"


def test_a_newer_file_is_read_with_a_warning(straight, state, path, tmp_path, caplog):
    """As one of the newest version that is known."""
    state["pytorch-lightning_version"] = "3.0.0"
    assert same(go_on(tmp_path, write(path, state))[1], straight[0])
    assert "written by Lightning 3.0.0, which is newer than 2.6.6" in caplog.text


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("MixedPrecision", {"scale": 512.0}),
        ("native_amp_scaling_state", {"scale": 512.0}),
        ("amp_scaling_state", {"loss_scaler0": {"loss_scale": 512.0, "unskipped": 3}}),
    ],
)
def test_the_scaler_of_half_precision_goes_on(key, told, state, path, tmp_path, caplog):
    """Under each of its names, Apex's among them; with 32 bits there is none, and nobody minds."""
    rest = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
    state["pytorch-lightning_version"] = "2.6.6" if key == "MixedPrecision" else "1.9.0"
    if key != "MixedPrecision":
        before_2_0(state)
    state[key] = told if key == "amp_scaling_state" else {**told, **rest}
    scale = []

    class Watching(L.Callback):
        def on_train_start(self, trainer, pl_module):
            scaler = trainer.strategy.precision.scaler
            scale.append(None if scaler is None else scaler.state_dict()["scale"])

    write(path, state)
    for precision in ("16-mixed", "32-true"):
        trainer = make_trainer(tmp_path, Watching(), max_epochs=3, precision=precision, enable_checkpointing=False)
        trainer.fit(Net(rising), *loaders(), ckpt_path=path)
    assert scale == [512.0, None]
    assert ("Apex" in caplog.text) is (key == "amp_scaling_state")


# What cannot be gone on from


def test_a_file_of_weights_is_refused(state, path, tmp_path):
    """With what it lacks, and what it is good for; nothing was changed."""
    del state["optimizer_states"]
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(Incompatible, match=r"no optimizer state.*load_from_checkpoint"):
        fit(tmp_path, net=net, ckpt_path=write(path, state))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("broken", [{"fit_loop": {}}, {"fit_loop": {"epoch_progress": 1}}, [1], {}])
def test_loops_of_an_unknown_form_are_refused(broken, state, path, tmp_path):
    """Rather than begun anew in silence."""
    state["loops"] = broken
    with pytest.raises(Incompatible, match="says where it stands in a way that is not known"):
        fit(tmp_path, ckpt_path=write(path, state))


@pytest.mark.parametrize("broken", [{"epoch": "x"}, {"callbacks": [1]}, {"global_step": None}])
def test_an_old_file_of_an_unknown_form_is_refused(broken, state, path, tmp_path):
    """Migrating it is one sentence too."""
    before_0_10(state)
    with pytest.raises(Incompatible, match="another form than any version of Lightning wrote"):
        fit(tmp_path, ckpt_path=write(path, {**state, **broken}))


class Odd:
    pass


def test_what_cannot_be_read_safely_is_withheld_or_refused(state, path, tmp_path, caplog):
    """A hook's odd value is said, and given back to who trusts the file; in a state it is an error that says how."""
    seen = []

    class Looking(Net):
        def on_load_checkpoint(self, checkpoint):
            seen.append(type(checkpoint["mine"]["odd"]))

    write(path, {**state, "mine": {"odd": Odd(), "plain": 1}})
    go_on(tmp_path, path, net=Looking(rising))
    assert "there is None in their place: mine.odd. If you trust the file, weights_only=False" in caplog.text
    go_on(tmp_path, path, net=Looking(rising), weights_only=False)
    assert seen == [type(None), Odd]
    state["optimizer_states"][0]["param_groups"][0]["odd"] = Odd()
    with pytest.raises(Foreign, match=r"optimizer_states\.0\.param_groups\.0\.odd.*weights_only=False"):
        fit(tmp_path / "b", ckpt_path=write(path, state))


def test_validate_and_test_take_its_weights(straight, state, path, tmp_path):
    """Also those of a file that holds nothing else."""
    write(path, {"state_dict": state["state_dict"]})
    net = Net(script=rising)
    make_trainer(tmp_path, enable_checkpointing=False).validate(net, loaders()[1], ckpt_path=path, verbose=False)
    assert all(torch.equal(value, state["state_dict"][name]) for name, value in net.state_dict().items())


def test_a_file_of_weights_says_where_it_stands(tmp_path):
    """As Lightning's do: who reads the counters needs no optimizer."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_weights_only=True), max_epochs=1)
    state = read(tmp_path / "epoch=0-step=4.ckpt")
    assert state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1
    assert "optimizer_states" not in state


# Ranking


def ranked(state, folder, **scores):
    """The state with a ModelCheckpoint's, which had kept files of these scores."""
    key = ModelCheckpoint(monitor="val_loss", save_top_k=2).state_key
    models = {str(folder / f"{name}.ckpt"): torch.tensor(score) for name, score in scores.items()}
    best = min(models, key=lambda path: models[path])
    state["callbacks"][key] = {
        "monitor": "val_loss", "best_model_score": models[best], "best_model_path": best, "dirpath": str(folder),
        "best_k_models": models, "kth_best_model_path": max(models, key=lambda path: models[path]),
        "kth_value": max(models.values()), "current_score": models[best], "last_model_path": "",
    }  # fmt: skip
    return state


def saver(folder):
    return ModelCheckpoint(folder, "{epoch}", monitor="val_loss", save_top_k=2)


def test_ranking_goes_on_where_it_was(state, path, tmp_path):
    """Two were kept, of 0.05 and 0.75: of what comes, 0.8 is not among the two best, and 0.7 is the second."""
    theirs = path.parent
    write(path, ranked(state, theirs, a=0.05, b=0.75))
    torch.save({}, theirs / "b.ckpt")
    kept = saver(tmp_path / "here")
    fit(tmp_path, kept, script=falling, max_epochs=4, ckpt_path=path)  # 0.8, then 0.7
    assert names(tmp_path / "here") == ["epoch=3.ckpt"]
    assert kept.best_model_path == str(path)
    assert float(kept.best_model_score) == pytest.approx(0.05)
    assert list(kept.best_k_models) == [str(path), str(tmp_path / "here" / "epoch=3.ckpt")]
    assert kept.kth_best_model_path == str(tmp_path / "here" / "epoch=3.ckpt")
    assert (theirs / "b.ckpt").exists()  # what another program wrote is not ours to remove

    again = saver(tmp_path / "here")
    fit(tmp_path, again, script=falling, max_epochs=6, ckpt_path=tmp_path / "here" / "epoch=3.ckpt")
    assert names(tmp_path / "here") == ["epoch=5.ckpt"]  # of 0.5; that of 0.6 had its place for one epoch
    assert again.best_model_path == str(path)


def test_a_folder_that_was_moved_ranks_still(state, path, tmp_path, caplog):
    """Files are looked for beside the one that is gone on from; what is gone for good counts no more, and is said."""
    write(path, ranked(state, tmp_path / "before", a=0.05, gone=0.01))
    kept = saver(tmp_path / "here")
    fit(tmp_path, kept, script=falling, max_epochs=3, ckpt_path=path)
    assert kept.best_model_path == str(path)
    assert "gone.ckpt: the checkpoint says that it ranks, but it is not there" in caplog.text
    assert list(kept.best_k_models) == [str(path), str(tmp_path / "here" / "epoch=2.ckpt")]


def test_a_callback_of_another_metric_takes_no_scores(state, path, tmp_path):
    """An old state without a key of its own says which metric it is of, or none."""
    write(path, ranked(state, path.parent, a=0.05))
    ((key, told),) = [(k, v) for k, v in state["callbacks"].items() if "ModelCheckpoint" in k and "best_k_models" in v][
        -1:
    ]
    del state["callbacks"][key]
    state["callbacks"]["ModelCheckpoint"] = {**told, "monitor": "other"}
    kept = saver(tmp_path / "here")
    fit(tmp_path, kept, script=falling, max_epochs=3, ckpt_path=write(path, state))
    assert kept.best_model_path == str(tmp_path / "here" / "epoch=2.ckpt")


def test_without_a_metric_the_newest_is_theirs_until_there_is_one_of_ours(state, path, tmp_path):
    """Also from 0.9, which knew a path alone."""
    before_0_10(state)
    state["checkpoint_callback_best_model_path"] = str(path)
    kept = ModelCheckpoint(tmp_path / "here", every_n_epochs=5)
    seen = []

    class Looking(L.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(kept.best_model_path)

    fit(tmp_path, kept, Looking(), max_epochs=5, ckpt_path=write(path, state))
    assert seen == [str(path)]
    assert kept.best_model_path == str(tmp_path / "here" / "epoch=4-step=20.ckpt")


def test_a_file_tells_of_itself_as_it_will_be(tmp_path):
    """The callback's state in it counts it among those that are kept, and those it replaces no more."""
    kept = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=1, save_last=True)
    fit(tmp_path, kept, script=falling, max_epochs=2)
    told = read(tmp_path / "epoch=1-step=8.ckpt")["callbacks"][kept.state_key]
    here = str(tmp_path / "epoch=1-step=8.ckpt")
    assert told["best_model_path"] == told["kth_best_model_path"] == here
    assert list(told["best_k_models"]) == [here]
    assert told["last_model_path"] == str(tmp_path / "last.ckpt")
    assert told["dirpath"] == str(tmp_path)
    assert {float(told[key]) for key in ("best_model_score", "kth_value", "current_score")} == {
        float(torch.tensor(0.9))
    }
