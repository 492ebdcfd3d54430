"""What cannot be gone on from is refused in one clear error, and nothing is changed; and what hooks add comes back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.engine.job import OpaqueStateWarning
from holdfast.errors import Corrupt, Incompatible, NotFound
from small_fits import Net, fit, loaders, make_trainer, names, read

LAST = "epoch=1-step=8.ckpt"


@pytest.fixture
def trained(tmp_path):
    """A folder with one checkpoint."""
    fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a"))
    return tmp_path / "a" / LAST


class Sgd(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class NoScheduler(Net):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


class Backwards(Net):
    """The same parameters, in another order."""

    def configure_optimizers(self):
        parameters = list(self.parameters())
        optimizer = torch.optim.AdamW([parameters[1], parameters[0], *parameters[2:]])
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Longer(Net):
    def __init__(self):
        super().__init__()
        self.more = torch.nn.Linear(1, 1)


OTHERS = {
    "other shapes": (lambda: Net(width=16), ["model.layers.0.weight has shape [16, 4] here and [8, 4] there"]),
    "more layers": (Longer, ["model.more.weight is missing", "group 0 has 6 parameters here and 4 there"]),
    "another optimizer": (Sgd, ["is SGD here"]),
    "fewer schedulers": (NoScheduler, ["of schedulers it holds 1, and the module has 0"]),
    "another order": (Backwards, ["group 0 has layers.0.bias here where it has layers.0.weight there"]),
}


@pytest.mark.parametrize(("make", "words"), OTHERS.values(), ids=OTHERS)
def test_another_models_checkpoint_is_one_clear_error(make, words, trained, tmp_path):
    """All that does not fit, at once; model, optimizer and folders stay as they are."""
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    files = sorted(trained.parent.rglob("*"))
    trainer = make_trainer(tmp_path / "b", ModelCheckpoint(tmp_path / "b"))
    with pytest.raises(Incompatible) as raised:
        trainer.fit(net, *loaders(), ckpt_path=trained)
    assert [word for word in words if word not in str(raised.value)] == []
    assert str(trained) in str(raised.value)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(not o.state for o in trainer.optimizers)
    assert sorted(trained.parent.rglob("*")) == files
    assert names(tmp_path / "b") == []


def test_a_file_of_weights_cannot_be_gone_on_from(tmp_path):
    """It says what the file lacks, and what it is good for."""
    fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a", save_weights_only=True))
    with pytest.raises(Incompatible, match=r"no optimizer state: it was saved with weights only.*load_from_checkpoint"):
        fit(tmp_path / "b", ckpt_path=tmp_path / "a" / LAST)


def test_a_damaged_checkpoint_is_refused_and_the_newest_good_one_named(tmp_path):
    """Nothing of it is loaded."""
    fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=-1))
    path = tmp_path / LAST
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"epoch=0-step=4\.ckpt"):
        fit(tmp_path / "b", ckpt_path=path)


def test_paths_that_are_no_checkpoint_are_refused(tmp_path):
    """One that is not there, a folder, another program's file, ``best`` before anything was saved."""
    torch.save({"a": 1}, tmp_path / "other.ckpt")
    for source, error in (("none.ckpt", NotFound), (".", NotFound), ("other.ckpt", Incompatible)):
        with pytest.raises(error):
            fit(tmp_path / "b", ckpt_path=tmp_path / source)
    with pytest.raises(NotFound, match="no checkpoint in or below"):
        fit(tmp_path / "b", ckpt_path="best")


def test_a_symbolic_link_to_a_checkpoint_goes_on_with_its_run(trained, tmp_path):
    """It is the folder of the file that counts."""
    link = tmp_path / "mine.ckpt"
    link.symlink_to(trained)
    trainer = fit(trained.parent, ModelCheckpoint(trained.parent), ckpt_path=link, max_epochs=3)
    assert trainer.global_step == 12
    assert "epoch=2-step=12.ckpt" in names(trained.parent)


# Hooks


class Adds(Net):
    """Puts a tensor, plain values and an odd object into the checkpoint, and takes them out again."""

    def __init__(self):
        super().__init__()
        self.found = None

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = {"tensor": torch.arange(3), "text": "a", "list": [1, 2.5, None], "odd": Fraction(1, 3)}
        checkpoint["hyper_parameters"]["width"] = 99
        del checkpoint["lr_schedulers"][0]["_last_lr"]

    def on_load_checkpoint(self, checkpoint):
        self.found = checkpoint["mine"]
        self.epoch_there = checkpoint["epoch"]
        checkpoint["state_dict"] = {name: value + 1 for name, value in checkpoint["state_dict"].items()}


class Remembers(L.Callback):
    def __init__(self):
        self.loaded = self.state = None

    def state_dict(self):
        return {"seen": 3, "tensor": torch.ones(2)}

    def load_state_dict(self, state):
        self.state = state

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["theirs"] = [1, 2]

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        self.loaded = checkpoint["theirs"]


class Data(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.at = 0

    def train_dataloader(self):
        return loaders()[0]

    def val_dataloader(self):
        return loaders()[1]

    def state_dict(self):
        return {"at": self.trainer.global_step}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_what_hooks_add_is_saved_and_comes_back(tmp_path, caplog):
    """They edit the dictionary itself: tensors and plain values by default, an odd object for who trusts the file."""
    L.seed_everything(1)
    net = Adds()
    with pytest.warns(OpaqueStateWarning, match="mine.odd") as told:
        make_trainer(tmp_path, Remembers(), ModelCheckpoint(tmp_path)).fit(net, datamodule=Data())
    assert {warning.filename for warning in told if warning.category is OpaqueStateWarning} == {__file__}
    there = read(tmp_path / LAST)
    assert there["theirs"] == [1, 2]
    assert there["hyper_parameters"]["width"] == 99
    assert there["Data"] == {"at": 8}
    assert there["callbacks"]["Remembers"]["seen"] == 3
    for trusted, odd in ((None, None), (False, Fraction(1, 3))):
        caplog.clear()
        again, remembers, data = Adds(), Remembers(), Data()
        again.on_save_checkpoint = lambda checkpoint: None
        trainer = make_trainer(tmp_path / "b", remembers, enable_checkpointing=False)
        trainer.fit(again, datamodule=data, ckpt_path=tmp_path / LAST, weights_only=trusted)
        assert again.found["tensor"].tolist() == [0, 1, 2]
        assert (again.found["text"], again.found["list"], again.found["odd"]) == ("a", [1, 2.5, None], odd)
        assert again.epoch_there == 1
        assert ("mine.odd" in caplog.text) is (trusted is None)
        assert remembers.loaded == [1, 2]
        assert remembers.state["seen"] == 3
        assert remembers.state["tensor"].tolist() == [1.0, 1.0]
        assert data.at == 8
        first = "layers.0.weight"
        assert torch.equal(again.state_dict()[first], net.state_dict()[first] + 1)


def test_states_are_kept_under_their_keys_and_one_without_a_taker_is_told(tmp_path, caplog):
    """Two of a class by keys of their own."""

    class Keyed(Remembers):
        def __init__(self, name):
            super().__init__()
            self.name = name

        @property
        def state_key(self):
            return f"Keyed {self.name}"

        def state_dict(self):
            return {"name": self.name}

    fit(tmp_path, Keyed("a"), Keyed("b"), ModelCheckpoint(tmp_path))
    states = read(tmp_path / LAST)["callbacks"]
    assert {key: states[key] for key in states if key.startswith("Keyed")} == {
        "Keyed a": {"name": "a"},
        "Keyed b": {"name": "b"},
    }
    b = Keyed("b")
    fit(tmp_path / "again", b, ckpt_path=tmp_path / LAST)
    assert b.state == {"name": "b"}
    assert "no callback of this run takes the state that the checkpoint holds of Keyed a" in caplog.text


def test_what_is_loaded_can_be_loaded_from_again(trained):
    """Restoring copies: training on does not change what another load reads."""
    before = {name: value.clone() for name, value in read(trained)["state_dict"].items()}
    fit(trained.parent / "b", ckpt_path=trained, max_epochs=3)
    assert all(torch.equal(before[name], value) for name, value in read(trained)["state_dict"].items())
    assert Path(trained).exists()
