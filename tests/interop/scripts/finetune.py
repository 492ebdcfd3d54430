"""Transfer a pretrained backbone to a new task: frozen first, then unfrozen with a smaller learning rate.

python finetune.py --root runs/finetune
python finetune.py --root runs/finetune --evaluate runs/finetune/**/*.ckpt
"""

import argparse
import json
import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch import nn, optim
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset

FEATURES, CLASSES = 12, 3


def dataset(count, seed):
    """Points around one of three centres."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    return TensorDataset(centres[labels] + 0.9 * torch.randn(count, FEATURES, generator=generator), labels)


def pretrained_backbone(path):
    """A backbone with a batch norm, 'pretrained' elsewhere and kept in a plain file."""
    backbone = nn.Sequential(nn.Linear(FEATURES, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(5)
        for layer in backbone:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        torch.save(backbone.state_dict(), path)
    backbone.load_state_dict(torch.load(path, weights_only=True))
    return backbone


class Milestones(BaseFinetuning):
    """Unfreezes the end of the backbone at one epoch, and all of it at another."""

    def __init__(self, milestones=(1, 3), train_bn=False):
        super().__init__()
        self.milestones = milestones
        self.train_bn = train_bn

    def freeze_before_training(self, pl_module):
        self.freeze(modules=pl_module.feature_extractor, train_bn=self.train_bn)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.milestones[0]:
            self.unfreeze_and_add_param_group(
                modules=pl_module.feature_extractor[-2:], optimizer=optimizer, train_bn=self.train_bn
            )
        elif epoch == self.milestones[1]:
            self.unfreeze_and_add_param_group(
                modules=pl_module.feature_extractor[:-2], optimizer=optimizer, lr=1e-4, train_bn=self.train_bn
            )


class TransferModel(pl.LightningModule):
    def __init__(self, backbone_path: str, lr: float = 1e-2, milestones: tuple = (2, 4)):
        super().__init__()
        self.save_hyperparameters()
        self.feature_extractor = pretrained_backbone(Path(backbone_path))
        self.fc = nn.Linear(16, CLASSES)
        self.trainable = []

    @property
    def backbone(self):
        return self.feature_extractor

    def forward(self, x):
        return self.fc(self.feature_extractor(x))

    def _step(self, batch, name):
        x, y = batch
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        self.log_dict({f"{name}_loss": loss, f"{name}_acc": accuracy}, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self._step(batch, "train")

    def validation_step(self, batch, batch_idx):
        return self._step(batch, "val")

    def test_step(self, batch, batch_idx):
        return self._step(batch, "test")

    def on_train_epoch_end(self):
        self.trainable.append(sum(p.numel() for p in self.parameters() if p.requires_grad))

    def configure_optimizers(self):
        trainable = [p for p in self.parameters() if p.requires_grad]
        rank_zero_info(f"the optimizer begins with {len(trainable)} of {len(list(self.parameters()))} tensors")
        optimizer = optim.Adam(trainable, lr=self.hparams.lr)
        return [optimizer], [MultiStepLR(optimizer, milestones=list(self.hparams.milestones), gamma=0.5)]


def loaders():
    return [
        DataLoader(dataset(count, seed), batch_size=16, shuffle=seed == 1)
        for count, seed in ((96, 1), (48, 2), (48, 3))
    ]


def run(root, name, finetuning, epochs, patience):
    pl.seed_everything(11)
    train, val, test = loaders()
    model = TransferModel(str(root / "backbone.pt"))
    checkpoint = ModelCheckpoint(monitor="val_loss", mode="min", save_top_k=2, filename="{epoch}-{val_acc:.2f}")
    stopping = EarlyStopping("val_loss", patience=patience, min_delta=1e-3)
    lr_monitor = LearningRateMonitor(logging_interval="epoch")
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=root / name,
        max_epochs=epochs,
        callbacks=[finetuning, stopping, checkpoint, lr_monitor],
        logger=CSVLogger(os.fspath(root / name)),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, train, val)
    groups = [(group["lr"], len(group["params"])) for group in trainer.optimizers[0].param_groups]
    tested = trainer.test(dataloaders=test, ckpt_path="best", verbose=False)[0]
    return {
        **{f"{name}/{key}": float(value) for key, value in {**trainer.callback_metrics, **tested}.items()},
        f"{name}/groups": groups,
        f"{name}/epochs": trainer.current_epoch,
        f"{name}/stopped_epoch": stopping.stopped_epoch,
        f"{name}/trainable": model.trainable,
        f"{name}/best": Path(checkpoint.best_model_path).name,
        f"{name}/best_score": checkpoint.best_model_score.item(),
        f"{name}/parameters": ModelSummary(model).total_parameters,
        f"{name}/weights": sum(p.detach().double().abs().sum().item() for p in model.parameters()),
    }


def evaluate(paths):
    found = {}
    for path in paths:
        model = TransferModel.load_from_checkpoint(path, map_location="cpu")
        model.freeze()
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        tested = trainer.test(model, loaders()[2], verbose=False)[0]
        optimizer = torch.load(path, weights_only=False)["optimizer_states"][0]
        found[str(path)] = {**tested, "groups": [group["lr"] for group in optimizer["param_groups"]]}
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path, nargs="*")
    args = parser.parse_args()
    if args.evaluate is not None:
        print(json.dumps(evaluate(args.evaluate)))
        return
    try:
        pl.Trainer(max_epochs=1, limit_train_batches=-3, logger=False)
    except MisconfigurationException as error:
        print(type(error).__mro__[1].__name__, "as it should be")

    found = run(args.root, "milestones", Milestones(), epochs=6, patience=5)
    found |= run(
        args.root,
        "backbone",
        BackboneFinetuning(
            unfreeze_backbone_at_epoch=2, lambda_func=lambda epoch: 1.5, backbone_initial_ratio_lr=0.1, verbose=False
        ),
        epochs=12,
        patience=2,
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
