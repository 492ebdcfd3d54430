"""Hooks come in the order that docs/hooks.md states."""

import re
from pathlib import Path

import pytest
import torch

import holdfast
import holdfast.callbacks
from hook_recorder import record

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
WHO = {"callbacks": "callback", "module": "module", "datamodule": "data"}


def stated(heading):
    """The calls of the table under a heading, one for each of those who get it."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    calls = []
    for row in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (\d+) \| (\d+) \|$", section, flags=re.MULTILINE):
        hook, whom, epoch, step = row
        calls += [(WHO[who], hook, epoch, step) for who in whom.split(", ")]
    return calls


@pytest.mark.parametrize(("heading", "scenario"), [("A fit", "fit once"), ("A test", "test")])
def test_hooks_come_in_the_order_of_the_page(heading, scenario, tmp_path):
    """Every call, who gets it, and the epoch and step that it sees, are those of the table."""
    calls = record(holdfast, holdfast.Callback, scenario, tmp_path)
    made = [re.fullmatch(r"(\w+) (\w+)\(.*\) (\d+) (\d+)", call) for call in calls]

    assert [m.groups() for m in made if m] == stated(heading)


def test_validation_is_as_a_test_with_its_own_names(tmp_path):
    """The page says that both are the same."""
    ours = record(holdfast, holdfast.Callback, "validate", tmp_path)
    test = record(holdfast, holdfast.Callback, "test", tmp_path)
    named = [re.sub("test_dataloader", "val_dataloader", call).replace("'test'", "'validate'") for call in test]

    assert ours == [re.sub(r"(on_)?test_", lambda m: (m[1] or "") + "validation_", call) for call in named]


def test_prediction_is_as_a_test_with_its_own_names(tmp_path):
    """The page says so, but for the way back into training mode, which has no hook."""
    ours = record(holdfast, holdfast.Callback, "predict", tmp_path)
    test = record(holdfast, holdfast.Callback, "test", tmp_path)
    outputs = [call.replace("_batch_end(7,", "_batch_end(tensor[2, 1],") for call in test]

    assert ours == [call.replace("test", "predict") for call in outputs if "model_train" not in call]


def test_savers_come_last_and_after_schedulers_of_a_plateau(tmp_path):
    """At an epoch's end: callbacks, module, the scheduler that looks at a metric, then those that save."""
    order = []

    class Saver(holdfast.callbacks.ModelCheckpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            order.append("saver")
            super().on_train_epoch_end(trainer, pl_module)

    class Other(holdfast.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            order.append("callback")

    class Net(holdfast.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).sum()
            self.log("loss", loss)
            return loss

        def on_train_epoch_end(self):
            order.append("module")

        def lr_scheduler_step(self, scheduler, metric):
            order.append("scheduler")
            super().lr_scheduler_step(scheduler, metric)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "loss"}

    trainer = holdfast.Trainer(
        max_epochs=1, callbacks=[Saver(), Other()], default_root_dir=tmp_path, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(4, 2)))

    assert order == ["callback", "module", "scheduler", "saver"]
