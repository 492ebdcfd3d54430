"""Train a small network on scikit-learn's handwritten digits with a LightningModule and a Trainer.

Run it, kill it however you like, run the same command again: it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast as L
from holdfast.callbacks import ModelCheckpoint

EPOCHS = 40


class Digits(L.LightningModule):
    """A network with one hidden layer."""

    def __init__(self, hidden: int = 128, learning_rate: float = 3e-3):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 10))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.layers(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_acc", (self.layers(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def test_step(self, batch, batch_idx):
        images, labels = batch
        self.log("test_acc", (self.layers(images).argmax(1) == labels).float().mean())

    def on_train_epoch_end(self):
        print(f"epoch {self.current_epoch} done, step {self.global_step}", flush=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)]


def loaders():
    """1,797 images of 8 x 8, bundled with scikit-learn: 1,197 to train, 300 to validate, 300 to test."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    labels = torch.tensor(digits.target)[order]
    train, validate, test = (
        TensorDataset(images[cut], labels[cut]) for cut in (slice(0, -600), slice(-600, -300), slice(-300, None))
    )
    return DataLoader(train, 32, shuffle=True), DataLoader(validate, 300), DataLoader(test, 300)


def main() -> None:
    """Train, or go on training; then test the best checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default="runs/digits_trainer")
    folder = Path(parser.parse_args().dir)

    L.seed_everything(0)
    train, validate, test = loaders()
    best = ModelCheckpoint(folder, "{epoch}-{val_acc:.3f}", monitor="val_acc", mode="max", save_top_k=2, save_last=True)
    trainer = L.Trainer(max_epochs=EPOCHS, callbacks=[best], default_root_dir=folder, enable_progress_bar=False)
    resume = "last" if (folder / "last.ckpt").exists() else None
    trainer.fit(Digits(), train, validate, ckpt_path=resume)

    print(f"best: {Path(best.best_model_path).name}")
    model = Digits.load_from_checkpoint(best.best_model_path)
    (result,) = trainer.test(model, test)
    print(f"test accuracy of the best checkpoint: {result['test_acc']:.1%}")


if __name__ == "__main__":
    main()
