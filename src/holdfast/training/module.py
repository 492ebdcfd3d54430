"""The module that users write: steps, hooks, logging. It computes; what runs it is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from holdfast.errors import ConfigError
from holdfast.log import warn
from holdfast.strategies.training import mapped
from holdfast.training.class_only import class_only
from holdfast.training.hparams import HyperparametersMixin
from holdfast.training.module_hooks import ModuleHooks

if TYPE_CHECKING:
    from holdfast.training.trainer import Trainer


class LightningModule(HyperparametersMixin, ModuleHooks, nn.Module):
    """A model with the steps of its training. Every hook may be left out; docs/hooks.md gives their order.

    ``automatic_optimization = False`` in ``__init__`` hands ``zero_grad``, ``manual_backward`` and ``step`` over to
    ``training_step``. ``strict_loading = False``, in the class or in ``__init__``, lets checkpoints lack keys.
    ``prepare_data_per_node = False`` has ``prepare_data`` run on one host alone, and not on each.
    """

    strict_loading: bool = True
    prepare_data_per_node: bool = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trainer: Trainer | None = None
        self.automatic_optimization = True
        self.example_input_array: Any = None

    # What the run knows

    @property
    def trainer(self) -> Trainer:
        """The trainer that runs the module; raises ``RuntimeError`` where none does."""
        if self._trainer is None:
            raise RuntimeError(f"{type(self).__qualname__} is not attached to a Trainer.")
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # Kept off nn.Module's bookkeeping, and off pickles: a trainer is no part of a model.
        object.__setattr__(self, "_trainer", trainer)

    @property
    def current_epoch(self) -> int:
        """The epoch, from 0; 0 without a trainer."""
        return self._trainer.current_epoch if self._trainer is not None else 0

    @property
    def global_step(self) -> int:
        """Optimizer steps done, of all optimizers; 0 without a trainer."""
        return self._trainer.global_step if self._trainer is not None else 0

    @property
    def global_rank(self) -> int:
        """This process among all."""
        return self._trainer.global_rank if self._trainer is not None else 0

    @property
    def local_rank(self) -> int:
        """This process among those of its host."""
        return self._trainer.local_rank if self._trainer is not None else 0

    @property
    def on_gpu(self) -> bool:
        """Whether the parameters are on a GPU."""
        return self.device.type == "cuda"

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return self._trainer.logger if self._trainer is not None else None

    @property
    def loggers(self) -> list[Any]:
        """All loggers."""
        return self._trainer.loggers if self._trainer is not None else []

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a module without any."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' data type; torch's default for a module without any."""
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())

    # Logging

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Log a metric: a number, a one-element tensor, or a torchmetrics object. Where no trainer runs, it warns.

        Args:
            name: Its name, by which it is monitored.
            value: The number. It is kept as it is and read when somebody needs it.
            options: ``prog_bar``, ``logger``, ``on_step``, ``on_epoch`` (both by default as the hook suggests: steps in
                training, epochs elsewhere), ``reduce_fx`` ("mean", "sum", "min", "max" or a function), ``batch_size``,
                ``sync_dist``, ``add_dataloader_idx``, ``metric_attribute``, ``rank_zero_only``, ``enable_graph``.

        Raises:
            ConfigError: The value is no number, or the hook that runs now is no place to log.
        """
        trainer = self._trainer
        if trainer is None:
            # Tests of a module call its steps so.
            text = f"log({name!r}) on a {type(self).__name__} that no trainer runs: nothing is logged."
            warn(text)
            return
        trainer.metric_log.log(name, value, hook=trainer.hook_context.hook, **options)

    def log_dict(self, dictionary: Mapping[str, Any], **options: Any) -> None:
        """Log several metrics with the same options; see ``log``."""
        for name, value in dictionary.items():
            self.log(name, value, **options)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on rank 0, below a progress bar if there is one."""
        if self._trainer is None or self._trainer.is_global_zero:
            print(*args, **kwargs)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Tensors of all ranks, stacked in the order of ranks; with one rank the data as they are. Every rank calls it.

        Args:
            data: A tensor or number, or a structure of them; of one shape on every rank.
            group: Some of the ranks, as torch.distributed has them; by default all.
            sync_grads: Whether the backward pass goes through it.
        """
        strategy = self.trainer.strategy
        gather = partial(strategy.all_gather, group=group, sync_grads=sync_grads)
        return mapped(data, lambda one: gather(torch.as_tensor(one, device=self.device)), (torch.Tensor, int, float))

    # Steps

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of training; returns the loss, a dict with ``loss``, or None to skip the batch."""
        raise NotImplementedError

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of validation."""
        raise NotImplementedError

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of the test."""
        raise NotImplementedError

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of a prediction; by default what the module makes of the batch."""
        return self(args[0])

    def configure_optimizers(self) -> Any:
        """The optimizers and schedulers: an optimizer; a list of them; (optimizers, schedulers); a dict or a tuple of
        dicts with ``optimizer`` and ``lr_scheduler``; or None. docs/trainer.md shows every form.
        """
        raise NotImplementedError

    # Set-up

    def prepare_data(self) -> None:
        """Download and such, in one process of each host (of all hosts, without ``prepare_data_per_node``)."""

    def setup(self, stage: str) -> None:
        """Before anything else, in every process; ``stage`` is fit, validate, test or predict."""

    def teardown(self, stage: str) -> None:
        """After everything else."""

    def configure_model(self) -> None:
        """Build what is too large to build in ``__init__``."""

    def configure_callbacks(self) -> Any:
        """Callbacks to add; one of a class that the trainer has already takes that one's place."""
        return []

    def train_dataloader(self) -> Any:
        """Batches to train on."""
        raise NotImplementedError

    def val_dataloader(self) -> Any:
        """Batches, or a list of loaders, to validate on."""
        raise NotImplementedError

    def test_dataloader(self) -> Any:
        """Batches, or a list of loaders, to test on."""
        raise NotImplementedError

    def predict_dataloader(self) -> Any:
        """Batches, or a list of loaders, to predict on."""
        raise NotImplementedError

    # Optimisation

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or a list of several; their ``step`` counts."""
        return self.trainer.optimizers_for_module(wrapped=use_pl_optimizer)

    def lr_schedulers(self) -> Any:
        """The scheduler, a list of several, or None."""
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return None if not schedulers else schedulers[0] if len(schedulers) == 1 else schedulers

    def manual_backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """``loss.backward()`` with the strategy's precision; for manual optimisation.

        Raises:
            ConfigError: The optimisation is automatic, which does it.
        """
        if self.automatic_optimization:
            raise ConfigError(
                "manual_backward() was called with automatic optimisation, which does the backward pass itself.",
                remedy="Set self.automatic_optimization = False in __init__, or return the loss.",
            )
        self.trainer.backward(loss, *args, **kwargs)

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass itself."""
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch's stubs lack it

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step the optimizer; the closure computes the loss and the gradients."""
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Clear the gradients."""
        self.trainer.strategy.zero_grad(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, which are complete and unscaled."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clip_gradients(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip an optimizer's gradients by ``"norm"`` (the default) or ``"value"``; None does nothing."""
        if gradient_clip_val:
            self.trainer.strategy.clip(optimizer, gradient_clip_val, gradient_clip_algorithm or "norm")

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler; ``metric`` is given to those that look at one."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    def toggle_optimizer(self, optimizer: Any) -> None:
        """Let only this optimizer's parameters ask for gradients, until ``untoggle_optimizer``."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        every = [p for o in (optimizers if isinstance(optimizers, list) else [optimizers]) for p in _parameters(o)]
        asked = getattr(self, "_asked", None) or {p: p.requires_grad for p in every}
        object.__setattr__(self, "_asked", asked)
        own = set(_parameters(optimizer))
        for parameter in every:
            parameter.requires_grad = parameter in own and asked[parameter]

    def untoggle_optimizer(self, optimizer: Any) -> None:
        """Undo ``toggle_optimizer``."""
        for parameter, asked in getattr(self, "_asked", {}).items():
            parameter.requires_grad = asked
        object.__setattr__(self, "_asked", {})

    @contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Generator[None, None, None]:
        """``toggle_optimizer`` for a block."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    # Batches

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch before it goes to the device."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Bring a batch to the device."""
        return self.trainer.strategy.move(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch on the device."""
        return batch

    # Loading

    @class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        on_mismatch: Literal["raise", "skip"] = "raise",
        **kwargs: Any,
    ) -> Any:
        """Build the module with the hyperparameters and the weights of a checkpoint.

        Args:
            checkpoint_path: The file: a path, a URL (http, https, or whatever fsspec opens) or an open binary file.
            map_location: Where tensors go, in any form that ``torch.load`` takes.
            hparams_file: Hyperparameters for a checkpoint without any (.yaml or .csv).
            strict: Whether all keys must match; ``strict_loading`` of the module by default.
            weights_only: False opens a foreign file with pickle, which may run code in it.
            on_mismatch: ``"skip"`` leaves tensors of another shape, such as a new head's, as ``__init__`` has made
                them, and lists them in the log; ``"raise"`` refuses the checkpoint.
            kwargs: Arguments of ``__init__``, over those of the checkpoint.

        Raises:
            NotFound, Corrupt, Incompatible: With what to do.
        """
        from holdfast.training.loading import load_module  # loaded by those who load

        return load_module(
            cls,
            checkpoint_path,
            map_location=map_location,
            hparams_file=hparams_file,
            strict=strict,
            weights_only=weights_only,
            on_mismatch=on_mismatch,
            kwargs=kwargs,
        )

    def freeze(self) -> None:
        """Let no parameter ask for gradients, and go to evaluation mode."""
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Let every parameter ask for gradients, and go to training mode."""
        self.requires_grad_(True)
        self.train()


def _parameters(optimizer: Any) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
