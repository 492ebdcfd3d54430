"""Keep an average of the weights beside those that are trained. Validates with it; never saves one as the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from holdfast.callbacks.callback import Callback
from holdfast.callbacks.lent_weights import LentWeights, refuse_shards
from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.strategies.single import module_problems, require_none

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

_AVERAGE, _LIVE, _REST = "state_dict", "current_model_state", "averaging_state"
_PREFIX = "module."


class WeightAveraging(Callback):
    """Average the weights while they are trained: validations, and the module after a fit, compute with the average.

    A checkpoint holds both, as two parts: ``state_dict`` is the average, so that whoever loads the file for use gets
    it, and ``current_model_state`` the weights that training goes on with. ``docs/callbacks.md`` shows it.

    Args:
        device: Where the average is kept; None for the module's own device.
        use_buffers: Whether buffers are averaged too; otherwise they follow the module's.
        kwargs: For ``torch.optim.swa_utils.AveragedModel``: ``avg_fn`` or ``multi_avg_fn``. By default all weights
            that were seen count the same.

    Override ``should_update`` to say when the average takes in the weights.
    """

    def __init__(self, device: torch.device | str | int | None = None, use_buffers: bool = True, **kwargs: Any) -> None:
        self._device = torch.device(device) if isinstance(device, str) else device
        self._use_buffers = use_buffers
        self._kwargs = kwargs
        self._average_model: AveragedModel | None = None
        self._latest_update_step = 0
        self._latest_update_epoch = -1
        self._read: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
        self._lent: LentWeights | None = None
        self._fitting = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the average takes in the weights now; by default after every optimizer step.

        Args:
            step_idx: The optimizer step that was taken, from 0; None at an epoch's end.
            epoch_idx: The epoch that ended, from 0; None after a step.
        """
        return step_idx is not None

    # What is saved

    def state_dict(self) -> dict[str, Any]:
        """When the average was last updated; the average itself is a part of the checkpoint."""
        return {"latest_update_step": self._latest_update_step, "latest_update_epoch": self._latest_update_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._latest_update_step = state_dict["latest_update_step"]
        self._latest_update_epoch = state_dict.get("latest_update_epoch", self._latest_update_epoch)

    @property
    def edits_weights(self) -> bool:
        """Whether ``on_save_checkpoint`` has a say in what a file with weights only holds."""
        return self._average_model is not None

    def state_places(self, checkpoint: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Where the parts ``model`` and ``average`` are in a checkpoint that this callback arranged."""
        return {"model": (_LIVE,), "average": (_AVERAGE,)} if _LIVE in checkpoint else {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average beside the weights; in their place, where only weights are saved."""
        if self._average_model is None:
            return
        live = checkpoint[_AVERAGE]
        if not self._fitting:
            if self._lent is None or not self._lent.untouched:
                return  # other weights were loaded since the fit: they are all there is
            live = self._lent.own_state(live)
        state = self._average_model.state_dict()
        checkpoint[_AVERAGE] = {n.removeprefix(_PREFIX): v for n, v in state.items() if n.startswith(_PREFIX)}
        if "optimizer_states" in checkpoint:
            checkpoint[_LIVE] = live
            checkpoint[_REST] = {n: v for n, v in state.items() if not n.startswith(_PREFIX)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Part the two again: training goes on with the weights that were trained.

        Raises:
            Incompatible: The average does not fit the module; nothing was changed.
        """
        if _LIVE in checkpoint and _REST in checkpoint:
            if pl_module.strict_loading:
                problems = module_problems("average", pl_module, checkpoint[_AVERAGE])
                remedy = "Build the same model as when it was saved."
                require_none(problems, checkpoint=str(trainer.ckpt_path), remedy=remedy)
            self._read = (checkpoint[_AVERAGE], checkpoint[_REST])
            checkpoint[_AVERAGE] = checkpoint[_LIVE]
        else:
            logger.warning("the checkpoint holds no average of the weights: averaging begins with its weights")

    # The course of a fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit averages anew; where a trainer goes on with a second fit, steps count on."""
        if stage == "fit":
            self._latest_update_step, self._latest_update_epoch = trainer.global_step, trainer.current_epoch - 1
            self._average_model = self._read = self._lent = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with a copy of the weights, or with the average of the checkpoint."""
        refuse_shards(type(self).__name__, pl_module)
        pl_module.trainer = None  # no part of the copy
        try:
            self._average_model = AveragedModel(
                pl_module, device=self._device, use_buffers=self._use_buffers, **self._kwargs
            )
        finally:
            pl_module.trainer = trainer
        if self._read is not None:
            average, rest = self._read
            self._average_model.module.load_state_dict(average, strict=pl_module.strict_loading)
            self._average_model.load_state_dict(rest, strict=False)
            self._read = None
        self._fitting = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a step, take in the weights where ``should_update`` says so."""
        step = trainer.global_step
        if step > self._latest_update_step and self.should_update(step_idx=step - 1):
            self._update(pl_module)
            self._latest_update_step = step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After an epoch, likewise."""
        epoch = trainer.current_epoch
        if epoch > self._latest_update_epoch and self.should_update(epoch_idx=epoch):
            self._update(pl_module)
            self._latest_update_epoch = epoch

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate with the average."""
        self._lend(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the weights that are trained."""
        self._give_back()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What comes after training computes with the average; a save at fit's end still holds both."""
        self._lend(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A fit that was broken off leaves the weights that were trained."""
        self._give_back()
        self._fitting = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The module keeps the average."""
        if stage == "fit" and self._lent is not None:
            self._lent.keep()
        self._fitting = False

    def _update(self, pl_module: LightningModule) -> None:
        assert self._average_model is not None, "a fit has an average"
        self._average_model.update_parameters(pl_module)

    def _lend(self, pl_module: LightningModule) -> None:
        if self._fitting and self._average_model is not None and self._lent is None:
            average = self._average_model.module
            tensors = {**dict(average.named_parameters()), **dict(average.named_buffers())}
            self._lent = LentWeights(pl_module, tensors)

    def _give_back(self) -> None:
        if self._fitting and self._lent is not None:
            self._lent.give_back()
            self._lent = None


class EMAWeightAveraging(WeightAveraging):
    """Keep an exponential moving average of the weights.

    Args:
        device: Where it is kept; None for the module's own device.
        use_buffers: Whether buffers are averaged too.
        decay: How much of the average stays at an update; 0 to 1.
        update_every_n_steps: Update after every so many optimizer steps; 0 never.
        update_starting_at_step: The first step, from 0, after which it is updated.
        update_starting_at_epoch: The first epoch, from 0, at whose end it is updated; None for not at epochs' ends.
        kwargs: For ``AveragedModel``.

    Raises:
        ConfigError: The decay is no share.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ConfigError(f"EMAWeightAveraging: decay is a share from 0 to 1, not {decay!r}.")
        average: Any = get_ema_avg_fn
        super().__init__(device, use_buffers, **kwargs, avg_fn=average(decay))
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After the steps and epochs that were asked for."""
        if step_idx is not None:
            every, first = self.update_every_n_steps, self.update_starting_at_step or 0
            return every > 0 and step_idx >= first and step_idx % every == 0
        first_epoch = self.update_starting_at_epoch
        return epoch_idx is not None and first_epoch is not None and epoch_idx >= first_epoch
