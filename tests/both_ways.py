"""Small fits that run alike under Lightning and under Holdfast: no randomness but the first weights, all recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 4

SCENARIOS = {
    "epoch ends": {"save": {"save_top_k": -1}},
    "after validations": {
        "save": {"save_top_k": -1, "monitor": "val_loss", "save_on_train_epoch_end": False},
        "trainer": {"val_check_interval": 0.5},
    },
    "ends of batches": {"save": {"save_top_k": -1, "every_n_train_steps": 1}},
    "accumulated": {
        "save": {"save_top_k": -1, "every_n_train_steps": 1},
        "trainer": {"accumulate_grad_batches": 2},
    },
    "steps by hand": {"save": {"save_top_k": -1}, "net": {"by_hand": True}},
    "by steps": {"save": {"save_top_k": -1}, "trainer": {"max_epochs": -1, "max_steps": 11}, "more": {"max_steps": 14}},
    "a loader with a state": {"save": {"save_top_k": -1, "every_n_train_steps": 3}, "keeps": True},
    "averaged": {"save": {"save_top_k": -1}, "averages": True},
    "no validation": {"save": {"save_top_k": -1}, "trainer": {"limit_val_batches": 0}},
}
"""How each saves; ``more`` is how long it goes on."""

RANKED = {
    "save": {"save_top_k": 2, "monitor": "score", "save_last": True},
    "net": {"scores": [0.3, 0.1, 0.5, 0.2, 0.4]},
}
"""Its metric is told beforehand: epoch 1 is the best, epoch 3 the second."""


def net_class(package):
    """The network, for one of the two packages."""

    class Net(package.LightningModule):
        def __init__(self, by_hand=False, width=8, scores=()):
            super().__init__()
            self.save_hyperparameters()
            torch.manual_seed(3)
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
            self.automatic_optimization = not by_hand
            self.scores, self.seen = scores, []

        def loss(self, batch):
            return (self.layers(batch[0]).squeeze() - batch[1]).square().mean()

        def training_step(self, batch, batch_idx):
            self.seen.append(f"train {self.current_epoch} {batch_idx} at {self.global_step}")
            loss = self.loss(batch)
            self.log("train_loss", loss)
            if not self.automatic_optimization:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch, batch_idx):
            self.seen.append(f"validate {self.current_epoch} {batch_idx} at {self.global_step}")
            self.log("val_loss", self.loss(batch))
            if self.scores:
                self.log("score", self.scores[min(self.current_epoch, len(self.scores) - 1)])

        def on_train_epoch_end(self):
            self.seen.append(f"epoch {self.current_epoch} ends at {self.global_step}")
            if not self.automatic_optimization:
                self.lr_schedulers().step()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    return Net


def loaders():
    """Batches to train and to validate on, in one order."""
    numbers = torch.Generator().manual_seed(11)
    x = torch.randn(4 * BATCHES, 4, generator=numbers)
    y = torch.randn(4 * BATCHES, generator=numbers)
    data = TensorDataset(x, y)
    return DataLoader(data, batch_size=4), DataLoader(TensorDataset(x[:8], y[:8]), batch_size=4)


class Keeping:
    """A loader that knows its place, as those of torchdata do."""

    def __init__(self, batches):
        self.batches, self.next, self.begins = batches, 0, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.next, self.begins = self.begins, 0
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.begins = state["next"]


def trainer(package, folder, callbacks, **options):
    """A trainer that shows nothing."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return package.Trainer(
        accelerator="cpu", default_root_dir=str(folder), callbacks=callbacks, **{"max_epochs": 3, **quiet, **options}
    )


def digest(module):
    """A hash of all weights."""
    made = hashlib.sha256()
    for name, value in module.state_dict().items():
        made.update(name.encode() + value.numpy().tobytes())
    return made.hexdigest()


def fit(
    package,
    checkpoint_class,
    scenario,
    folder,
    *,
    stopping=None,
    longer=False,
    averaging=None,
    ckpt_path=None,
    extra=None,
    max_epochs=None,
):
    """One fit of a scenario; what happened in it."""
    how = RANKED if scenario == "ranked" else SCENARIOS[scenario]
    module = net_class(package)(**how.get("net", {}))
    saver = checkpoint_class(dirpath=str(folder), **how["save"])
    stops = [stopping("score", patience=3)] if extra == "stopping" else []
    averages = [averaging()] if how.get("averages") else []
    options = {**how.get("trainer", {}), **(how.get("more", {}) if ckpt_path or longer else {})}
    if max_epochs is not None:
        options["max_epochs"] = max_epochs
    one = trainer(package, folder, [saver, *stops, *averages], **options)
    train, validate = loaders()
    one.fit(module, Keeping(list(train)) if how.get("keeps") else train, validate, ckpt_path=ckpt_path)
    answer = {
        "weights": digest(module),
        "seen": module.seen,
        "step": one.global_step,
        "epoch": one.current_epoch,
        "lr": one.optimizers[0].param_groups[0]["lr"],
        "files": sorted(str(path) for path in Path(folder).glob("*.ckpt")),
    }
    if stops:
        answer["stopped"] = one.current_epoch
        answer["best"] = {
            "path": saver.best_model_path,
            "score": float(saver.best_model_score),
            "models": sorted(saver.best_k_models),
            "last": saver.last_model_path,
        }
    return answer
