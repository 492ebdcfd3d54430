"""What the layers above ask of a strategy: plain loops of ``Strategy``, the trainer of ``TrainingStrategy``.

They call torch through it alone: whatever differs when there are more processes differs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from holdfast.engine.group import Group
from holdfast.engine.lending import Lent
from holdfast.policy.what import What
from holdfast.state.precision import Precision
from holdfast.strategies.world import World

T = TypeVar("T")


@dataclass(frozen=True)
class Held:
    """The state of some objects, as they themselves give it. Tensors are lent, not copied.

    Args:
        parts: Part name to its state.
        frozen: Dotted names, beginning with the part's, of the modules' parameters that are not trained.
        groups: Part name of an optimizer to the parameter names of each of its groups.
        weights: Dotted names, as in ``frozen``, of the parameters that are trained.
        lent: The tensors that change in a step of an optimizer only; a save reads them in place until then.
    """

    parts: Mapping[str, Any]
    frozen: frozenset[str] = frozenset()
    groups: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    weights: frozenset[str] = frozenset()
    lent: Sequence[Lent] = ()


class Strategy(Protocol):
    """How a state is spread over processes."""

    group: Group

    def capture(self, objects: Mapping[str, Any], what: What) -> Held:
        """The state of ``objects`` by name, those parts that ``what`` wants. Collectives happen here alone."""
        ...

    def restore(
        self,
        objects: Mapping[str, Any],
        parts: Mapping[str, Any],
        *,
        checkpoint: str,
        groups: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        """Put ``parts`` into the objects of the same names.

        Everything that can be checked is checked before anything is changed.

        Args:
            objects: What makes up the state, by part name.
            parts: The state of some of them.
            checkpoint: Where it comes from, for an error.
            groups: Part name of an optimizer to the parameter names of each of its groups, where known.

        Raises:
            Incompatible: Something is missing, extra, of another shape or in another order; all of it in one
                error. Or an object of the user's refused its state.
        """
        ...


class TrainingStrategy(Strategy, Protocol):
    """How a loop computes on one process or many. The verbs stand in the order in which a fit calls them.

    Attributes:
        world: Which of how many processes this is.
        device: Where this rank computes.
        precision: The kind of numbers, and the scaler, whose state is saved.
        spread: Whether no rank holds the whole state, so that it takes all of them to save it.
        divides: Whether each rank writes its own part of a checkpoint, which is a folder then.
        infers: Whether an evaluation may run in torch's inference mode.
        stepping: Whether an optimizer's step is under way, or an error broke one off: the weights are no state then.
    """

    world: World
    device: torch.device
    precision: Precision
    spread: bool
    divides: bool
    infers: bool
    stepping: bool

    def launch(self, run: Callable[[], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """Call ``run`` on every rank, starting those processes that are not there.

        Args:
            run: What every rank does.
            carry: Called on rank 0 afterwards, where that is another process than this one: what must come home.
            take: Called here with that.

        Returns:
            What ``run`` returned on this rank; on rank 0, where this process is none.
        """
        ...

    def model_context(self) -> AbstractContextManager[Any]:
        """The context in which ``configure_model`` makes layers."""
        ...

    def setup(self, module: nn.Module, *, training: bool) -> None:
        """Bring the module to the device, in the kind of numbers asked for, spread as the strategy spreads it."""
        ...

    def setup_optimizers(self, optimizers: Sequence[Optimizer]) -> None:
        """Bring what the optimizers hold already to where their parameters are."""
        ...

    def sampled(self, loader: Any, *, training: bool) -> Any:
        """A loader that gives this rank its share of the samples."""
        ...

    def cast(self, batch: Any) -> Any:
        """A batch in the kind of numbers asked for."""
        ...

    def move(self, batch: Any, device: torch.device) -> Any:
        """Every tensor in a batch, on the device."""
        ...

    def forward(self, step: Callable[..., T], *args: Any) -> T:
        """Call a step of the module, so that its backward pass is followed."""
        ...

    def no_sync(self, module: Any) -> AbstractContextManager[Any]:
        """The context of batches whose gradients wait for more to come to them: ranks need not agree on them yet."""
        ...

    def backward(self, module: Any, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass of a loss."""
        ...

    def clip(self, optimizer: Optimizer, value: float, algorithm: str) -> None:
        """Clip an optimizer's gradients: ``"norm"`` is that of all ranks' gradients together, or by ``"value"``.

        Raises:
            ConfigError: The algorithm is neither.
        """
        ...

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None, before: Callable[[Optimizer], None]) -> Any:
        """Compute the closure, let ``before`` look at the gradients, step the optimizer; what the closure returned."""
        ...

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Drop the gradients."""
        ...

    def whole(self, state: Any) -> tuple[Any, list[torch.Tensor]]:
        """A state with every tensor whole, as a single process would have it, on rank 0 alone. A collective.

        With it come those tensors of it that were made for it, in host memory: nobody else has them.
        """
        ...

    def load_module(self, module: nn.Module, state: Any, *, strict: bool) -> None:
        """Put whole tensors into a module, each rank its part."""
        ...

    def load_optimizer(self, optimizer: Optimizer, state: Any) -> None:
        """Put whole tensors into an optimizer, each rank its part."""
        ...

    def gradients(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The gradients that wait for more of the batches of a step, by parameter name: their mean over all ranks.

        A collective; this rank's part of them, where tensors are divided.
        """
        ...

    def load_gradients(self, module: nn.Module, gradients: Mapping[str, torch.Tensor]) -> None:
        """Put whole gradients back, each rank its part."""
        ...

    def reduce(self, tensor: torch.Tensor, operation: str = "mean", *, what: str = "a value") -> torch.Tensor:
        """The ``"mean"``, ``"sum"``, ``"min"`` or ``"max"`` over all ranks, on each of them."""
        ...

    def all_gather(self, tensor: torch.Tensor, group: Any = None, sync_grads: bool = False) -> torch.Tensor:
        """The tensors of all ranks, stacked on each of them; with one rank the tensor itself."""
        ...

    def waited(self, error: BaseException) -> bool:
        """Whether an error came of waiting for other ranks, and does not say for which."""
        ...

    def synchronise(self) -> None:
        """Wait for the device."""
        ...

    def teardown(self, module: nn.Module) -> None:
        """Leave the module where users can go on with it."""
        ...
