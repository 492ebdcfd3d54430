"""Fits in processes of their own that look like a Slurm job's."""

from __future__ import annotations

import os
import signal

import holdfast as L
from holdfast.callbacks import ModelCheckpoint
from holdfast.state.slurm import SLURMEnvironment
from small_fits import Net, loaders


def main(
    root: str,
    folder: str | None,
    environment: dict,
    stop: int | None,
    ckpt_path: str | None,
    number: int,
    options: dict,
) -> None:
    """Train three epochs of four steps; get a signal in the step after ``stop``. Says where it began and ended."""
    os.environ.update(environment)

    def stumble(hook, module):
        if hook == "training_step" and module.global_step == stop:
            os.kill(os.getpid(), number)

    class Said(L.Callback):
        def on_train_start(self, trainer, pl_module):
            print("began", trainer.global_step, flush=True)

    if "requeue_signal" in options:
        options["requeue_signal"] = signal.Signals(options["requeue_signal"])
    L.seed_everything(3)
    saver = ModelCheckpoint(folder, save_last=True)
    trainer = L.Trainer(
        max_epochs=3, callbacks=[saver, Said()], default_root_dir=root, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, logger=False if folder else None, plugins=[SLURMEnvironment(**options)],
    )  # fmt: skip
    trainer.fit(Net(stumble=stumble), *loaders(True), ckpt_path=ckpt_path)
    print("ended", trainer.global_step, trainer.checkpoint_callback.dirpath or "", flush=True)
