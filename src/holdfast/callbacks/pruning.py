"""Take the least important weights out of a module while it is trained. Masks are part of the checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils import prune

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError
from holdfast.log import logger

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

Amount = int | float
Parameters = Sequence[tuple[nn.Module, str]]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ln_structured": prune.ln_structured,
    "l1_unstructured": prune.l1_unstructured,
    "random_structured": prune.random_structured,
    "random_unstructured": prune.random_unstructured,
}
_METHODS: dict[str, type[prune.BasePruningMethod]] = {
    "ln_structured": prune.LnStructured,
    "l1_unstructured": prune.L1Unstructured,
    "random_structured": prune.RandomStructured,
    "random_unstructured": prune.RandomUnstructured,
}


class ModelPruning(Callback):
    """Prune a module with ``torch.nn.utils.prune`` as it is trained.

    Args:
        pruning_fn: ``"l1_unstructured"``, ``"random_unstructured"``, ``"ln_structured"``, ``"random_structured"``, or a
            ``BasePruningMethod`` of your own (the class).
        parameters_to_prune: Pairs of a module and the name of its parameter; by default all named
            ``parameter_names``.
        parameter_names: Among ``"weight"`` and ``"bias"``; both by default.
        use_global_unstructured: Whether the least important of all are pruned, and not of each parameter.
        amount: How much: a share, a number, or a function of the epoch that gives one of them.
        apply_pruning: Whether to prune, or a function of the epoch that says so.
        make_pruning_permanent: Whether the ``state_dict`` of checkpoints, and of the module after the fit, has plain
            weights with zeros in them. Otherwise it has ``weight_orig`` and ``weight_mask``.
        use_lottery_ticket_hypothesis: Whether weights that are left go back to what they were at the beginning
            ("The Lottery Ticket Hypothesis", Frankle and Carbin, 2018), or a function of the epoch that says so.
        resample_parameters: Whether they are drawn anew instead.
        pruning_dim: The dimension along which structured methods prune.
        pruning_norm: The norm of ``ln_structured``.
        verbose: 1 logs how much is pruned, 2 that of each parameter too.
        prune_on_train_epoch_end: Whether to prune at the end of training epochs, or of validations.

    Raises:
        ConfigError: Arguments make no sense. When a fit begins: a parameter is not the module's.
    """

    PARAMETER_NAMES = ("weight", "bias")

    def __init__(
        self,
        pruning_fn: str | type[prune.BasePruningMethod],
        parameters_to_prune: Parameters = (),
        parameter_names: list[str] | None = None,
        use_global_unstructured: bool = True,
        amount: Amount | Callable[[int], Amount] = 0.5,
        apply_pruning: bool | Callable[[int], bool] = True,
        make_pruning_permanent: bool = True,
        use_lottery_ticket_hypothesis: bool | Callable[[int], bool] = True,
        resample_parameters: bool = False,
        pruning_dim: int | None = None,
        pruning_norm: int | None = None,
        verbose: int = 0,
        prune_on_train_epoch_end: bool = True,
    ) -> None:
        self._given = self._parameters_to_prune = parameters_to_prune
        self._parameter_names = tuple(parameter_names or self.PARAMETER_NAMES)
        self._global = use_global_unstructured
        self.amount = amount
        self._apply_pruning = apply_pruning
        self._permanent = make_pruning_permanent
        self._lottery, self._resample = use_lottery_ticket_hypothesis, resample_parameters
        self._verbose = verbose
        self._at_epoch_end = prune_on_train_epoch_end
        problems = [f"parameter_names are among {self.PARAMETER_NAMES}, not {name!r}"
                    for name in self._parameter_names if name not in self.PARAMETER_NAMES]  # fmt: skip
        if isinstance(amount, bool) or not (isinstance(amount, (int, float)) or callable(amount)):
            problems.append(f"amount is a number or a function of the epoch, not {amount!r}")
        if verbose not in (0, 1, 2):
            problems.append(f"verbose is 0, 1 or 2, not {verbose!r}")
        self._options: dict[str, Any] = {}
        if pruning_fn == "ln_structured":
            self._options["n"] = pruning_norm
        if isinstance(pruning_fn, str) and pruning_fn.endswith("_structured"):
            self._options["dim"] = pruning_dim
        problems += [f"{pruning_fn!r} needs {'pruning_norm' if key == 'n' else 'pruning_dim'}"
                     for key, value in self._options.items() if value is None]  # fmt: skip
        self._method, self._function, more = _chosen(pruning_fn, use_global_unstructured)
        problems += more
        if problems:
            raise ConfigError(f"ModelPruning: {'; '.join(problems)}.")
        self._originals: dict[str, torch.Tensor] = {}
        self._layers: dict[int, nn.Module] = {}
        self._names: dict[tuple[int, str], str] = {}
        self._order: dict[int, list[str]] = {}

    # To override

    def filter_parameters_to_prune(self, parameters_to_prune: Parameters = ()) -> Parameters:
        """Which of the parameters are pruned after all."""
        return parameters_to_prune

    # What is saved

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make pruning permanent in the ``state_dict``; keep what a resumed run needs beside it."""
        state = checkpoint["state_dict"]
        pruned = [name.removesuffix("_mask") for name in state if name.endswith("_mask") and _is_pruned(name, state)]
        if "callbacks" in checkpoint:
            checkpoint["callbacks"][self.state_key] = {
                "masks": {name: state[f"{name}_mask"].bool() for name in pruned},
                # What the masks hide: zeros in the plain weights, and yet part of what training goes on with.
                "hidden": {name: state[f"{name}_orig"][state[f"{name}_mask"] == 0] for name in pruned},
                "originals": self._originals,
            }
        if self._permanent and pruned:
            checkpoint["state_dict"] = permanent(state)

    @property
    def edits_weights(self) -> bool:
        """Whether ``on_save_checkpoint`` has a say in what a file with weights only holds."""
        return self._permanent

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The weights of the beginning are those of the run's beginning."""
        self._originals = dict(state_dict["originals"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Prune the module as it was, before its weights are put back."""
        state = dict(checkpoint["state_dict"])
        kept = checkpoint.get("callbacks", {}).get(self.state_key, {})
        masks = dict(kept.get("masks", {}))
        for name in [n.removesuffix("_mask") for n in state if n.endswith("_mask") and _is_pruned(n, state)]:
            masks.setdefault(name, state[f"{name}_mask"])
        self.make_pruning_permanent(pl_module)
        for name, mask in masks.items():
            if name in state:
                plain = state.pop(name)
                original = plain.clone()
                original[mask == 0] = kept["hidden"][name].to(original.dtype)
                state[f"{name}_orig"], state[f"{name}_mask"] = original, mask.to(plain.dtype)
            path, _, parameter = name.rpartition(".")
            layer = pl_module.get_submodule(path)
            prune.custom_from_mask(  # type: ignore[no-untyped-call]  # torch's stubs lack it
                layer, parameter, mask.to(getattr(layer, parameter).device)
            )
        checkpoint["state_dict"] = state

    # The course of a fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the parameters, and remember them as they are where they may have to come back."""
        if stage != "fit":
            return
        chosen = self.sanitize_parameters_to_prune(pl_module, self._given, self._parameter_names)
        self._parameters_to_prune = self.filter_parameters_to_prune(chosen)
        paths = {id(layer): path for path, layer in pl_module.named_modules()}
        self._names = {
            (id(layer), name): f"{paths[id(layer)]}.{name}".lstrip(".") for layer, name in self._parameters_to_prune
        }
        self._order = {id(layer): list(layer._parameters) for layer, _ in self._parameters_to_prune}
        self._originals, self._layers = {}, {}
        if not self._lottery:
            return
        for layer, name in self._parameters_to_prune:
            if self._resample:
                self._layers.setdefault(id(layer), deepcopy(layer))
            self._originals[self._names[id(layer), name]] = getattr(layer, name).detach().clone()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, if it is here that it is done."""
        if self._at_epoch_end:
            self._run_pruning(trainer.current_epoch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, if it is here that it is done."""
        if not self._at_epoch_end and trainer.state.fn == "fit" and not trainer.sanity_checking:
            with torch.inference_mode(False), torch.no_grad():  # masks made for inference could not be trained with
                self._run_pruning(trainer.current_epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module keeps its zeros; the last checkpoint, which holds the masks, was taken before."""
        if self._permanent:
            self.make_pruning_permanent(pl_module)

    def _run_pruning(self, epoch: int) -> None:
        wanted = self._apply_pruning(epoch) if callable(self._apply_pruning) else self._apply_pruning
        amount = self.amount(epoch) if callable(self.amount) else self.amount
        if not wanted or not amount:
            return
        self.apply_pruning(amount)
        if self._lottery(epoch) if callable(self._lottery) else self._lottery:
            self.apply_lottery_ticket_hypothesis()

    def apply_pruning(self, amount: Amount) -> None:
        """Prune so much of what is left."""
        before = self._pruned()
        if self._global:
            options = {**self._options, "amount": amount}
            takes = set(inspect.signature(self._method).parameters)
            prune.global_unstructured(
                self._parameters_to_prune, self._method, **{k: v for k, v in options.items() if k in takes}
            )
        else:
            for layer, name in self._parameters_to_prune:
                self._function(layer, name=name, amount=amount, **self._options)
        if self._verbose:
            self._say(before, self._pruned())

    def apply_lottery_ticket_hypothesis(self) -> None:
        """Put the weights that are left back to what they were at the beginning, or draw them anew."""
        fresh: dict[int, nn.Module] = {}
        for layer, name in self._parameters_to_prune:
            original = self._originals[self._names[id(layer), name]]
            template = self._layers.get(id(layer))
            if template is not None and callable(getattr(template, "reset_parameters", None)):
                if id(layer) not in fresh:
                    fresh[id(layer)] = deepcopy(template)
                    cast(Any, fresh[id(layer)]).reset_parameters()
                original = getattr(fresh[id(layer)], name).detach()
            pruned = hasattr(layer, f"{name}_orig")
            parameter = getattr(layer, f"{name}_orig") if pruned else getattr(layer, name)
            # New memory, and not a write: a save may still be reading what was there.
            parameter.data = original.to(parameter.device, parameter.dtype, copy=True)

    def make_pruning_permanent(self, module: nn.Module) -> None:
        """Put zeros where the masks are, and take the masks away."""
        for layer in module.modules():
            for key, hook in list(layer._forward_pre_hooks.items()):
                if isinstance(hook, prune.BasePruningMethod):
                    hook.remove(layer)
                    del layer._forward_pre_hooks[key]
            for name in self._order.get(id(layer), ()):  # optimizers know parameters by their order
                layer._parameters[name] = layer._parameters.pop(name)

    @staticmethod
    def sanitize_parameters_to_prune(
        pl_module: nn.Module, parameters_to_prune: Parameters = (), parameter_names: Sequence[str] = ()
    ) -> Parameters:
        """The parameters to prune, or all of those names.

        Raises:
            ConfigError: They are no pairs of a module and a name, or not of this module.
        """
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        layers = [m for m in pl_module.modules() if m is not pl_module and not isinstance(m, containers)]
        if not parameters_to_prune:
            names = parameter_names or ModelPruning.PARAMETER_NAMES
            return [(m, n) for n in names for m in layers if isinstance(getattr(m, n, None), nn.Parameter)]
        wrong = []
        pair: Any
        for pair in parameters_to_prune:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], nn.Module)):
                wrong.append(f"{pair!r} is no pair of a module and a name")
            elif pair[0] not in layers:
                wrong.append(f"{type(pair[0]).__name__} is no part of the module")
            elif not hasattr(*pair):
                wrong.append(f"{type(pair[0]).__name__} has no {pair[1]!r}")
        if wrong:
            raise ConfigError(f"ModelPruning: parameters_to_prune: {'; '.join(wrong)}.")
        return parameters_to_prune

    def _pruned(self) -> list[tuple[int, int]]:
        """Of each parameter, how much is pruned, of how much."""
        masks = [getattr(layer, f"{name}_mask", None) for layer, name in self._parameters_to_prune]
        sizes = [getattr(layer, name).numel() for layer, name in self._parameters_to_prune]
        return [(0 if m is None else int((m == 0).sum()), size) for m, size in zip(masks, sizes, strict=True)]

    def _say(self, before: list[tuple[int, int]], now: list[tuple[int, int]]) -> None:
        total = sum(size for _, size in now) or 1
        were, are = (sum(count for count, _ in one) for one in (before, now))
        logger.info(
            "pruned %s of %s weights (%.2f%%), %s more", f"{are:,}", f"{total:,}", 100 * are / total, are - were
        )
        if self._verbose > 1:
            for (layer, name), (count, size) in zip(self._parameters_to_prune, now, strict=True):
                logger.info("  %s: %s of %s", self._names.get((id(layer), name), name), f"{count:,}", f"{size:,}")


def permanent(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with plain weights where it has weights and masks."""
    plain = {}
    for name, value in state.items():
        if name.endswith("_mask") and _is_pruned(name, state):
            continue
        base = name.removesuffix("_orig")
        if name.endswith("_orig") and _is_pruned(f"{base}_mask", state):
            plain[base] = value * state[f"{base}_mask"].to(value.dtype)
        else:
            plain[name] = value
    return plain


def _is_pruned(mask: str, state: Mapping[str, Any]) -> bool:
    return mask in state and f"{mask.removesuffix('_mask')}_orig" in state


def _chosen(given: Any, everywhere: bool) -> tuple[type[prune.BasePruningMethod], Callable[..., Any], list[str]]:
    """The method and the function that were asked for, and what is wrong with them."""
    method: type[prune.BasePruningMethod] = prune.L1Unstructured
    function: Callable[..., Any] = prune.l1_unstructured
    if isinstance(given, str):
        key = given.lower()
        if key not in _METHODS:
            return method, function, [f"pruning_fn is one of {', '.join(_METHODS)}, or a class, not {given!r}"]
        method, function = _METHODS[key], _FUNCTIONS[key]
    elif inspect.isclass(given) and issubclass(given, prune.BasePruningMethod):
        method, function = given, given.apply
        if not everywhere:
            return method, function, ["a BasePruningMethod prunes all at once: use_global_unstructured=True"]
    else:
        return method, function, [f"pruning_fn is a name or a class of BasePruningMethod, not {given!r}"]
    kind: Any = method
    if everywhere and kind.PRUNING_TYPE != "unstructured":
        return method, function, [f"{method.__name__} prunes in rows: use_global_unstructured=False"]
    return method, function, []
