"""Train on shards that are visited in turn; the datamodule remembers where it is, and a resumed run goes on from there.

python shards.py --root runs/shards
python shards.py --root runs/shards --resume runs/shards/checkpoints/last.ckpt --max-epochs 8
python shards.py --root runs/shards --evaluate runs/shards/checkpoints/*.ckpt
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.core.saving import load_hparams_from_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

log = logging.getLogger(__name__)


def shard(index: int, samples: int) -> TensorDataset:
    """One shard: a noisy line whose slope depends a little on the shard."""
    generator = torch.Generator().manual_seed(100 + index)
    x = torch.rand(samples, 4, generator=generator)
    slope = torch.tensor([1.0, -2.0, 0.5, 0.1 * index])
    return TensorDataset(x, (x @ slope)[:, None] + 0.05 * torch.randn(samples, 1, generator=generator))


class SeededSampler(Sampler):
    """A permutation that its seed alone decides."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed

    def __iter__(self):
        return iter(torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed)).tolist())

    def __len__(self) -> int:
        return self.size


class ShardedData(pl.LightningDataModule):
    """Gives the next shard in every epoch, and counts what was seen of each."""

    def __init__(self, shards: int = 3, samples: int = 48, batch_size: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.next_shard = 0
        self.visits = dict.fromkeys(range(shards), 0)
        self.stages: list[str] = []

    def setup(self, stage: str) -> None:
        self.stages.append(stage)
        self.val = shard(9, 24)

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch
        index = self.next_shard % self.hparams.shards
        data = shard(index, self.hparams.samples)
        log.info("epoch %d reads shard %d", epoch, index)
        return DataLoader(data, self.hparams.batch_size, sampler=SeededSampler(len(data), seed=self.next_shard))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=12)

    def advance(self) -> None:
        self.visits[self.next_shard % self.hparams.shards] += 1
        self.next_shard += 1

    def state_dict(self) -> dict[str, Any]:
        return {"next_shard": self.next_shard, "visits": self.visits}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.next_shard = state_dict["next_shard"]
        self.visits = dict(state_dict["visits"])


class Regression(pl.LightningModule):
    def __init__(self, width: int = 16, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
        self.seen_samples = 0

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.seen_samples += len(x)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        self.log("seen_samples", float(self.seen_samples), reduce_fx="max")
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self(x), y), batch_size=len(x))

    def on_train_epoch_end(self) -> None:
        self.trainer.datamodule.advance()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seen_samples"] = self.seen_samples

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen_samples = checkpoint["seen_samples"]

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Journal(Callback):
    """Writes a line for each epoch, on the first process only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages: set[str] = set()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.stage == RunningStage.SANITY_CHECKING:
            return
        self.stages.add(f"{trainer.state.fn.value}/{trainer.state.stage.value}")
        if trainer.state.fn == TrainerFn.FITTING:
            self.write(f"validation after step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule
        self.write(f"{trainer.current_epoch} {trainer.global_step} {data.next_shard} {pl_module.seen_samples}")

    @rank_zero_only
    def write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")


def fit(args: argparse.Namespace, max_epochs: int, ckpt_path: str | Path | None, version: str) -> dict[str, Any]:
    pl.seed_everything(1234)
    data, model = ShardedData(), Regression()
    newest = ModelCheckpoint(
        dirpath=args.root / "checkpoints", filename="{epoch}-{step}", every_n_train_steps=9, save_top_k=-1
    )
    last = ModelCheckpoint(
        dirpath=args.root / "best", filename="best-{epoch}-{val_loss:.4f}", monitor="val_loss", save_last=True
    )
    journal = Journal(args.root / "journal.txt")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[journal, newest, last],
        logger=CSVLogger(args.root, name="csv", version=version, flush_logs_every_n_steps=5),
        log_every_n_steps=3,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    hparams = load_hparams_from_yaml(Path(trainer.log_dir) / "hparams.yaml")
    return {
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "next_shard": data.next_shard,
        "visits": sorted(data.visits.items()),
        "seen_samples": model.seen_samples,
        "global_step": trainer.global_step,
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
        "momentum": sum(s["momentum_buffer"].abs().sum().item() for s in trainer.optimizers[0].state.values()),
        "hparams": dict(hparams),
        "stages": sorted(journal.stages),
        "best": Path(last.best_model_path).name,
        "status": trainer.state.status,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--max-epochs", type=int, default=6)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--evaluate", type=Path, nargs="*")
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    if args.evaluate is not None:
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        found = {}
        for path in args.evaluate:
            model = Regression.load_from_checkpoint(path)
            measured = trainer.validate(model, datamodule=ShardedData.load_from_checkpoint(path), verbose=False)[0]
            found[str(path)] = {**measured, "seen": model.seen_samples, "shard": trainer.datamodule.next_shard}
        print(json.dumps(found))
    elif args.resume is not None:
        print(json.dumps(fit(args, args.max_epochs, args.resume, "resumed")))
    else:
        half = fit(args, args.max_epochs // 2, None, "half")
        whole = fit(args, args.max_epochs, args.root / "best" / "last.ckpt", "whole")
        print(
            json.dumps({"half": half, "whole": whole, "journal": (args.root / "journal.txt").read_text().split("\n")})
        )


if __name__ == "__main__":
    main()
