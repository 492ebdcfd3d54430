"""validate() and test(): what they return, print and leave alone."""

import pytest
import torch
from torch import nn

import holdfast
import holdfast.callbacks
from fitting import Net, loader, net, trainer, weights
from holdfast import ConfigError


class Measuring(Net):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", 1.0 + dataloader_idx)
        self.log("hidden", 1.0, logger=False)
        self.log(f"own{dataloader_idx}", 2.0, add_dataloader_idx=False)

    def on_validation_epoch_end(self):
        self.log("whole", 5.0)


def test_each_loader_has_its_results(tmp_path, capsys):
    """A dict for each loader, with what the epoch's end logged in all of them; the same as a table."""
    run = trainer(tmp_path)
    found = run.validate(net(kind=Measuring), {"a": loader(1), "b": loader(2)})

    assert found == [
        {"val_loss/dataloader_idx_0": 1.0, "own0": 2.0, "whole": 5.0},
        {"val_loss/dataloader_idx_1": 2.0, "own1": 2.0, "whole": 5.0},
    ]
    assert "hidden/dataloader_idx_0" in run.callback_metrics
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "─" not in line]
    assert lines == [
        ["Validate", "metric", "DataLoader", "0", "DataLoader", "1"],
        ["own0", "2.0"],
        ["own1", "2.0"],
        ["val_loss", "1.0", "2.0"],
        ["whole", "5.0", "5.0"],
    ]


def test_nothing_is_printed_where_it_is_not_wanted(tmp_path, capsys):
    """``verbose=False`` returns only."""
    (found,) = trainer(tmp_path).test(net(), loader(1), verbose=False)

    assert list(found) == ["test_loss"]
    assert capsys.readouterr().out == ""


def test_an_evaluation_before_and_after_a_fit_changes_nothing_of_it(tmp_path):
    """The fit's weights are those without them, and so are epoch and step."""
    alone, module = net(), net()
    trainer(tmp_path, max_epochs=2).fit(alone, loader(), loader(1))
    run = trainer(tmp_path, max_epochs=2)
    run.validate(module, loader(1), verbose=False)
    run.fit(module, loader(), loader(1))
    run.test(module, loader(1), verbose=False)

    assert torch.equal(weights(module), weights(alone))
    assert (run.current_epoch, run.global_step) == (2, 8)


def test_without_a_model_the_best_of_the_fit_is_tested(tmp_path):
    """``test()`` after a fit takes the weights of the best checkpoint; with the model given, those it has."""
    best = holdfast.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss", mode="max")
    run = trainer(tmp_path, max_epochs=3, callbacks=[best], enable_checkpointing=True)
    module = net()
    run.fit(module, loader(), loader(1))
    last = weights(module)
    run.test(module, loader(1), verbose=False)
    assert torch.equal(weights(module), last)

    run.test(dataloaders=loader(1), verbose=False)
    saved = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())


def test_modes_come_back_as_they_were(tmp_path):
    """A part frozen in evaluation mode stays so; while it runs all are in it, without gradients."""
    modes = []

    class Frozen(Net):
        def __init__(self, configure=None):
            super().__init__(configure)
            self.drop = nn.Dropout()
            self.drop.eval()

        def validation_step(self, batch, batch_idx):
            modes.append((self.training, self.drop.training, torch.is_inference_mode_enabled()))

        def on_train_epoch_end(self):
            modes.append((self.training, self.drop.training))

    trainer(tmp_path, max_epochs=1).fit(net(kind=Frozen), loader(1), loader(1))

    assert modes == [(False, False, True), (True, False)]


def test_a_hook_of_ones_own_decides_the_mode(tmp_path):
    """What ``on_validation_model_train`` does is not undone."""

    class Own(Net):
        def on_validation_model_train(self):
            self.eval()

    module = net(kind=Own)
    trainer(tmp_path, max_epochs=1).fit(module, loader(1), loader(1))

    assert not module.training


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: run.test(), "no module yet"),
        (lambda run: run.test(3), "a LightningModule, not a int"),
        (lambda run: run.test(net()), "nothing to test: it needs test_step and test_dataloader"),
        (lambda run: run.test(net(), loader(1), ckpt_path="best"), "no ModelCheckpoint of this Trainer has saved"),
        (lambda run: run.validate(net(kind=Measuring), loader(1), datamodule=object()), "not both"),
        (
            lambda run: run.validate(net(), [loader(1), loader(1)]),
            r"def validation_step\(self, batch, batch_idx, datal",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(call, says, tmp_path):
    """One sentence says what is missing."""
    with pytest.raises(ConfigError, match=says):
        call(trainer(tmp_path))
