"""Run by Lightning's own environment: log the same values through Lightning and through MetricLog, print both.

The values are such that float32 holds every result exactly. Left out of the comparison, because ours differs on
purpose: the plain name of a metric that is logged by step and epoch, between the ends of two epochs.
"""

import json
import logging
import warnings

import lightning
import torch
import torchmetrics
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader, TensorDataset

from holdfast.training.metrics import MetricLog, numbers

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
EPOCHS = 2


def loader(samples):
    return DataLoader(TensorDataset(torch.arange(float(samples)).reshape(samples, 1)), batch_size=4)


TRAIN, VALIDATE = loader(12), [loader(8), loader(16)]


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.called, self.updated = torchmetrics.SumMetric(), torchmetrics.MaxMetric()
        self.by_step, self.late = torchmetrics.MeanMetric(), torchmetrics.SumMetric()
        self.accuracy = torchmetrics.classification.BinaryAccuracy()

    def training_step(self, batch, batch_idx):
        mean = batch[0].mean()
        self.log("loss", mean, on_epoch=True, prog_bar=True)
        self.log("step_only", mean * 2)
        self.log("number", float(batch_idx), on_step=False, on_epoch=True, batch_size=2)
        for reduce_fx in ("sum", "min", "max"):
            self.log(reduce_fx, mean, on_step=False, on_epoch=True, reduce_fx=reduce_fx)
        self.called(mean)
        self.log("called", self.called, on_step=True, on_epoch=True)
        self.updated.update(mean)
        self.log("updated", self.updated, on_step=False, on_epoch=True)
        self.by_step(mean)
        self.log("by_step", self.by_step)
        self.late.update(mean)
        return self.layer(batch[0]).sum()

    def on_train_batch_end(self, *args):
        self.log("after", torch.tensor(5.0), prog_bar=True)

    def on_train_epoch_end(self):
        self.log("late", self.late)

    def validation_step(self, batch, batch_idx, dataloader_idx):
        values = batch[0].squeeze(1)
        self.log("val", values.mean(), on_step=True, on_epoch=True)
        self.log(f"own_{dataloader_idx}", values.max(), add_dataloader_idx=False, prog_bar=True)
        self.accuracy((values > 2).float(), torch.ones(len(values), dtype=torch.int64))
        self.log("nan", float("nan"))

    def on_validation_epoch_end(self):
        self.log("accuracy", self.accuracy)
        self.log("whole", 7.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class Rows(Logger):
    name, version = "rows", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step):
        self.rows.append({k: float(v) for k, v in sorted(metrics.items()) if k != "epoch"})


def shown(callback, progress_bar, rows):
    def text(values):
        return {name: repr(value) for name, value in sorted(values.items())}

    bar = text(numbers(progress_bar))
    return json.dumps(
        {"callback": text(numbers(callback)), "bar": bar, "rows": sorted(str(text(r)) for r in rows if r)}
    )


def through_lightning():
    rows = Rows()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, logger=rows, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Net(), TRAIN, VALIDATE)
    return shown(trainer.callback_metrics, trainer.progress_bar_metrics, rows.rows)


def through_ours():
    net, log, rows, steps = Net(), MetricLog(), [], 0
    hook = ""
    net.log = lambda name, value, **options: log.log(name, value, hook=hook, **options)

    def validate(stage, limit):
        nonlocal hook
        log.begin_stage(stage, dataloaders=2)
        for index, batches in enumerate(VALIDATE):
            for batch_idx, batch in list(enumerate(batches))[:limit]:
                log.begin_batch(batch, index)
                hook = "validation_step"
                net.validation_step(batch, batch_idx, index)
                log.end_batch(steps)
                if stage != "sanity":
                    rows.append(numbers(log.step_values()))
        log.end_batches(steps)
        hook = "on_validation_epoch_end"
        net.on_validation_epoch_end()
        values = numbers(log.end_stage(steps))
        rows.append({} if stage == "sanity" else values)

    with torch.inference_mode():
        validate("sanity", 2)
    for _ in range(EPOCHS):
        log.begin_stage("train")
        for batch_idx, batch in enumerate(TRAIN):
            log.begin_batch(batch)
            hook = "training_step"
            net.training_step(batch, batch_idx)
            steps += 1
            hook = "on_train_batch_end"
            net.on_train_batch_end()
            log.end_batch(steps)
            rows.append(numbers(log.step_values()))
        with torch.inference_mode():
            validate("validate", None)
        log.end_batches(steps)
        hook = "on_train_epoch_end"
        net.on_train_epoch_end()
        rows.append(numbers(log.end_stage(steps)))
    return shown(log.callback, log.progress_bar, rows)


theirs, ours = through_lightning(), through_ours()
print(theirs)
print(ours)
