"""A script as users write one, started in every way there is; says what each rank knows at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from holdfast import LightningDataModule, LightningModule, Trainer, seed_everything
from holdfast.callbacks import EarlyStopping, ModelCheckpoint
from holdfast.loggers import CSVLogger


class Small(LightningModule):
    """Fails or is told to end, where its options say so."""

    def __init__(self, does: str = "trains") -> None:
        super().__init__()
        self.does = does
        self.net = nn.Linear(5, 7)

    def training_step(self, batch, batch_idx):
        if self.global_step == 3 and self.global_rank == 1:
            if self.does == "raises":
                raise ValueError("on purpose")
            if self.does == "signalled":
                os.kill(os.getpid(), signal.SIGTERM)
        loss = self.net(batch[0]).pow(2).mean()
        self.log("loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", self.net(batch[0]).pow(2).mean(), sync_dist=True)

    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def rows() -> DataLoader:
    """Sixteen rows, in batches of two."""
    return DataLoader(TensorDataset(torch.randn(16, 5, generator=torch.Generator().manual_seed(1))), batch_size=2)


def run(strategy: str, folder: str, does: str = "trains", *, again: bool = True, hosts: int = 1) -> dict[str, Any]:
    """Fit on two ranks, on one host or on two, look at everything; then validate and fit on, if ``again`` is true."""
    seed_everything(1, verbose=False)
    saver = ModelCheckpoint(monitor="val", save_top_k=2, save_last=True)
    stopper = EarlyStopping("val", patience=5)
    trainer = Trainer(
        accelerator="cpu", strategy=strategy, devices=2 // hosts, num_nodes=hosts, max_epochs=2,
        callbacks=[saver, stopper], logger=CSVLogger(folder), enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    module = Small(does)
    trainer.fit(module, rows(), rows())
    said = {
        "rank": trainer.global_rank,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "best": os.path.relpath(saver.best_model_path, folder),
        "score": float(saver.best_model_score),
        "top": sorted(Path(path).name for path in saver.best_k_models),
        "last": os.path.relpath(saver.last_model_path, folder),
        "version": trainer.logger.version,
        "stopper": float(stopper.best_score),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "weights": module.net.weight.flatten().tolist(),
        "logged": sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("metrics.csv")),
    }
    if again:
        (values,) = trainer.validate(module, rows(), verbose=False)
        (best,) = trainer.validate(dataloaders=rows(), verbose=False, ckpt_path="best")
        said |= {"val": values["val"], "best val": best["val"]}
        trainer.config = replace(trainer.config, max_epochs=3)
        trainer.fit(module, rows(), rows())
        names = sorted(path.name for path in Path(saver.dirpath).glob("*.ckpt"))
        said |= {"went on to": [trainer.current_epoch, trainer.global_step], "names": names}
    return said


def spawned(strategy: str, folder: str, does: str) -> dict[str, Any]:
    """As a child of the fork server, which is no rank."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        os.environ.pop(name)
    return run(strategy, folder, does, again=strategy == "ddp_fork")


def on_host(folder: str) -> dict[str, Any]:
    """As a child of the fork server, which plays a host on which a script is started once."""
    become_host()
    return run("ddp", folder, again=False, hosts=2)


def become_host() -> None:
    """Know of the job what such a host knows."""
    os.environ["NODE_RANK"] = os.environ.pop("RANK")
    for name in ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name)


class Prepared(LightningDataModule):
    """Says who has prepared it.

    Args:
        per_node: On every host.
        said: Where to say so.
    """

    def __init__(self, per_node: bool, said: list[str]) -> None:
        super().__init__()
        self.prepare_data_per_node, self.said = per_node, said

    def prepare_data(self) -> None:
        self.said.append("data")

    def val_dataloader(self) -> DataLoader:
        return rows()


def preparing(folder: str) -> list[list[str]]:
    """On one of two hosts: who was prepared, where the datamodule is for each host, and where the module is."""
    become_host()
    trainer = Trainer(
        accelerator="cpu", strategy="ddp", devices=1, num_nodes=2, logger=False, enable_progress_bar=False,
        default_root_dir=folder,
    )  # fmt: skip
    all_said = []
    for per_node in (True, False):
        said: list[str] = []
        module = Small()
        module.prepare_data_per_node = not per_node
        module.prepare_data = lambda said=said: said.append("module")
        trainer.validate(module, datamodule=Prepared(per_node, said), verbose=False)
        all_said.append(said)
    return all_said


if __name__ == "__main__":
    _, strategy, folder, does, out = sys.argv
    said = run(strategy, folder, does, again=False)
    Path(f"{out}.{said['rank']}").write_text(json.dumps(said))
