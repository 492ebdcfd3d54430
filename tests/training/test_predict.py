"""``predict``: what the steps return, in order, from the weights asked for, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Callback, ConfigError, LightningModule, Trainer

ROWS = torch.arange(12.0).reshape(6, 2)


class Doubler(LightningModule):
    """Its prediction of a row is the row times a weight of 2."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        return batch[0] * self.weight


class Numbered(Doubler):
    """Says which batch of which loader it saw."""

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return dataloader_idx, batch_idx, batch[0].sum().item()


def loader(rows=ROWS):
    return DataLoader(TensorDataset(rows), batch_size=2)


def trainer(tmp_path, **options):
    return Trainer(
        default_root_dir=tmp_path, logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )


def test_without_a_step_of_its_own_the_module_itself_predicts(tmp_path):
    """The default step calls the module; gradients are off and the module is in evaluation mode."""
    modes = []

    class Watching(Doubler):
        def forward(self, batch):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(batch)

    found = trainer(tmp_path).predict(Watching(), loader())
    assert torch.equal(torch.cat(found), ROWS * 2)
    assert modes == [(False, False)] * 3


def test_several_loaders_give_a_list_each(tmp_path):
    """Each list holds that loader's batches in order, and the step was told which loader."""
    found = trainer(tmp_path).predict(Numbered(), [loader(), loader(ROWS[:2])])
    assert [[(d, b) for d, b, _ in one] for one in found] == [[(0, 0), (0, 1), (0, 2)], [(1, 0)]]


def test_nothing_is_kept_where_nothing_is_wanted(tmp_path):
    """``return_predictions=False`` returns None, and holds no output back."""
    runs = trainer(tmp_path)
    assert runs.predict(Doubler(), loader(), return_predictions=False) is None
    assert runs.predictions == [[]]


def test_a_limit_and_a_prediction_of_a_datamodules_loader(tmp_path):
    """``limit_predict_batches`` and ``predict_dataloader`` of the module are honoured."""

    class Own(Doubler):
        def predict_dataloader(self):
            return loader()

    found = trainer(tmp_path, limit_predict_batches=2).predict(Own())
    assert torch.equal(torch.cat(found), ROWS[:4] * 2)


def test_hooks_come_in_order_and_know_what_runs(tmp_path):
    """Callbacks hear every hook of a prediction, and ``predicting`` and ``state`` are true within it alone."""
    heard = []

    class Ear(Callback):
        def setup(self, trainer, pl_module, stage):
            heard.append(f"setup {stage}")

        def on_predict_start(self, trainer, pl_module):
            heard.append("start")

        def on_predict_epoch_start(self, trainer, pl_module):
            heard.append("epoch start")

        def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            heard.append(f"batch {batch_idx}")

        def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            heard.append((trainer.predicting, str(trainer.state.fn), str(trainer.state.stage), outputs.shape))

        def on_predict_epoch_end(self, trainer, pl_module):
            heard.append(f"epoch end {len(trainer.predictions[0])}")

        def on_predict_end(self, trainer, pl_module):
            heard.append("end")

        def teardown(self, trainer, pl_module, stage):
            heard.append(f"teardown {stage}")

    runs = trainer(tmp_path, callbacks=Ear(), limit_predict_batches=1)
    runs.predict(Doubler(), loader())
    inside = (True, "predict", "predict", torch.Size([2, 2]))
    assert heard == [
        "setup predict", "start", "epoch start", "batch 0", inside, "epoch end 1", "end", "teardown predict",
    ]  # fmt: skip
    assert (runs.predicting, runs.state.finished, runs.state.stage) == (False, True, None)


def test_logging_in_a_prediction_is_refused(tmp_path):
    """There is nothing that would read it, so it is an error and not silence."""

    class Logs(Doubler):
        def predict_step(self, batch, batch_idx):
            self.log("x", 1.0)

    with pytest.raises(ConfigError, match="predict_step"):
        trainer(tmp_path).predict(Logs(), loader())


def test_without_loaders_or_a_module_there_is_one_clear_error(tmp_path):
    """Neither a module nor anything to predict on."""
    with pytest.raises(ConfigError, match="There is no module yet"):
        trainer(tmp_path).predict()
    with pytest.raises(ConfigError, match="nothing to predict"):
        trainer(tmp_path).predict(Doubler())


def test_the_best_checkpoint_of_the_fit_before_predicts_by_default(tmp_path):
    """After a fit, ``predict`` without a module takes the best weights, not the last."""

    class Worsens(Doubler):
        def training_step(self, batch):
            return self(batch).mean()

        def on_train_epoch_end(self):
            self.log("loss", float(self.current_epoch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def train_dataloader(self):
            return loader()

        def predict_dataloader(self):
            return loader()

    from holdfast.callbacks import ModelCheckpoint

    runs = trainer(tmp_path, max_epochs=3, callbacks=ModelCheckpoint(monitor="loss", save_on_train_epoch_end=True))
    module = Worsens()
    runs.fit(module)
    last = module.weight.item()
    runs.predict()
    assert module.weight.item() != last
    best = Worsens.load_from_checkpoint(runs.checkpoint_callback.best_model_path)
    assert torch.equal(torch.cat(runs.predict(ckpt_path="best")), ROWS * best.weight)
