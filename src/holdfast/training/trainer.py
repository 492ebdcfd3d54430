"""The trainer: puts together what a fit, a validation or a test needs, and runs it. It trains nothing itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError
from holdfast.policy.what import full
from holdfast.policy.what import weights_only as weights_only_what
from holdfast.state.changes import check_choices
from holdfast.state.slurm import SLURMEnvironment
from holdfast.strategies.choose import chosen
from holdfast.training.asked import (
    Together,
    check_fit,
    refuse_beside_barebones,
    refuse_what_is_missing,
)
from holdfast.training.config import Config
from holdfast.training.datamodule import LightningDataModule
from holdfast.training.defaults import all_callbacks, loggers_of
from holdfast.training.hooks import Context
from holdfast.training.metrics import MetricLog
from holdfast.training.module import LightningModule
from holdfast.training.running import Running
from holdfast.training.spellings import accepted, resumed_from
from holdfast.training.states import TrainerFn, TrainerStatus

if TYPE_CHECKING:
    from holdfast.engine.writer import Ticket


class Trainer(Running):
    """Trains a module, and loses none of its work.

    Args:
        accelerator: ``"auto"`` (or None), ``"cpu"``, ``"gpu"`` or ``"cuda"``.
        strategy: ``"auto"``, ``"single_device"``, ``"ddp"``, ``"ddp_spawn"``, ``"ddp_fork"``, ``"ddp_notebook"``; or
            one of ``holdfast.strategies``, with options.
        devices: How many of a host, a list of which, or ``"auto"``; on a CPU each is a process.
        num_nodes: Hosts.
        sync_batchnorm: Whether batch norm looks at the batches of all ranks together.
        use_distributed_sampler: Whether each rank gets its share of the samples; False leaves loaders as they are.
        precision: ``"32-true"``, ``"64-true"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"bf16-true"``, ``"16-true"``.
        logger: False for none; True for the default one.
        callbacks: One or several; checkpoint callbacks run last.
        max_epochs: Epochs at most; -1 for no limit. Without any limit it is 1000.
        max_steps: Optimizer steps at most; -1 for no limit.
        max_time: Time at most: ``"DD:HH:MM:SS"``, a timedelta, or its arguments as a dict.
        limit_train_batches: Batches of an epoch: a number, or a share of them.
        val_check_interval: Validate after a share of an epoch, a number of batches, or a time.
        check_val_every_n_epoch: Validate in every n-th epoch; None counts ``val_check_interval`` over epochs.
        num_sanity_val_steps: Batches of validation before training starts; -1 for all.
        accumulate_grad_batches: Batches whose gradients make one step.
        overfit_batches: Train and validate on so many batches, the same ones in every epoch.
        reload_dataloaders_every_n_epochs: Ask for loaders anew in every n-th epoch; 0 never.
        profiler: ``"simple"``, ``"advanced"``, ``"pytorch"`` or a ``Profiler``: docs/profilers.md.
        detect_anomaly: Let autograd look for the operation that made a NaN; slow.
        barebones: Switch off whatever is not training: logs, checkpoints, bar, summary, sanity check, ``log``.
        enable_autolog_hparams: Whether loggers get the hyperparameters.
        plugins: A ``SLURMEnvironment``: docs/preemption.md; a ``CheckpointIO`` that writes the checkpoints:
            docs/migrating.md.
        on_resume: What to take where the code differs from the checkpoint: ``{"lr": "restore"}`` for the checkpoint's,
            ``"new"`` for the code's (the default), ``"refuse"`` for an error: docs/resume.md.
        save_memory: Bytes of buffers that a save may take, whatever the size of the state; by default 64 MiB, and 4 GiB
            where a GPU lends it. With more of it a step waits less for a slow disk.
        fast_dev_run: Run so many batches of everything once, and save nothing.
        enable_checkpointing: Whether to save; a ``ModelCheckpoint`` is added where there is none.
        default_root_dir: Where logs and checkpoints go that nobody placed; the working directory by default.

    Raises:
        ConfigError: Arguments make no sense or contradict each other; all of it in one error.
    """

    @accepted
    def __init__(
        self,
        *,
        accelerator: str | None = "auto",
        strategy: Any = "auto",
        devices: int | str | Sequence[int] = "auto",
        num_nodes: int = 1,
        precision: str | int | None = "32-true",
        logger: Any = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        fast_dev_run: int | bool = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Any = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Any = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | os.PathLike[str] | None = None,
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
        on_resume: Mapping[str, str] | None = None,
        save_memory: int | None = None,
    ) -> None:
        if barebones:
            refuse_beside_barebones(
                logger=logger, enable_checkpointing=enable_checkpointing, enable_progress_bar=enable_progress_bar,
                enable_model_summary=enable_model_summary, num_sanity_val_steps=num_sanity_val_steps,
                fast_dev_run=fast_dev_run, detect_anomaly=detect_anomaly, log_every_n_steps=log_every_n_steps,
                profiler=profiler,
            )  # fmt: skip
            logger = enable_checkpointing = enable_progress_bar = enable_model_summary = False
            num_sanity_val_steps = log_every_n_steps = 0
        together = Together("Trainer")
        config = together.make(
            Config,
            max_epochs=max_epochs,
            min_epochs=min_epochs,
            max_steps=max_steps,
            min_steps=min_steps,
            max_time=max_time,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=check_val_every_n_epoch,
            num_sanity_val_steps=num_sanity_val_steps,
            log_every_n_steps=50 if log_every_n_steps is None else log_every_n_steps,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
            inference_mode=inference_mode,
            fast_dev_run=fast_dev_run,
            reload_every=reload_dataloaders_every_n_epochs,
            detect_anomaly=detect_anomaly,
            barebones=barebones,
            save_memory=save_memory,
        )
        slurm = together.make(SLURMEnvironment.among, plugins)
        if together.clean:
            self.slurm, plugins = slurm
        if plugins:
            from holdfast.training.checkpoint_io import writer_of

            self.checkpoint_io = together.make(writer_of, plugins)
        together.make(refuse_what_is_missing, model_registry=model_registry)
        self.on_resume = together.make(check_choices, on_resume)
        self.strategy = together.make(
            chosen, strategy, accelerator=accelerator, devices=devices, num_nodes=num_nodes,
            precision=precision or "32-true", sync_batchnorm=sync_batchnorm,
        )  # fmt: skip
        fast = bool(fast_dev_run)
        self.callbacks = together.make(
            all_callbacks, callbacks, bar=enable_progress_bar, summary=enable_model_summary,
            checkpointing=enable_checkpointing, fast=fast,
        )  # fmt: skip
        self.default_root_dir = str(Path(default_root_dir or Path.cwd()).expanduser().absolute())
        self.loggers = together.make(loggers_of, logger, self.default_root_dir, fast)
        if profiler is not None:
            from holdfast.profilers.base import profiler_of

            self._profiler = together.make(profiler_of, profiler)
        together.check()
        self.config = config
        self._log_hparams, self._samples = enable_autolog_hparams, use_distributed_sampler
        self.hook_context, self.metric_log = Context(), MetricLog()
        self.should_stop = self.sanity_checking = False
        self.optimizers, self.lr_scheduler_configs = [], []
        self.ckpt_path = self.loop = self.saving = self._signals = self._brought = None
        self._module = self._datamodule = self._train_batches = None
        self._validation = self._test = self._prediction = None
        self._fn, self._status = None, TrainerStatus.INITIALIZING
        if deterministic is not None:
            torch.use_deterministic_algorithms(bool(deterministic), warn_only=deterministic == "warn")
        if benchmark is not None:
            torch.backends.cudnn.benchmark = benchmark

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train.

        Args:
            model: The module.
            train_dataloaders: Batches to train on, where neither module nor datamodule gives them.
            val_dataloaders: Batches to validate on, likewise.
            datamodule: Gives both instead.
            ckpt_path: Where to go on from: a path, ``"last"`` (the newest state, a rescue included) or ``"best"``.
            weights_only: False gives back values in it that are not plain too, by pickle, which runs code in the file.

        Raises:
            ConfigError: Something is missing or contradicts; before anything is touched.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be gone on from; nothing was changed.
        """
        if isinstance(train_dataloaders, LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        self._check_model(model)
        ckpt_path = resumed_from(self, ckpt_path)
        check_fit(
            model, LightningModule, train=train_dataloaders, val=val_dataloaders, datamodule=datamodule,
            clip=self.config.gradient_clip_val, accumulate=self.config.accumulate_grad_batches,
        )  # fmt: skip
        self._module = model  # a rank of another process takes its own; what comes home comes to this one
        self._run(
            TrainerFn.FITTING,
            ckpt_path,
            partial(self._fit, model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only),
        )

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Run the validation and print what it measured.

        Args:
            model: The module; by default the one of the fit before, with the weights of its best checkpoint.
            dataloaders: Batches, or several loaders; by default the datamodule's or the module's own.
            ckpt_path: Whose weights to take: a path, ``"best"`` or ``"last"``; by default those the module has.
            verbose: Whether to print.
            datamodule: Gives the loaders instead.
            weights_only: False gives hooks what is not plain in the checkpoint too, by pickle, which runs code in it.

        Returns:
            For each loader what was logged over the epoch, by name.

        Raises:
            ConfigError: There is nothing to run.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be used.
        """
        return self._run(
            TrainerFn.VALIDATING,
            ckpt_path,
            partial(self._measured, "validation", model, dataloaders, datamodule, ckpt_path, verbose, weights_only),
        )

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Run the test and print what it measured; arguments, result and errors are those of ``validate``."""
        return self._run(
            TrainerFn.TESTING,
            ckpt_path,
            partial(self._measured, "test", model, dataloaders, datamodule, ckpt_path, verbose, weights_only),
        )

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        return_predictions: bool | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> list[Any] | None:
        """Run ``predict_step`` over batches; without one, the module itself.

        Args:
            model: The module; by default the one of the fit before, with the weights of its best checkpoint.
            dataloaders: Batches, or several loaders; by default the datamodule's or the module's own.
            datamodule: Gives the loaders instead.
            return_predictions: False keeps nothing, for those who write what they get in a callback.
            ckpt_path: Whose weights to take: a path, ``"best"`` or ``"last"``; by default those the module has.
            weights_only: False gives hooks what is not plain in the checkpoint too, by pickle, which runs code in it.

        Returns:
            What the steps returned, batch by batch; for several loaders a list of each; None if it was not kept.

        Raises:
            ConfigError: There is nothing to run.
            NotFound, Corrupt, Incompatible: The checkpoint cannot be used.
        """
        keep = return_predictions is not False
        return self._run(
            TrainerFn.PREDICTING,
            ckpt_path,
            partial(self._predicted, model, dataloaders, datamodule, ckpt_path, keep, weights_only),
        )

    def save_checkpoint(
        self,
        filepath: str | os.PathLike[str],
        weights_only: bool = False,
        storage_options: Any = None,
        *,
        blocking: bool = True,
    ) -> Ticket | None:
        """Save the state as it is now, to that file alone; returns when it is durable. Every rank calls it.

        Args:
            filepath: The file.
            weights_only: Whether to leave out what only resuming needs.
            storage_options: For a ``CheckpointIO`` of your own: it is handed on.
            blocking: False returns at once, and writes while training goes on. After a fit there is nothing to go on
                with, so that it is written before this returns.

        Returns:
            None; of a save that goes on in the background its ticket, whose ``record`` waits and raises as below. What
            nobody asked for is raised by the next ``save_checkpoint``, or at fit's end.

        Raises:
            ConfigError: There is no module yet; or a ``CheckpointIO`` of your own is to write in the background.
            SaveFailed: It was not saved; what stood there stands. On all ranks, with the words of the one that failed.
            RankError: Your ``CheckpointIO`` raised on rank 0, and this is another.
        """
        if self.saving is None:
            raise ConfigError("There is nothing to save yet.", remedy="Call fit() first.")
        if storage_options is not None and self.checkpoint_io is None:
            raise ConfigError("storage_options= are for a CheckpointIO of your own, and this Trainer has none.")
        if not blocking and self.checkpoint_io is not None:
            raise ConfigError("blocking=False is for files that Holdfast writes, and this Trainer has a CheckpointIO.")
        if self._left_alone(str(filepath)):
            return None
        what = weights_only_what if weights_only else full
        if self.checkpoint_io is None:
            return self.saving.save_by_path(what, Path(filepath), blocking=blocking)
        self.saving.settle()
        self._hand_over(self.checkpoint_io, what, filepath, storage_options)
        return None

    def fence(self) -> None:
        """Return when no save reads the state in place: from then on anything may change it.

        A save reads large parameters, and the state of their optimizer, while training goes on; the optimizer's step,
        a validation and the end of an epoch wait for it by themselves. Call this before a hook changes weights in
        another way.
        """
        if self.saving is not None:
            self.saving.fence()

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass with its hooks; ``manual_backward`` comes here."""
        self._running().backward(loss, *args, **kwargs)

    def optimizers_for_module(self, *, wrapped: bool) -> Any:
        """The optimizer, or a list of several."""
        found: list[Any] = list(self._running().wrapped) if wrapped and self.loop is not None else list(self.optimizers)
        return found[0] if len(found) == 1 else found
