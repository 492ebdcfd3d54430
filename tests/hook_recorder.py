"""Record every hook of a small run, in Holdfast or in Lightning: whichever package is handed over."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

SCENARIOS = (
    "fit", "fit once", "fit accumulate", "fit several", "fit plateau between", "fit plateau step", "fit step",
    "fit manual",
    "fit dict clip", "fit none accumulate", "fit stop", "fit max_steps", "fit skip", "fit raises", "validate", "test",
    "predict", "predict several",
)  # fmt: skip

_MODULE = [
    "configure_callbacks",
    "configure_model",
    "configure_optimizers",
    "prepare_data",
    "setup",
    "teardown",
    "on_fit_start",
    "on_fit_end",
    "on_train_start",
    "on_train_end",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_batch_start",
    "on_train_batch_end",
    "training_step",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "backward",
    "manual_backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "on_validation_model_zero_grad",
    "on_validation_model_eval",
    "on_validation_model_train",
    "on_test_model_eval",
    "on_test_model_train",
    "on_validation_start",
    "on_validation_end",
    "on_validation_epoch_start",
    "on_validation_epoch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "validation_step",
    "on_test_start",
    "on_test_end",
    "on_test_epoch_start",
    "on_test_epoch_end",
    "on_test_batch_start",
    "on_test_batch_end",
    "test_step",
    "on_predict_model_eval",
    "on_predict_start",
    "on_predict_end",
    "on_predict_epoch_start",
    "on_predict_epoch_end",
    "on_predict_batch_start",
    "on_predict_batch_end",
    "predict_step",
    "on_save_checkpoint",
    "on_load_checkpoint",
]
_CALLBACK = [name for name in _MODULE if name.startswith("on_") and not name.endswith(("eval", "model_train"))]
_CALLBACK = [name for name in _CALLBACK if name != "on_validation_model_zero_grad"]
_CALLBACK += ["setup", "teardown", "on_sanity_check_start", "on_sanity_check_end", "on_exception"]
_DATA = [
    "prepare_data",
    "setup",
    "teardown",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_exception",
]


def record(package: Any, callback: type, scenario: str, folder: Any) -> list[str]:
    """Run a scenario; each call as ``who hook(arguments) epoch step``.

    Args:
        package: Has ``LightningModule``, ``LightningDataModule`` and ``Trainer``.
        callback: Its class ``Callback``.
        scenario: Words that change the plain fit of two epochs.
        folder: Where nothing should be written.
    """
    words = scenario.split()
    calls: list[str] = []
    module = _recorded(_net(package.LightningModule, words), "module", _MODULE, calls)()
    data = _recorded(_data(package.LightningDataModule, words), "data", _DATA, calls)()
    told = _recorded(callback, "callback", _CALLBACK, calls)()
    options: dict[str, Any] = {
        "max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "callbacks": [told], "default_root_dir": str(folder), "accelerator": "cpu",
    }  # fmt: skip
    changes = {
        "accumulate": {"accumulate_grad_batches": 2},
        "clip": {"gradient_clip_val": 1.0},
        "between": {"val_check_interval": 1},
        "max_steps": {"max_steps": 3},
        "once": {"max_epochs": 1},
    }
    for word in words:
        options |= changes.get(word, {})
    trainer = package.Trainer(**options)
    if words[0] != "fit":
        options = {} if words[0] == "predict" else {"verbose": False}
        getattr(trainer, words[0])(module, datamodule=data, **options)
        return calls
    try:
        trainer.fit(module, datamodule=data)
    except ZeroDivisionError:
        calls.append("raised")
    calls.append(f"after fit {trainer.current_epoch} {trainer.global_step}")
    return calls


def _net(base: type, words: list[str]) -> type:
    class Net(base):  # type: ignore[misc,valid-type]
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)
            self.automatic_optimization = "manual" not in words

        def on_train_batch_start(self, batch, batch_idx):
            return -1 if "skip" in words and batch_idx == 1 else None

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch[0]).pow(2).mean()
            self.log("train_loss", loss)
            if "manual" in words:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                if self.trainer.is_last_batch:
                    self.lr_schedulers().step()
            if "raises" in words and batch_idx == 1:
                raise ZeroDivisionError
            if "stop" in words:
                self.trainer.should_stop = True
            if "none" in words and batch_idx == 0:
                return None
            return {"loss": loss, "extra": 1} if "dict" in words else loss

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", self.layer(batch[0]).pow(2).mean())
            return 7

        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.layer(batch[0]).pow(2).mean())
            return 7

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return self.layer(batch[0])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            interval = "step" if "step" in words else "epoch"
            if "plateau" in words:
                scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
                monitor = "train_loss" if "step" in words else "val_loss"
                config = {"scheduler": scheduler, "monitor": monitor, "interval": interval}
                return {"optimizer": optimizer, "lr_scheduler": config}
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": interval}]

    return Net


def _data(base: type, words: list[str]) -> type:
    class Data(base):  # type: ignore[misc,valid-type]
        def train_dataloader(self):
            return _loader(3 if "accumulate" in words else 1 if "once" in words else 2)

        def val_dataloader(self):
            return [_loader(1), _loader(1)] if "several" in words else _loader(1)

        def test_dataloader(self):
            return _loader(1)

        def predict_dataloader(self):
            return [_loader(1), _loader(1)] if "several" in words else _loader(1)

    return Data


def _loader(batches: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(batches * 2, 4)), batch_size=2)


def _recorded(base: type, who: str, names: list[str], calls: list[str]) -> type:
    def wrapped(name, original):
        def hook(self, *args, **kwargs):
            trainer = (
                args[0] if who == "callback" else getattr(self, "_trainer" if who == "module" else "trainer", None)
            )
            shown = [_brief(a) for a in (args[2:] if who == "callback" else args)]
            shown += [f"{k}={_brief(v)}" for k, v in kwargs.items()]
            where = f" {trainer.current_epoch} {trainer.global_step}" if trainer is not None else ""
            calls.append(f"{who} {name}({', '.join(shown)}){where}")
            return original(self, *args, **kwargs)

        hook.__name__ = name
        return hook

    body = {name: wrapped(name, getattr(base, name)) for name in names if hasattr(base, name)}
    return type(f"Recorded{who}", (base,), body)


def _brief(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor{list(value.shape)}{' with graph' if value.requires_grad else ''}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_brief(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_brief, value))}]"
    if isinstance(value, str):
        return repr(str.__str__(getattr(value, "value", value)))
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    if hasattr(value, "param_groups"):
        return "optimizer"
    return "closure" if callable(value) else type(value).__name__
