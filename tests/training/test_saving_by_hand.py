"""``trainer.save_checkpoint`` and ``load_from_checkpoint``: that file alone, durable, and what it is good for."""

from __future__ import annotations

import pytest
import torch

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import ConfigError, SaveFailed
from small_fits import Net, facts, fit, loaders, make_trainer, names, read


def test_it_writes_that_file_alone(tmp_path, caplog):
    """No ledger, no temporary file, no folder beside it; and says so."""
    trainer = fit(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    trainer.save_checkpoint(tmp_path / "mine" / "example.ckpt")
    assert f"saved {tmp_path}/mine/example.ckpt (by hand)" in caplog.messages
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["example.ckpt"]
    assert read(tmp_path / "mine" / "example.ckpt")["global_step"] == 8


def test_it_makes_the_folder_and_replaces_the_file(tmp_path):
    """As often as it is called."""
    trainer = fit(tmp_path / "run")
    for _ in range(2):
        trainer.save_checkpoint(tmp_path / "deep" / "er" / "example.ckpt")
    assert names(tmp_path / "deep") == ["er/example.ckpt"]


def test_it_can_hold_weights_only(tmp_path):
    """By keyword or by place."""
    trainer = fit(tmp_path / "run")
    trainer.save_checkpoint(tmp_path / "a.ckpt", True)
    trainer.save_checkpoint(tmp_path / "b.ckpt", weights_only=True)
    for name in ("a.ckpt", "b.ckpt"):
        found = read(tmp_path / name)
        assert "state_dict" in found
        assert "optimizer_states" not in found


def test_errors_are_told(tmp_path):
    """Before a fit; a folder of that name; a folder that is a file."""
    with pytest.raises(ConfigError, match=r"Call fit\(\) first"):
        make_trainer(tmp_path).save_checkpoint(tmp_path / "a.ckpt")
    trainer = fit(tmp_path / "run")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.ckpt"):
        with pytest.raises(SaveFailed, match="was not saved"):
            trainer.save_checkpoint(path)


def test_a_file_that_is_given_up_leaves_nothing(tmp_path, monkeypatch):
    """Ctrl-C while it is written: what stood there stands, and no part of a file lies beside it."""
    trainer = fit(tmp_path / "run")
    trainer.save_checkpoint(tmp_path / "mine" / "a.ckpt")
    before = (tmp_path / "mine" / "a.ckpt").read_bytes()

    def press(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", press)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(tmp_path / "mine" / "a.ckpt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.ckpt"]
    assert (tmp_path / "mine" / "a.ckpt").read_bytes() == before


def test_it_can_be_gone_on_from(tmp_path):
    """From a file elsewhere a new run begins, whose parent it is."""
    trainer = fit(tmp_path / "run")
    trainer.save_checkpoint(tmp_path / "example.ckpt")
    again = fit(tmp_path / "again", ckpt_path=tmp_path / "example.ckpt", max_epochs=3)
    assert again.global_step == 12
    (run,) = [fact["run"] for fact in facts(tmp_path / "again" / "checkpoints", "run")]
    assert run["parent"] is not None


def test_one_in_the_folder_of_the_run_belongs_to_the_run(tmp_path):
    """It is never evicted, it is the newest state, and going on from it goes on with the run and its best."""

    class ByHand(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

    best = ModelCheckpoint(tmp_path, monitor="val_loss")
    fit(tmp_path, ByHand(), best, net=Net(lambda epoch, step: 1.0 + epoch))
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "mine.ckpt"]
    best = ModelCheckpoint(tmp_path, monitor="val_loss")
    fit(tmp_path, best, net=Net(lambda epoch, step: 1.0 + epoch), ckpt_path=tmp_path / "mine.ckpt", max_epochs=4)
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "epoch=3-step=16.ckpt", "mine.ckpt"]  # the end of that fit
    assert best.best_model_path.endswith("epoch=0-step=4.ckpt")
    assert len({fact["run"]["id"] for fact in facts(tmp_path, "run")}) == 1


def test_load_from_checkpoint_builds_the_module_with_other_arguments_too(tmp_path):
    """The stored hyperparameters, or what is given over them."""

    class Rated(Net):
        def __init__(self, width=8, rate=0.1):
            super().__init__(width=width)
            self.save_hyperparameters()

    trainer = fit(tmp_path / "run", net=Rated(width=6, rate=0.5))
    trainer.save_checkpoint(tmp_path / "example.ckpt")
    loaded = Rated.load_from_checkpoint(tmp_path / "example.ckpt")
    assert (loaded.hparams.width, loaded.hparams.rate) == (6, 0.5)
    weights = trainer.lightning_module.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in loaded.state_dict().items())
    assert Rated.load_from_checkpoint(tmp_path / "example.ckpt", rate=0.9).hparams.rate == 0.9


def test_a_test_runs_the_best(tmp_path):
    """``ckpt_path="best"`` is the best of the first callback."""

    class Tested(Net):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch))

    best = ModelCheckpoint(tmp_path, monitor="val_loss")
    trainer = make_trainer(tmp_path, best)
    net = Tested(lambda epoch, step: 1.0 + epoch)
    trainer.fit(net, *loaders())
    trainer.test(net, loaders()[1], ckpt_path="best")
    found = read(tmp_path / "epoch=0-step=4.ckpt")["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())
