"""Pains of users, as they meet them: weights and settings that somebody else needs, later, elsewhere."""

from __future__ import annotations

import pickletools
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import holdfast as L
from holdfast import best, every, full, trainable_only
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import Incompatible
from holdfast.policy.plan import Policy
from holdfast.policy.where import Where
from sameness import same
from small_fits import Net, fit, loaders, make_trainer, names, read, steps


@pytest.fixture
def trained(tmp_path):
    """A fit of two epochs, and its checkpoint."""
    trainer = fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a"))
    return trainer.lightning_module, tmp_path / "a" / "epoch=1-step=8.ckpt"


def told(caplog):
    """The one line that says how much was loaded."""
    (line,) = [record.message for record in caplog.records if record.message.startswith("loaded ")]
    return line


# Hyperparameters


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Configured(Net):
    """With the hyperparameters of an ordinary project."""

    def __init__(self, data: Path, cfg, rate, size: Size = Size.SMALL):
        super().__init__()
        self.save_hyperparameters()


def test_pain_9_your_own_checkpoint_goes_on_and_loads_safely_whatever_its_hyperparameters(tmp_path):
    """Path, OmegaConf, numpy and Enum: with default arguments a fit goes on, and each comes back as it was."""
    omegaconf = pytest.importorskip("omegaconf")
    cfg = omegaconf.OmegaConf.create({"optim": {"lr": 0.1, "betas": [0.9, 0.99]}})
    given = {"data": Path("/data/images"), "cfg": cfg, "rate": np.float64(0.25), "size": Size.LARGE}
    fit(tmp_path, ModelCheckpoint(tmp_path), net=Configured(**given), max_epochs=1)
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path), net=Configured(**given), ckpt_path="last")
    assert trainer.global_step == 8
    back = Configured.load_from_checkpoint(trainer.checkpoint_callback.best_model_path).hparams
    assert {name: back[name] for name in given} == given
    assert {name: type(back[name]) for name in given} == {name: type(value) for name, value in given.items()}


def test_pain_15b_missing_arguments_are_said_with_the_call_that_gives_them(tmp_path):
    """All at once; and with them given, a module among them, the weights are loaded into what the user has built."""

    class Bare(L.LightningModule):
        def __init__(self, backbone, classes):
            super().__init__()
            self.backbone, self.head = backbone, nn.Linear(2, classes)

        def training_step(self, batch, batch_idx):
            return self.head(self.backbone(batch[0])).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    net = Bare(nn.Linear(4, 2), 3)
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(net, loaders()[0])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(Incompatible, match=r"Bare\.load_from_checkpoint\(path, backbone=\.\.\., classes=\.\.\.\)"):
        Bare.load_from_checkpoint(tmp_path / "a.ckpt")
    back = Bare.load_from_checkpoint(tmp_path / "a.ckpt", backbone=nn.Linear(4, 2), classes=3)
    assert same(back.state_dict(), net.state_dict())


# Names of keys


class Wrapper(nn.Module):
    """What ``torch.compile`` and others put around a module: under a name of its own."""

    def __init__(self, module, name):
        super().__init__()
        self.add_module(name, module)
        self._name = name

    def forward(self, x):
        return getattr(self, self._name)(x)


class Wrapped(Net):
    name = "_orig_mod"

    def __init__(self, width=8):
        super().__init__(width=width)
        self.layers = Wrapper(self.layers, self.name)


class Parallel(Wrapped):
    name = "module"


@pytest.mark.parametrize("wrapped", [Wrapped, Parallel])
def test_pain_57_the_names_of_wrappers_keep_no_weights_out(wrapped, tmp_path):
    """Saved wrapped and loaded bare, and the other way round: by load_from_checkpoint, fit and validate."""
    for there, here in ((wrapped, Net), (Net, wrapped)):
        folder = tmp_path / here.__name__
        saved = fit(folder, ModelCheckpoint(folder), make=there, max_epochs=1).lightning_module.state_dict()
        path = folder / "epoch=0-step=4.ckpt"
        assert list(read(path)["state_dict"]) == list(saved)  # what is written is what the module says
        values = list(saved.values())
        assert all(map(torch.equal, here.load_from_checkpoint(path).state_dict().values(), values))
        net = here()
        make_trainer(folder).validate(net, loaders()[1], ckpt_path=path, verbose=False)
        assert all(map(torch.equal, net.state_dict().values(), values))
        other = fit(folder / "b", ModelCheckpoint(folder / "b"), make=here, seed=9, ckpt_path=path)
        straight = fit(folder / "c", make=there, enable_checkpointing=False)
        assert other.global_step == 8
        assert all(map(torch.equal, other.lightning_module.parameters(), straight.lightning_module.parameters()))


# Partial loads


class Longer(Net):
    """One layer more, and content to lack some."""

    def __init__(self, width=8):
        super().__init__(width=width)
        self.strict_loading = False
        self.more = nn.Linear(1, 1)


def test_pain_58_a_partial_load_says_how_much_of_it_there_was(trained, tmp_path, caplog):
    """Once, with a count and what is missing and left over: in load_from_checkpoint and validate."""
    caplog.set_level("INFO", logger="holdfast")
    path = trained[1]
    weights_only = {"state_dict": OrderedDict(read(path)["state_dict"], extra=torch.zeros(1))}
    torch.save(weights_only, tmp_path / "other.ckpt")
    rest = r"not in the checkpoint: more\.weight, more\.bias; not in the module: extra$"
    wanted = rf"loaded 4 of the 6 tensors of Longer .*{rest}"
    for verb in (
        lambda: Longer.load_from_checkpoint(tmp_path / "other.ckpt", width=8),
        lambda: make_trainer(tmp_path).validate(Longer(), loaders()[1], tmp_path / "other.ckpt", verbose=False),
    ):
        caplog.clear()
        verb()
        assert re.search(wanted, told(caplog))
    caplog.clear()
    Net.load_from_checkpoint(path, strict=False)
    assert "loaded 4 of the 4 tensors of Net" in told(caplog)


def test_pain_58_a_load_of_nothing_is_an_error(trained, tmp_path):
    """strict=False forgives what is missing, but not everything; in no verb."""

    class Other(L.LightningModule):
        strict_loading = property(lambda self: False, lambda self, value: None)

        def __init__(self, width=8):
            super().__init__()
            self.encoder = nn.Linear(4, 4)

        def validation_step(self, batch, batch_idx):
            pass

        def training_step(self, batch, batch_idx):
            return self.encoder(batch[0]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    path = trained[1]
    for verb in (
        lambda: Other.load_from_checkpoint(path),
        lambda: make_trainer(tmp_path).validate(Other(), loaders()[1], ckpt_path=path),
        lambda: make_trainer(tmp_path / "b").fit(Other(), *loaders(), ckpt_path=path),
    ):
        with pytest.raises(Incompatible, match="none of the module's 2 tensors: nothing would be loaded"):
            verb()


class Frozen(Net):
    """A large backbone that is never trained, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 4 * 1024).requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)


class Resumable(Frozen):
    def __init__(self):
        super().__init__()
        self.strict_loading = False


def small(what):
    """The best by its metric, each without what does not change."""
    return Policy("small", every(epochs=1), best(1, "val_loss"), what, Where("{epoch}"))


def test_pain_59_a_file_without_the_frozen_backbone_is_small_and_goes_on(tmp_path):
    """What was left out is said, with the way to go on without it; then the run is the one that was never stopped."""
    policy = small(full.excluding("model.backbone.*"))
    whole = fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a", policy=policy), make=Resumable, max_epochs=3)
    halfway = fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b", policy=policy), make=Resumable, max_epochs=2)
    (name,) = names(tmp_path / "b")
    path = tmp_path / "b" / name
    assert path.stat().st_size < 4 * 1024 * 4 * 4
    assert not [key for key in read(path)["state_dict"] if key.startswith("backbone")]
    with pytest.raises(Incompatible, match=r"model\.backbone\.weight is missing.*strict_loading = False"):
        fit(tmp_path / "c", make=Frozen, ckpt_path=path)
    base = halfway.lightning_module.backbone.state_dict()
    again = Resumable()
    again.backbone.load_state_dict(base)
    net = fit(tmp_path / "d", net=again, ckpt_path=path, max_epochs=3, seed=9).lightning_module
    assert steps(path) == (1 + int(name[6])) * 4
    assert same(net.state_dict(), whole.lightning_module.state_dict())


def test_pain_59_what_was_trained_alone_is_loaded_onto_the_base(tmp_path, caplog):
    """A file for others: the trained tensors, put onto a backbone that they have; the rest is listed."""
    caplog.set_level("INFO", logger="holdfast")
    trainer = fit(tmp_path, ModelCheckpoint(tmp_path, policy=small(trainable_only)), make=Frozen, max_epochs=1)
    back = Frozen.load_from_checkpoint(tmp_path / "epoch=0.ckpt", strict=False)
    assert same(back.layers.state_dict(), trainer.lightning_module.layers.state_dict())
    assert "not in the checkpoint: backbone.weight, backbone.bias" in told(caplog)


# Files for others

PLAIN = """
import sys, torch
state = torch.load(sys.argv[1], weights_only=True)
print(sorted(state), len(state["state_dict"]), [m for m in ("holdfast", "lightning") if m in sys.modules])
"""


def test_pain_60_a_file_opens_without_the_code_that_wrote_it(tmp_path):
    """By torch alone, safely; it names no class of the user's, so none can be missing after a rename."""
    (tmp_path / "project.py").write_text("from small_fits import Net\n\nclass Model(Net):\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from project import Model
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["project"]
    net = fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a"), make=Model, max_epochs=1).lightning_module
    path = tmp_path / "a" / "epoch=0-step=4.ckpt"
    (tmp_path / "project.py").unlink()
    with zipfile.ZipFile(path) as archive:
        written = archive.read(next(entry for entry in archive.namelist() if entry.endswith("data.pkl")))
    named = {argument.split()[0] for code, argument, _ in pickletools.genops(written) if code.name == "GLOBAL"}
    assert {name.partition(".")[0] for name in named} <= {"torch", "collections"}
    done = subprocess.run([sys.executable, "-c", PLAIN, path], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" 4 []\n")
    assert same(Net.load_from_checkpoint(path).state_dict(), net.state_dict())  # under whatever name it lives on


# Starting anew with what was learned


def test_pain_61_weights_without_epoch_and_optimizer_are_taken_by_load_from_checkpoint(trained, tmp_path):
    """A new fit from old weights begins at its first step; of a file that can do more, the rest is left."""
    net, path = trained
    start = Net.load_from_checkpoint(path)
    assert same(start.state_dict(), net.state_dict())
    trainer = fit(tmp_path / "b", net=start, max_epochs=1, enable_checkpointing=False)
    assert (trainer.global_step, start.seen[0]) == (4, (0, 0))
    assert {state["step"].item() for state in trainer.optimizers[0].state.values()} == {4.0}


def test_pain_61_a_file_of_weights_alone_says_what_to_do_instead_of_going_on(tmp_path):
    """``fit(ckpt_path=...)`` refuses it, with the other verb; which works."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_weights_only=True), max_epochs=1)
    path = tmp_path / "epoch=0-step=4.ckpt"
    with pytest.raises(Incompatible) as refused:
        fit(tmp_path / "b", ckpt_path=path)
    assert "it holds no optimizer state: it was saved with weights only" in str(refused.value)
    assert "take only the weights: load_from_checkpoint()" in str(refused.value)
    assert same(Net.load_from_checkpoint(path).state_dict(), read(path)["state_dict"])


class Classifier(Net):
    """A head for so many classes."""

    def __init__(self, classes=3):
        super().__init__()
        self.save_hyperparameters()
        self.head = nn.Linear(8, classes)


def test_pain_62_a_changed_head_is_skipped_and_listed_on_request(tmp_path, caplog):
    """The error gives both shapes and the way; skipped, the new head is as it was made, and the rest is loaded."""
    caplog.set_level("INFO", logger="holdfast")
    net = fit(tmp_path, ModelCheckpoint(tmp_path), make=Classifier, max_epochs=1).lightning_module
    path = tmp_path / "epoch=0-step=4.ckpt"
    for strict in (True, False):
        with pytest.raises(Incompatible) as refused:
            Classifier.load_from_checkpoint(path, classes=10, strict=strict)
        assert "head.weight ([3, 8] there, [10, 8] here), head.bias ([3] there, [10] here)" in str(refused.value)
        assert "on_mismatch='skip'" in str(refused.value)
    torch.manual_seed(5)
    made = Classifier(10).head.state_dict()
    torch.manual_seed(5)
    back = Classifier.load_from_checkpoint(path, classes=10, on_mismatch="skip")
    assert same(back.layers.state_dict(), net.layers.state_dict())
    assert same(back.head.state_dict(), made)
    assert "loaded 4 of the 6 tensors of Classifier" in told(caplog)
    assert "left as made, for they are of another shape: head.weight ([3, 8] there, [10, 8] here)" in told(caplog)


def test_pain_62_skipping_shapes_forgives_no_missing_key(trained):
    """It is about shapes alone: what is missing is still an error, and so is a word that means nothing."""

    class More(Classifier):
        def __init__(self):
            super().__init__(3)
            self.layers[0] = nn.Linear(4, 16)

    with pytest.raises(Incompatible, match=r"missing: head\.weight, head\.bias"):
        More.load_from_checkpoint(trained[1], on_mismatch="skip")
    with pytest.raises(L.ConfigError, match="on_mismatch is 'raise' or 'skip', not 'ignore'"):
        Net.load_from_checkpoint(trained[1], on_mismatch="ignore")


# One word each


def test_pain_66_each_word_does_one_thing(trained, tmp_path):
    """Go on with a run; take its weights; write a small file; trust a file: as the page tells them apart."""
    path = trained[1]
    assert fit(tmp_path / "b", ckpt_path=path, max_epochs=3, enable_checkpointing=False).global_step == 12
    started = fit(tmp_path / "c", net=Net.load_from_checkpoint(path), max_epochs=1, enable_checkpointing=False)
    assert started.global_step == 4
    fit(tmp_path / "d", ModelCheckpoint(tmp_path / "d", save_weights_only=True), max_epochs=1)
    assert "optimizer_states" not in read(tmp_path / "d" / "epoch=0-step=4.ckpt")
    trusting = make_trainer(tmp_path / "e", max_epochs=3, enable_checkpointing=False)
    trusting.fit(Net(), *loaders(), ckpt_path=path, weights_only=False)
    assert trusting.global_step == 12
