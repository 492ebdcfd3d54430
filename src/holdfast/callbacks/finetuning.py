"""Freeze parts of a module, and train them from some epoch on. What is frozen is part of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError, Incompatible
from holdfast.log import logger

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

Modules = nn.Module | Iterable[Any]


def multiplicative(epoch: int) -> float:
    """Twice as much every epoch."""
    return 2.0


class BaseFinetuning(Callback):
    """The base of callbacks that freeze parts of a module before training, and unfreeze them later.

    Override ``freeze_before_training``, which is called before ``configure_optimizers``, and ``finetune_function``,
    which is called once at each epoch's beginning for each optimizer. Give the optimizer only what is to be trained:
    ``filter(lambda p: p.requires_grad, self.parameters())``.

    A checkpoint holds which parameters are frozen, and by their names those of each parameter group: a resumed run
    trains what the interrupted one trained.
    """

    def __init__(self) -> None:
        self._groups: dict[int, list[dict[str, Any]]] = {}
        self._frozen: dict[str, bool] = {}
        self._still: list[str] = []
        self._finetuned = -1

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze what is not to be trained from the beginning."""
        raise NotImplementedError

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Unfreeze what is to be trained from this epoch on, and give it to the optimizer."""
        raise NotImplementedError

    # What is saved

    def state_dict(self) -> dict[str, Any]:
        """What is frozen, and the names of the parameters in each group, as of the last save or epoch's beginning."""
        return {
            "internal_optimizer_metadata": self._groups,
            "requires_grad": self._frozen,
            "still_norms": self._still,
            "finetuned_epoch": self._finetuned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._groups = state_dict["internal_optimizer_metadata"]
        self._frozen = state_dict.get("requires_grad", {})
        self._still = state_dict.get("still_norms", [])
        self._finetuned = state_dict.get("finetuned_epoch", self._finetuned)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note down what is trained now."""
        self._note(trainer, pl_module)
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Freeze and group as it was, before the optimizers' states are put back.

        Raises:
            Incompatible: The module lacks a parameter that was trained.
        """
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is None:
            return
        parameters = dict(pl_module.named_parameters())
        groups = state["internal_optimizer_metadata"]
        missing = {n for every in groups.values() for group in every for n in group["params"]} - set(parameters)
        if missing:
            raise Incompatible(
                f"does not fit: {type(self).__name__} had {', '.join(sorted(missing))} trained, and the module has "
                "none of that name.",
                checkpoint=str(trainer.ckpt_path),
                good="Nothing was changed, neither in memory nor on disk.",
                remedy="Build the same model as when it was saved.",
            )
        begun = [len(optimizer.param_groups) for optimizer in trainer.optimizers]
        names = {id(parameter): name for name, parameter in parameters.items()}
        for index, optimizer in enumerate(trainer.optimizers):
            there = [group["params"] for group in groups.get(index, [])]
            if there and there != [_named(group, names)["params"] for group in optimizer.param_groups]:
                _regroup(optimizer, groups[index], parameters)
        if "requires_grad" in state:
            for name, asks in state["requires_grad"].items():
                if name in parameters:
                    parameters[name].requires_grad = asks
            for name, layer in pl_module.named_modules():
                if isinstance(layer, _BatchNorm):
                    layer.track_running_stats = name not in state["still_norms"]
            return
        for index, every in groups.items():  # another program's file: what came later, was unfrozen
            for group in every[begun[index] :]:
                for name in group["params"]:
                    parameters[name].requires_grad = True

    # The course of a fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze, before optimizers are made."""
        if stage == "fit":
            self._finetuned = -1
            self._groups, self._frozen, self._still = {}, {}, []
            self.freeze_before_training(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze, once an epoch: a run that goes on in the middle of one has done it."""
        epoch = trainer.current_epoch
        if epoch > self._finetuned:
            for optimizer in trainer.optimizers:
                self.finetune_function(pl_module, epoch, optimizer)
            self._finetuned = epoch
        self._note(trainer, pl_module)

    def _note(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        self._groups = {
            index: [_named(group, names) for group in optimizer.param_groups]
            for index, optimizer in enumerate(trainer.optimizers)
        }
        self._frozen = {name: parameter.requires_grad for name, parameter in pl_module.named_parameters()}
        self._still = [
            name
            for name, layer in pl_module.named_modules()
            if isinstance(layer, _BatchNorm) and not layer.track_running_stats
        ]

    # Verbs for those who override the two

    @staticmethod
    def flatten_modules(modules: Modules) -> list[nn.Module]:
        """A module, or several nested in any way, as a list of those with parameters of their own or without parts."""
        if isinstance(modules, nn.ModuleDict):
            modules = modules.values()
        if isinstance(modules, Iterable):
            found = [one for each in modules for one in BaseFinetuning.flatten_modules(each)]
        else:
            found = list(modules.modules())
        return [one for one in found if not list(one.children()) or one._parameters]

    @staticmethod
    def filter_params(modules: Modules, train_bn: bool = True, requires_grad: bool = True) -> Iterator[nn.Parameter]:
        """The parameters that ask for gradients, or those that do not.

        Args:
            modules: Of which modules.
            train_bn: Whether batch norms are among them.
            requires_grad: Which of the two.
        """
        for layer in BaseFinetuning.flatten_modules(modules):
            if train_bn or not isinstance(layer, _BatchNorm):
                yield from (p for p in layer.parameters(recurse=False) if p.requires_grad == requires_grad)

    @staticmethod
    def make_trainable(modules: Modules) -> None:
        """Let parameters ask for gradients, and batch norms measure."""
        for layer in BaseFinetuning.flatten_modules(modules):
            if isinstance(layer, _BatchNorm):
                layer.track_running_stats = True
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad = True

    @staticmethod
    def freeze_module(module: nn.Module) -> None:
        """Freeze the parameters that a module has itself, without those of its parts."""
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False

    @staticmethod
    def freeze(modules: Modules, train_bn: bool = True) -> None:
        """Freeze modules with all their parts; batch norms stay trained with ``train_bn``."""
        for layer in BaseFinetuning.flatten_modules(modules):
            if isinstance(layer, _BatchNorm) and train_bn:
                BaseFinetuning.make_trainable(layer)
            else:
                BaseFinetuning.freeze_module(layer)

    @staticmethod
    def filter_on_optimizer(optimizer: Optimizer, params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those that the optimizer has not yet; a line says how many it has."""
        has = {id(p) for group in optimizer.param_groups for p in group["params"]}
        given = list(params)
        fresh = [p for p in given if id(p) not in has]
        if len(fresh) < len(given):
            logger.warning(
                "%s of the parameters to unfreeze are in the optimizer already, and stay in the group that they are "
                "in. Make it of those that are trained alone: filter(lambda p: p.requires_grad, self.parameters())",
                len(given) - len(fresh),
            )
        return fresh

    @staticmethod
    def unfreeze_and_add_param_group(
        modules: Modules,
        optimizer: Optimizer,
        lr: float | None = None,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
    ) -> None:
        """Let modules be trained, in a parameter group of their own.

        Args:
            modules: The modules.
            optimizer: Who trains them.
            lr: At which learning rate; by default that of the first group, divided by ``initial_denom_lr``.
            initial_denom_lr: See there.
            train_bn: Whether batch norms are trained too.
        """
        BaseFinetuning.make_trainable(modules)
        rate = float(lr) if lr is not None else optimizer.param_groups[0]["lr"] / initial_denom_lr
        params = BaseFinetuning.filter_params(modules, train_bn=train_bn, requires_grad=True)
        fresh = BaseFinetuning.filter_on_optimizer(optimizer, params)
        if fresh:
            optimizer.add_param_group({"params": fresh, "lr": rate})


class BackboneFinetuning(BaseFinetuning):
    """Freeze ``pl_module.backbone``, unfreeze it at an epoch, and raise its learning rate from epoch to epoch.

    Args:
        unfreeze_backbone_at_epoch: When, from 0; a fit that begins later unfreezes it at its beginning.
        lambda_func: From the epoch (from 0, the next one), the factor by which the backbone's rate grows.
        backbone_initial_ratio_lr: The backbone's first rate, as a share of that of the rest.
        backbone_initial_lr: The backbone's first rate itself, instead.
        should_align: Whether the backbone's rate stops growing where it reaches that of the rest.
        initial_denom_lr: Unused where either of the first two gives a rate, as they do by default.
        train_bn: Whether batch norms of the backbone are trained once it is unfrozen.
        verbose: Whether a line says both rates at each epoch's beginning.
        rounding: Digits in that line.

    Raises:
        ConfigError: When fit begins, the module has no ``backbone``.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = 10,
        lambda_func: Callable[[int], float] = multiplicative,
        backbone_initial_ratio_lr: float = 10e-2,
        backbone_initial_lr: float | None = None,
        should_align: bool = True,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        verbose: bool = False,
        rounding: int = 12,
    ) -> None:
        super().__init__()
        self.unfreeze_backbone_at_epoch = unfreeze_backbone_at_epoch
        self.lambda_func = lambda_func
        self.backbone_initial_ratio_lr = backbone_initial_ratio_lr
        self.backbone_initial_lr = backbone_initial_lr
        self.should_align = should_align
        self.initial_denom_lr = initial_denom_lr
        self.train_bn = train_bn
        self.verbose = verbose
        self.rounding = rounding
        self.previous_backbone_lr: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """With the backbone's rate."""
        return {**super().state_dict(), "previous_backbone_lr": self.previous_backbone_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.previous_backbone_lr = state_dict["previous_backbone_lr"]
        super().load_state_dict(state_dict)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze the backbone."""
        self.previous_backbone_lr = None
        backbone = getattr(pl_module, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ConfigError(
                f"BackboneFinetuning: {type(pl_module).__name__} has no module named 'backbone'.",
                remedy="Name the part that is to be frozen self.backbone.",
            )
        self.freeze(backbone)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Unfreeze it, then raise its rate."""
        rate = optimizer.param_groups[0]["lr"]
        if epoch < self.unfreeze_backbone_at_epoch:
            return
        if self.previous_backbone_lr is None:
            first = self.backbone_initial_lr
            backbone_rate = rate * self.backbone_initial_ratio_lr if first is None else first
            backbone: Any = pl_module.backbone
            self.unfreeze_and_add_param_group(
                backbone, optimizer, backbone_rate, train_bn=self.train_bn, initial_denom_lr=self.initial_denom_lr
            )
        else:
            backbone_rate = self.lambda_func(epoch + 1) * self.previous_backbone_lr
            if self.should_align and backbone_rate > rate:
                backbone_rate = rate
            optimizer.param_groups[-1]["lr"] = backbone_rate
        self.previous_backbone_lr = backbone_rate
        if self.verbose:
            logger.info(
                "learning rate %s, of the backbone %s",
                round(float(rate), self.rounding),
                round(float(backbone_rate), self.rounding),
            )


def _named(group: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """A parameter group with names for its parameters; those that are not the module's have none."""
    plain = {key: value for key, value in group.items() if key != "params"}
    return {**plain, "params": [names[id(p)] for p in group["params"] if id(p) in names]}


def _regroup(
    optimizer: Optimizer, groups: Iterable[Mapping[str, Any]], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Give an optimizer the groups of a checkpoint; its state, which comes next, sets what else is in them."""
    optimizer.param_groups = [
        {**optimizer.defaults, **group, "params": [parameters[name] for name in group["params"]]} for group in groups
    ]
