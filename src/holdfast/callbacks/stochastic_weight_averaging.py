"""Average the weights of a fit's last epochs, at a learning rate of their own. Adds no epoch and saves nothing itself.

As in "Averaging Weights Leads to Wider Optima and Better Generalization" (Izmailov et al., 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import SWALR

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.lent_weights import LentWeights, refuse_shards
from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.state import random
from holdfast.state.optimizers import SchedulerConfig

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

AverageFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def equal_weights(average: torch.Tensor, weights: torch.Tensor, averaged: torch.Tensor) -> torch.Tensor:
    """The average of ``averaged`` sets of weights, with one more taken in; all count the same."""
    return average + (weights - average) / (averaged + 1)


_AVERAGE = "average_state_dict"


class StochasticWeightAveraging(Callback):
    """Average the weights at the beginning of each of the last epochs; when the fit is over the module has the average.

    From the first averaged epoch on, a scheduler that goes to ``swa_lrs`` and stays there takes the place of the
    module's own. Where the module has batch norms, the training data is passed once more when training has ended, to
    measure their statistics for the average. Until the fit is over a checkpoint's ``state_dict`` holds the weights
    that are trained, and the state of this callback the average.

    Args:
        swa_lrs: The learning rate to average at: one for all parameter groups, or one for each.
        swa_epoch_start: The first epoch to average, counted from 1, or a share of ``max_epochs``.
        annealing_epochs: Epochs in which the learning rate goes from where it is to ``swa_lrs``.
        annealing_strategy: ``"cos"`` or ``"linear"``: along which curve.
        avg_fn: From the average, the weights and the number of averaged ones (tensors), the new average; by default
            all count the same.
        device: Where the average is kept; None for the module's own.

    Raises:
        ConfigError: Arguments make no sense; all of it in one error. Or, when the fit begins, it has several optimizers
            or schedulers, or a share of epochs was asked for and there is no limit of epochs.
    """

    def __init__(
        self,
        swa_lrs: float | list[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: Literal["cos", "linear"] = "cos",
        avg_fn: AverageFunction | None = None,
        device: torch.device | str | None = "cpu",
    ) -> None:
        rates: list[Any] = swa_lrs if isinstance(swa_lrs, list) else [swa_lrs]
        problems = []
        if not rates or not all(isinstance(rate, float) and rate > 0 for rate in rates):
            problems.append(f"swa_lrs is a positive float, or a list of them, not {swa_lrs!r}")
        whole = isinstance(swa_epoch_start, int)
        if swa_epoch_start < 1 if whole else not 0 <= swa_epoch_start <= 1:
            problems.append(f"swa_epoch_start is an epoch, from 1, or a share from 0.0 to 1.0, not {swa_epoch_start!r}")
        if annealing_strategy not in ("cos", "linear"):
            problems.append(f"annealing_strategy is 'cos' or 'linear', not {annealing_strategy!r}")
        if problems:
            raise ConfigError(f"StochasticWeightAveraging: {'; '.join(problems)}.")
        self._swa_lrs, self._swa_epoch_start = swa_lrs, swa_epoch_start
        self._annealing_epochs, self._annealing_strategy = annealing_epochs, annealing_strategy
        self._avg_fn: AverageFunction = avg_fn or equal_weights
        self._device = None if device is None else torch.device(device)
        self._max_epochs: int | None = None
        self._forget()

    def _forget(self) -> None:
        self.n_averaged = 0
        self._latest_update_epoch = -1
        self._average: nn.Module | None = None
        self._scheduler: SWALR | None = None
        self._read: Mapping[str, torch.Tensor] | None = None
        self._lent: LentWeights | None = None

    @property
    def swa_start(self) -> int:
        """The first epoch that is averaged, from 0."""
        start = self._swa_epoch_start
        if isinstance(start, float):
            assert self._max_epochs is not None, "looked at when a fit begins"
            start = int(self._max_epochs * start)
        return max(start - 1, 0)

    @property
    def swa_end(self) -> float:
        """The last one; infinite where epochs have no limit."""
        return float("inf") if self._max_epochs is None else self._max_epochs - 1

    # What is saved

    def state_dict(self) -> dict[str, Any]:
        """The average, of how many it is, and how far the learning rate has gone."""
        return {
            "n_averaged": self.n_averaged,
            "latest_update_epoch": self._latest_update_epoch,
            "scheduler_state": None if self._scheduler is None else self._scheduler.state_dict(),
            "average_model_state": None if self._average is None else self._average.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.n_averaged = state_dict["n_averaged"]
        self._latest_update_epoch = state_dict["latest_update_epoch"]
        self._read = state_dict["average_model_state"]

    def state_places(self, checkpoint: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Where the part ``average`` is in a checkpoint."""
        return {"average": (_AVERAGE,)} if _AVERAGE in checkpoint else {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Name the average as a part of its own: the same tensors as in this callback's state, written once."""
        if self._average is not None:
            checkpoint[_AVERAGE] = checkpoint["callbacks"][self.state_key]["average_model_state"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where averaging had begun, its scheduler is in place before its state is put back."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is not None and state["scheduler_state"] is not None:
            self._take_over(trainer)

    # The course of a fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit averages anew."""
        if stage == "fit":
            self._forget()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for the average."""
        self._max_epochs = None if trainer.max_epochs == -1 else trainer.max_epochs
        problems = []
        if len(trainer.optimizers) != 1:
            problems.append(f"it averages for one optimizer, and there are {len(trainer.optimizers)}")
        if len(trainer.lr_scheduler_configs) > 1:
            problems.append(f"it takes the place of one scheduler, and there are {len(trainer.lr_scheduler_configs)}")
        if isinstance(self._swa_epoch_start, float) and self._max_epochs is None:
            problems.append("a share of the epochs needs max_epochs: give swa_epoch_start as a whole number")
        if _batch_norms(pl_module) and not pl_module.automatic_optimization:
            problems.append("statistics of batch norms are measured by training_step, which must not step optimizers")
        if problems:
            raise ConfigError(f"StochasticWeightAveraging: {'; '.join(problems)}.")
        refuse_shards(type(self).__name__, pl_module)
        pl_module.trainer = None  # no part of the copy
        try:
            self._average = deepcopy(pl_module)
        finally:
            pl_module.trainer = trainer
        self._average.to(self._device or pl_module.device)
        if self._read is not None:
            self._average.load_state_dict(self._read)
            self._read = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the weights, once an epoch; the first time the learning rate is taken over."""
        epoch = trainer.current_epoch
        if not self.swa_start <= epoch <= self.swa_end:
            return
        if self._scheduler is None:
            self._take_over(trainer)
        if epoch > self._latest_update_epoch:
            self._take_in(pl_module)
            self._latest_update_epoch = epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last epoch the module computes with the average; a save at fit's end still holds both."""
        at_end = self._max_epochs is None or trainer.current_epoch - 1 == self.swa_end
        if not at_end or not self.n_averaged:
            return
        assert self._average is not None, "a fit has an average"
        weights: dict[str, torch.Tensor] = dict(self._average.named_parameters())
        norms = _batch_norms(pl_module)
        for name, norm in norms.items():
            assert norm.running_mean is not None, "_batch_norms finds those with statistics"
            assert norm.running_var is not None, "likewise"
            assert norm.num_batches_tracked is not None, "likewise"
            weights[f"{name}.running_mean"] = torch.zeros_like(norm.running_mean)
            weights[f"{name}.running_var"] = torch.ones_like(norm.running_var)
            weights[f"{name}.num_batches_tracked"] = torch.zeros_like(norm.num_batches_tracked)
        self._lent = LentWeights(pl_module, weights)
        if norms:
            _measure(list(norms.values()), trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A fit that was broken off leaves the weights that were trained."""
        if self._lent is not None:
            self._lent.give_back()
            self._lent = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The module keeps the average."""
        if stage == "fit" and self._lent is not None:
            self._lent.keep()
            self._lent = None

    def _take_in(self, pl_module: LightningModule) -> None:
        assert self._average is not None, "a fit has an average"
        for average, weights in zip(self._average.parameters(), pl_module.parameters(), strict=True):
            now = weights.detach().to(average.device)
            if self.n_averaged:
                now = self._avg_fn(average.detach(), now, torch.tensor(self.n_averaged, device=average.device))
            average.detach().copy_(now)
        self.n_averaged += 1

    def _take_over(self, trainer: Trainer) -> None:
        """Put our scheduler where the module's was."""
        rates: Any = self._swa_lrs
        optimizer = trainer.optimizers[0]
        self._scheduler = SWALR(
            optimizer, rates, anneal_epochs=self._annealing_epochs, anneal_strategy=self._annealing_strategy
        )
        configs = trainer.lr_scheduler_configs
        if configs and (configs[0].interval != "epoch" or configs[0].frequency != 1):
            logger.warning("weights are averaged every epoch, whenever the module's own scheduler stepped")
        if configs:
            before = type(configs[0].scheduler).__name__
            logger.info("the learning rate goes to %s: %s steps no more", self._swa_lrs, before)
        _schedule(trainer, [SchedulerConfig(self._scheduler)])


def _schedule(trainer: Trainer, configs: list[SchedulerConfig]) -> None:
    """From now on the fit steps these schedulers, and saves them."""
    from holdfast.training.schedules import Schedules

    loop = trainer.loop
    assert loop is not None, "a fit has a loop"
    trainer.lr_scheduler_configs[:] = loop.schedulers[:] = configs
    module = trainer.lightning_module
    stepped = configs if module.automatic_optimization else []
    loop.schedules = Schedules(stepped, module, trainer.metric_log, trainer.hook_context)


def _batch_norms(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch norms that keep statistics, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    }


def _measure(norms: list[nn.modules.batchnorm._BatchNorm], trainer: Trainer, pl_module: LightningModule) -> None:
    """Pass the training data once; what steps log is not kept, and the random state is as if nothing had been."""
    from holdfast.training.metrics import SilentLog

    loop = trainer.loop
    assert loop is not None, "a fit has a loop"
    momenta = {norm: norm.momentum for norm in norms}
    log, trainer.metric_log = trainer.metric_log, SilentLog()
    mode, before = pl_module.training, random.capture()
    pl_module.train()
    try:
        for norm in norms:
            norm.momentum = None  # all batches count the same
        with torch.no_grad():
            for index, batch in enumerate(islice(loop.batches.loader, loop.batches.size)):
                trainer.strategy.forward(pl_module.training_step, loop.transfer(batch), index)
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        trainer.metric_log = log
        pl_module.train(mode)
        random.restore(before)
