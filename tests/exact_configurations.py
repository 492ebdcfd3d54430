"""Fits as users write them, one for each thing that a resume can forget; they run in processes of their own.

``whole`` runs one untouched, ``saved`` saves after every batch and is killed in its last one, ``resumed`` goes on from
one of those files, under another seed. Each leaves a record of what it did.
"""

from __future__ import annotations

import json
import os
import random
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, DistributedSampler, WeightedRandomSampler

import holdfast as L
from exact_fits import Rows, Stream, Unsized
from holdfast import callbacks
from holdfast.callbacks import ModelCheckpoint
from holdfast.catalog.folder import Folder
from holdfast.loggers.base import Logger
from holdfast.store import LocalStore
from holdfast.testing.recording import Recorder, digest, reseed

SAMPLES, BATCHES, EPOCHS, RANKS = 24, 6, 3, 2


def loader(**options):
    options = {"batch_size": 4, "shuffle": True, **options}
    return DataLoader(options.pop("dataset", None) or Rows(SAMPLES), **options)


def noisy(**options):
    return loader(dataset=Rows(SAMPLES, noise=True), **options)


def weighted():
    return noisy(shuffle=False, sampler=WeightedRandomSampler(torch.linspace(0.1, 1, SAMPLES), SAMPLES))


def distributed():
    """As a user shares a loader among ranks; of one process it is the only one."""
    rank, size = int(os.environ.get("RANK", 0)), RANKS if "RANK" in os.environ else 1
    data = Rows(SAMPLES, noise=True)
    return loader(dataset=data, shuffle=False, sampler=DistributedSampler(data, size, rank, seed=3))


def stateful(noise=True, **options):
    """Its workers it seeds itself, each once, and does not say how far they have drawn."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Rows(SAMPLES, noise=noise), batch_size=4, shuffle=True, **options)


class Net(L.LightningModule):
    """Dropout, a momentum, and a loss that is logged by step and by epoch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.validated = []

    def loss(self, batch):
        return (self.layers(batch[0]) - 1).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append((self.global_step, batch_idx, digest(batch)))
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Adam(Net):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Lbfgs(Net):
    """Its optimizer calls the step several times; without dropout, as a line search wants it."""

    def __init__(self):
        super().__init__()
        self.layers[2] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Normed(Net):
    """Running means, which are buffers."""

    def __init__(self):
        super().__init__()
        self.layers.insert(1, nn.BatchNorm1d(8))


class Overflows(Net):
    """Some losses do not fit into fp16: the scaler skips those steps, and its scale is state."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1e4 if batch_idx % 3 == 1 else 1.0)


class Adversaries(Net):
    """Two optimizers by hand, toggled, with a scheduler each."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.judge = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        maker, judge = self.optimizers()
        with maker.toggle_model():
            loss = self.judge(self.layers(batch[0])).square().mean()
            self.manual_backward(loss)
            maker.step()
            maker.zero_grad()
        with judge.toggle_model():
            other = (self.judge(self.layers(batch[0]).detach()) - 1).square().mean()
            self.manual_backward(other)
            judge.step()
            judge.zero_grad()
        self.log_dict({"maker": loss, "judge": other}, on_step=True, on_epoch=True)
        if self.trainer.is_last_batch:
            for scheduler in self.lr_schedulers():
                scheduler.step()

    def configure_optimizers(self):
        made = [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.layers, self.judge)]
        return made, [lr_scheduler.ExponentialLR(one, 0.9) for one in made]


class Untoggled(Adversaries):
    """Each backward pass reaches both networks, and what it leaves in the other one is stepped with later."""

    def training_step(self, batch, batch_idx):
        maker, judge = self.optimizers()
        self.manual_backward(self.judge(self.layers(batch[0])).square().mean())
        maker.step()
        maker.zero_grad()
        if batch_idx % 2:
            judge.step()
            judge.zero_grad()


class AccumulatesByHand(Net):
    """Three batches a step, in the module's own words; the window goes on over an epoch's end."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("seen", torch.tensor(0))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch) / 4
        self.manual_backward(loss)
        self.seen += 1
        if self.seen % 4 == 0:
            self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
        self.log("loss", loss, on_epoch=True)


def scheduled(make: Callable[[Any], Any], **config):
    """The net with a scheduler."""

    class Scheduled(Net):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), **config}}

    return Scheduled


def plateau(optimizer):
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0)


class Measured(Net):
    """Metric objects, logged by epoch and by step, one under two names, and some in the validation."""

    def __init__(self):
        super().__init__()
        import torchmetrics as tm

        self.error, self.least = tm.MeanSquaredError(), tm.MinMetric()
        self.values = tm.CatMetric()
        self.together = tm.MetricCollection({"mse": tm.MeanSquaredError(), "mae": tm.MeanAbsoluteError()})
        self.val_error = tm.MeanSquaredError()

    def training_step(self, batch, batch_idx):
        guess = self.layers(batch[0])
        wanted = torch.ones_like(guess)
        self.error(guess, wanted)
        self.least.update(guess.detach().min())
        self.together.update(guess.detach(), wanted)
        self.log("error", self.error, on_step=True, on_epoch=True)
        self.log("same", self.error, on_step=False, on_epoch=True)
        self.log("least", self.least, on_step=False, on_epoch=True)
        self.log_dict(dict(self.together.items()), on_step=False, on_epoch=True)
        return (guess - wanted).square().mean()

    def validation_step(self, batch, batch_idx):
        guess = self.layers(batch[0])
        self.val_error(guess, torch.ones_like(guess))
        self.log("val_error", self.val_error)


class MeasuredByHand(Net):
    """Metric objects that the module updates, computes and resets itself; one goes on over epochs."""

    def __init__(self):
        super().__init__()
        import torchmetrics as tm

        self.error, self.values, self.ever = tm.MeanSquaredError(), tm.CatMetric(), tm.MeanMetric()
        self.val_values = tm.CatMetric()

    def training_step(self, batch, batch_idx):
        guess = self.layers(batch[0])
        self.error.update(guess.detach(), torch.ones_like(guess))
        self.values.update(guess.detach())
        self.ever.update(guess.detach())
        self.log("ever", self.ever.compute())
        return (guess - 1).square().mean()

    def on_train_epoch_end(self):
        self.log("error", self.error.compute())
        self.log("median", self.values.compute().median())
        self.error.reset()
        self.values.reset()

    def validation_step(self, batch, batch_idx):
        self.val_values.update(self.layers(batch[0]))

    def on_validation_epoch_end(self):
        self.log("val_median", self.val_values.compute().median())
        self.val_values.reset()


class Reduced(Net):
    """Values of an epoch that are no means, and some that only some batches log."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for reduction in ("min", "max", "sum"):
            self.log(reduction, loss, reduce_fx=reduction, on_step=False, on_epoch=True)
        if batch_idx == 1:
            self.log("second", loss, on_step=False, on_epoch=True, batch_size=3)
        return loss


class LogsNorms(L.Callback):
    """Logs when a batch has ended. The module's own hook would run after the save by hand, and not again."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("norm", pl_module.layers[0].weight.norm(), on_step=True, on_epoch=True)


class Mixed(Net):
    """Several loaders in a dict."""

    def loss(self, batch):
        if not isinstance(batch, dict):
            return super().loss(batch)
        return sum(super(Mixed, self).loss(part) for part in batch.values() if part is not None)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_epoch=True, batch_size=4)
        return loss


class Several(Net):
    """Several validations."""

    def validation_step(self, batch, batch_idx, dataloader_idx):
        super().validation_step(batch, batch_idx)


class Starts(Measured):
    """Resets, logs and draws when an epoch begins: it begins once, also where it is resumed in its middle."""

    def on_train_epoch_start(self):
        self.error.reset()
        self.log("drawn", torch.rand(()), reduce_fx="sum")


class Reloads(Net):
    """Another data set in each epoch."""

    def train_dataloader(self):
        return loader(dataset=Rows(16 + 4 * self.current_epoch, noise=True))


class Backboned(Net):
    """For ``BackboneFinetuning``: a backbone that is frozen at first."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = self.layers[0], self.layers[3]
        del self.layers
        self.layers = lambda x: self.head(nn.functional.dropout(self.backbone(x).relu(), 0.3, self.training))

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.05, momentum=0.9)


class Own(Net):
    """A state of the module's own, saved by its hooks, a generator among it."""

    def __init__(self):
        super().__init__()
        self.calls, self.draws = 0, torch.Generator().manual_seed(3)

    def training_step(self, batch, batch_idx):
        self.calls += 1
        noise = torch.rand((), generator=self.draws)
        return super().training_step(batch, batch_idx) * (1 + self.calls / 10 + noise)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["own"] = {"calls": self.calls, "draws": self.draws.get_state()}

    def on_load_checkpoint(self, checkpoint):
        self.calls = checkpoint["own"]["calls"]
        self.draws.set_state(checkpoint["own"]["draws"])


@dataclass(frozen=True)
class Configuration:
    """One way to train.

    Args:
        module: Makes the module.
        data: Makes what it trains on; None for the module's own.
        options: Of the trainer.
        callbacks: Makes them.
        timed: Names of callbacks whose state holds the time, which is another in each run.
        batches: Batches that it trains on.
        validation: Makes the loader of the validation.
    """

    module: Callable[[], Any] = Net
    data: Callable[[], Any] | None = loader
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    batches: int = BATCHES * EPOCHS
    validation: Callable[[], Any] = lambda: DataLoader(Rows(8, noise=True), batch_size=4, shuffle=True)


C = Configuration
TWICE = {"val_check_interval": 0.5}
CONFIGURATIONS = {
    "plain": C(),
    "no validation": C(options={"limit_val_batches": 0}),
    "adam, noise in the training process": C(Adam, noisy),
    "workers that stay, noise in them": C(Adam, lambda: noisy(num_workers=2, persistent_workers=True)),
    "workers, noise in them": C(Adam, lambda: noisy(num_workers=2)),
    "workers of the validation": C(
        Adam,
        noisy,
        validation=lambda: DataLoader(Rows(8, noise=True), batch_size=4, shuffle=True, num_workers=1),
        options=TWICE,
    ),
    "accumulation": C(Adam, options={"accumulate_grad_batches": 4}),
    "accumulation, validated within": C(options={"accumulate_grad_batches": 4, **TWICE}),
    "accumulation by a schedule": C(callbacks=lambda: [callbacks.GradientAccumulationScheduler({0: 1, 1: 4})]),
    "accumulation by hand": C(AccumulatesByHand, options={"limit_val_batches": 0}),
    "bf16": C(Adam, options={"precision": "bf16-mixed"}),
    "fp16": C(Adam, options={"precision": "16-mixed"}),
    "fp16, steps skipped, accumulated": C(
        Overflows, options={"precision": "16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    ),
    "double": C(options={"precision": "64-true"}),
    "two optimizers by hand": C(Adversaries, options=TWICE),
    "two optimizers, untoggled": C(Untoggled),
    "lbfgs": C(Lbfgs),
    "plateau by epoch": C(scheduled(plateau, monitor="val_loss")),
    "plateau by epoch, of training": C(scheduled(plateau, monitor="loss_epoch"), options={"limit_val_batches": 0}),
    "plateau by step": C(scheduled(plateau, monitor="val_loss", interval="step", strict=False), options=TWICE),
    "one cycle": C(scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=18), interval="step")),
    "schedules in a row": C(
        scheduled(
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 6)], [3]
            ),
            interval="step",
            frequency=2,
        )
    ),
    "ema": C(Normed, callbacks=lambda: [callbacks.EMAWeightAveraging(decay=0.8)], options=TWICE),
    "swa": C(
        scheduled(lambda o: lr_scheduler.StepLR(o, 1)),
        callbacks=lambda: [callbacks.StochasticWeightAveraging(0.02, swa_epoch_start=1, annealing_epochs=1)],
    ),
    "weighted": C(Adam, weighted),
    "distributed": C(Adam, distributed),
    "stateful": C(Adam, stateful),
    "stateful, workers": C(Adam, lambda: stateful(num_workers=2, noise=False)),
    "validated twice an epoch": C(options=TWICE),
    "validated every fourth batch": C(options={"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "validated every second epoch": C(options={"check_val_every_n_epoch": 2}),
    "metric objects": C(Measured, options=TWICE),
    "metric objects by hand": C(MeasuredByHand, options=TWICE),
    "metrics reduced otherwise": C(Reduced, options=TWICE, callbacks=lambda: [LogsNorms()]),
    "batch norm": C(Normed),
    "clipped by norm": C(options={"gradient_clip_val": 0.1}),
    "clipped by value": C(options={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "several loaders": C(
        Mixed, lambda: {"long": loader(), "short": loader(dataset=Rows(12, noise=True), batch_size=6)}
    ),
    "several loaders, combined": C(
        Mixed,
        lambda: combined({"long": loader(), "short": loader(dataset=Rows(12), batch_size=6)}, "max_size_cycle"),
    ),
    "several validations": C(
        Several, validation=lambda: [DataLoader(Rows(8, noise=True), batch_size=n, shuffle=True) for n in (4, 3)]
    ),
    "a sampler of one's own": C(data=lambda: DataLoader(Rows(20), batch_size=4, sampler=Unsized()), batches=15),
    "a stream with a state": C(
        data=lambda: DataLoader(Stream(), batch_size=4),
        batches=15,
        options={"val_check_interval": 3, "check_val_every_n_epoch": None},
    ),
    "max_time": C(options={"max_time": timedelta(hours=1)}),
    "max_steps": C(options={"max_steps": 16, "max_epochs": -1}, batches=16),
    "limits": C(options={"limit_train_batches": 5, "limit_val_batches": 1}, batches=15),
    "overfit_batches": C(options={"overfit_batches": 5}, batches=15),
    "reloaded loaders": C(Reloads, None, {"reload_dataloaders_every_n_epochs": 1}, batches=15),
    "callbacks with a state": C(
        Adam,
        callbacks=lambda: [
            callbacks.Timer(timedelta(hours=1)),
            callbacks.EarlyStopping("val_loss", patience=3),
            callbacks.LearningRateMonitor(),
        ],
        options=TWICE,
    ),
    "stopped early": C(callbacks=lambda: [callbacks.EarlyStopping("val_loss", mode="max", patience=1)], batches=12),
    "stopped early, within an epoch": C(
        callbacks=lambda: [callbacks.EarlyStopping("val_loss", mode="max", patience=1)], options=TWICE, batches=9
    ),
    "hooks at an epoch's start": C(Starts, options=TWICE),
    "a backbone that thaws": C(
        Backboned, callbacks=lambda: [callbacks.BackboneFinetuning(1, backbone_initial_lr=0.01, verbose=False)]
    ),
    "a state of one's own": C(Own),
}


def combined(loaders, mode):
    from holdfast.training.combined_loader import CombinedLoader

    return CombinedLoader(loaders, mode)


class Rows_(Logger):
    """A logger that keeps its rows."""

    name, version = "rows", 0

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        timed = ("time",)
        self.rows.append((step, {k: digest(v) for k, v in metrics.items() if not k.startswith(timed)}))

    def log_hyperparams(self, params):
        pass


class Ends(L.Callback):
    """What callbacks see at the end of each epoch of training and of validation."""

    def __init__(self):
        self.seen = []

    def note(self, what, trainer):
        values = {name: digest(value) for name, value in trainer.callback_metrics.items()}
        self.seen.append([what, trainer.current_epoch, trainer.global_step, values])

    def on_train_epoch_end(self, trainer, pl_module):
        self.note("train", trainer)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.note("validation", trainer)


class KilledInItsLastBatch(L.Callback):
    """Saves after each batch by hand, and ends the process when the last one is done."""

    def __init__(self, folder, batches):
        self.folder, self.batches = folder, batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        done = trainer.loop.progress.batches
        trainer.save_checkpoint(self.folder / f"by hand {done}.ckpt")
        if done == self.batches:
            trainer.saving.settle()
            trainer.strategy.group.barrier(phase="the end")
            os.kill(os.getpid(), signal.SIGKILL)


def fit(name, seed, extra=(), ckpt_path=None):
    """Train one configuration; the trainer and what was noted."""
    configuration = CONFIGURATIONS[name]
    spread = {"strategy": "ddp", "devices": RANKS} if "RANK" in os.environ else {}
    reseed(1)  # the module begins as it began
    model = configuration.module()
    reseed(seed)
    os.environ["PL_GLOBAL_SEED"] = str(seed)  # as seed_everything does: the order that ranks share follows from it
    recorder, ends, rows = Recorder(None, Path()), Ends(), Rows_()
    options = {
        "max_epochs": EPOCHS,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 2,
        **configuration.options,
        **spread,
    }
    trainer = L.Trainer(
        callbacks=[recorder, *configuration.callbacks(), ends, *extra], logger=rows, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in extra), **options,
    )  # fmt: skip
    data = None if configuration.data is None else configuration.data()
    trainer.fit(model, data, configuration.validation(), ckpt_path=ckpt_path)
    return trainer, recorder, ends, rows


def record(trainer, recorder, ends, rows):
    """All that was noted, as plain values."""
    found = recorder.record(trainer)
    found["state"]["scaler"] = digest(trainer.strategy.precision.state_dict())
    found["state"]["progress"] = repr(trainer.loop.progress)
    drawn = (random.random(), float(np.random.rand()), torch.rand(4))
    found["state"]["random"] = digest(drawn)
    for callback in trainer.callbacks:
        if not isinstance(callback, (Recorder, Ends, callbacks.Timer, ModelCheckpoint)):
            found["state"][f"callback {callback.state_key}"] = digest(callback.state_dict())
    found["ends"] = ends.seen
    found["validated"] = trainer.lightning_module.validated
    found["rows"] = rows.rows
    found["metrics"] = {name: digest(value) for name, value in trainer.callback_metrics.items()}
    return found


def strictly():
    """A resume that warns of something is one that is not exact."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "'set_vital' is deprecated")
    warnings.filterwarnings("ignore", "The epoch parameter in `scheduler.step")


def whole(name, out):
    """Train to the end; nothing is saved."""
    strictly()
    Path(out).write_text(json.dumps(record(*fit(name, 1))))


def saved(name, folder):
    """Train and save after each batch, in two ways; be killed in the last batch."""
    strictly()
    folder = Path(folder)
    saver = ModelCheckpoint(folder / "automatic", "{step}", train_time_interval=timedelta(0), save_top_k=-1)
    batches = CONFIGURATIONS[name].batches // (RANKS if "RANK" in os.environ else 1)
    fit(name, 1, [saver, KilledInItsLastBatch(folder, batches)])


def resumed(name, path, out):
    """Go on from a file, in a process that was seeded otherwise."""
    strictly()
    Path(out).write_text(json.dumps(record(*fit(name, 987_654_321, ckpt_path=path))))


def ranked(target, *arguments):
    """One of these as a rank of several, each with a record of its own."""
    globals()[target](*(argument.format(rank=os.environ["RANK"]) for argument in arguments))


def files(name, folder, batches=None):
    """The checkpoint after each batch: every second one is the trainer's own, the others were asked for by hand."""
    folder = Path(folder)
    records = Folder(LocalStore(folder / "automatic")).scan().records
    automatic = {one.progress.batches: folder / "automatic" / one.names[0] for one in records}
    found = {}
    for batch in range(1, (batches or CONFIGURATIONS[name].batches) + 1):
        by_hand = folder / f"by hand {batch}.ckpt"
        found[batch] = automatic[batch] if batch % 2 and batch in automatic else by_hand
    return found
