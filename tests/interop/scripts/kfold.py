"""Cross-validate a small classifier: a fit for each fold, its best epoch refined by a second fit, then one on all.

python kfold.py --root runs/kfold
python kfold.py --root runs/kfold --evaluate runs/kfold/folds/*.ckpt
"""

import argparse
import copy
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, STEP_OUTPUT, TRAIN_DATALOADERS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

SAMPLES, FEATURES = 120, 8


@dataclass
class Result:
    fold: int
    path: str
    score: float
    epochs: int
    steps: int


def problem() -> TensorDataset:
    """Which side of a bent surface a point is on, with a little noise."""
    with isolate_rng():
        torch.manual_seed(99)
        x = torch.randn(SAMPLES, FEATURES)
        noise = 0.2 * torch.randn(SAMPLES)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + noise > 0).long()
    return TensorDataset(x, y)


class KFoldData(LightningDataModule):
    def __init__(self, folds: int = 3, batch_size: int = 10) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fold: int | None = None
        self.dataset: Dataset | None = None

    def prepare_data(self) -> None:
        problem()

    def setup(self, stage: str) -> None:
        if self.dataset is None:
            self.dataset = problem()
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3)).tolist()
        size = SAMPLES // self.hparams.folds
        held_out = [] if self.fold is None else order[self.fold * size : (self.fold + 1) * size]
        self.train_set = Subset(self.dataset, [i for i in order if i not in set(held_out)])
        self.val_set = Subset(self.dataset, held_out or order[:size])

    def use_fold(self, fold: int | None) -> "KFoldData":
        self.fold = fold
        return self

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> EVAL_DATALOADERS:
        return DataLoader(problem(), batch_size=50)


class Classifier(LightningModule):
    def __init__(self, hidden: int = 24, lr: float = 0.02, dropout: float = 0.2, weight_decay: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.head = nn.Linear(hidden, 2)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        loss = self.loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return {"loss": loss}

    def _evaluate(self, batch: Any, name: str) -> None:
        x, y = batch
        logits = self(x)
        self.log(f"{name}_loss", self.loss(logits, y), prog_bar=True)
        self.log(f"{name}_acc", (logits.argmax(-1) == y).float().mean(), prog_bar=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams.lr, weight_decay=self.hparams.weight_decay)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class KFold:
    """The outer loop: what to fit on which fold, and where its files go."""

    def __init__(self, root: Path, folds: int, max_epochs: int) -> None:
        self.root = root
        self.max_epochs = max_epochs
        self.data = KFoldData(folds)
        self.seen: list[str] = []

    def trainer(self, fold: int, epochs: int, version: str) -> Trainer:
        checkpoint = ModelCheckpoint(
            dirpath=self.root / "folds",
            filename=f"fold{fold}-" + "epoch={epoch:02d}-loss={val_loss:.3f}",
            auto_insert_metric_name=False,
            monitor="val_loss",
            save_top_k=1,
        )
        epoch_ends = LambdaCallback(on_train_epoch_end=lambda t, m: self.seen.append(f"{fold}:{t.current_epoch}"))
        return Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[EarlyStopping(monitor="val_loss", patience=3), epoch_ends, checkpoint],
            logger=CSVLogger(self.root, name="logs", version=version),
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            log_every_n_steps=2,
        )

    def run(self, model: Classifier) -> list[Result]:
        initial = copy.deepcopy(model.state_dict())
        results = []
        for fold in range(self.data.hparams.folds):
            model.load_state_dict(initial)
            trainer = self.trainer(fold, self.max_epochs, f"fold{fold}")
            trainer.fit(model, datamodule=self.data.use_fold(fold))
            callback = trainer.checkpoint_callback
            score, epochs, steps = callback.best_model_score.item(), trainer.current_epoch, trainer.global_step
            results.append(Result(fold, callback.best_model_path, score, epochs, steps))
        return results

    def refine(self, result: Result) -> float:
        """A second fit from the best weights of a fold, with a rate of its own."""
        model = Classifier.load_from_checkpoint(result.path, lr=0.005, dropout=0.0)
        trainer = self.trainer(result.fold, 2, f"fold{result.fold}-refined")
        trainer.fit(model, datamodule=self.data.use_fold(result.fold))
        return trainer.callback_metrics["val_loss"].item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--evaluate", type=Path, nargs="*")
    args = parser.parse_args()
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    if args.evaluate is not None:
        trainer = Trainer(**quiet)
        data = KFoldData()
        found = {
            str(p): trainer.test(Classifier.load_from_checkpoint(p), data, verbose=False)[0] for p in args.evaluate
        }
        print(json.dumps(found))
        return

    seed_everything(42, workers=True)
    model = Classifier()
    kfold = KFold(args.root, args.folds, max_epochs=5)
    results = kfold.run(model)
    refined = [kfold.refine(result) for result in results]

    # and one on everything, for as many epochs as the folds took on average
    final = Trainer(max_epochs=round(statistics.mean(r.epochs for r in results)), **quiet)
    final_model = Classifier()
    final.fit(final_model, kfold.data.use_fold(None))
    final.save_checkpoint(args.root / "final.ckpt", weights_only=True)
    tested = final.test(final_model, datamodule=kfold.data, verbose=False)[0]
    print(
        json.dumps(
            {
                "scores": [r.score for r in results],
                "mean": statistics.mean(r.score for r in results),
                "spread": statistics.stdev(r.score for r in results),
                "best": [Path(r.path).name for r in results],
                "epochs": [r.epochs for r in results],
                "steps": [r.steps for r in results],
                "refined": refined,
                "seen": kfold.seen,
                "final_step": final.global_step,
                **tested,
            }
        )
    )


if __name__ == "__main__":
    main()
