"""Many processes, each with the whole model: gradients are averaged by torch's DistributedDataParallel."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from holdfast.engine.group import TorchGroup
from holdfast.errors import ConfigError, RankError
from holdfast.log import logger
from holdfast.state.precision import Precision
from holdfast.strategies.averaging import averaged
from holdfast.strategies.launch import Launcher
from holdfast.strategies.sharing import shared_out
from holdfast.strategies.training import SingleDevice
from holdfast.strategies.world import World

T = TypeVar("T")

_COLLECTIVES = ("reduce", "all_gather")
_OPERATIONS = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


class Distributed(SingleDevice):
    """What all strategies of many processes have in common: they join, reduce, share the samples out.

    Args:
        devices: The devices of this host, by local rank.
        precision: The kind of numbers.
        launcher: How the processes come about.
        world: Who this process is, as far as that is known before they do.
        backend: Of torch.distributed; by the kind of device by default.
        timeout: How long a rank waits for the others, in a collective or for a message.
    """

    def __init__(
        self,
        devices: list[torch.device],
        precision: Precision,
        launcher: Launcher,
        world: World,
        *,
        backend: str | None = None,
        timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        super().__init__(devices[world.local_rank], precision)
        self.world = world
        self._devices, self._launcher = devices, launcher
        self._backend = backend or ("cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo")
        self._timeout = timeout
        self._reducing: dist.ProcessGroup | None = None

    def launch(self, run: Callable[[], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """Call ``run`` on every rank, once all have joined."""
        result: T = self._launcher.launch(_Joined(self, run), carry=carry, take=take)
        return result

    def join(self, world: World) -> None:
        """Meet the other ranks, once a process."""
        self.world, self.device = world, self._devices[world.local_rank]
        if world.rank:
            logger.setLevel(max(logger.level, logging.WARNING))  # what all ranks do, one tells
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            dist.init_process_group(
                self._backend,
                init_method=f"tcp://{world.address}:{world.port}",
                rank=world.rank,
                world_size=world.size,
                timeout=self._timeout,
            )
            atexit.register(_leave)
        if self._reducing is None:
            # Its own, so that what one rank reduces and another does not is never taken for a gradient.
            self._reducing = dist.new_group(timeout=self._timeout)
        if self.group.size != world.size:
            self.group = TorchGroup(self._timeout.total_seconds())

    def sampled(self, loader: Any, *, training: bool) -> Any:
        """A loader whose samples the ranks take by turns; training alone shuffles and fills up the last turn."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        return shared_out(
            loader, rank=self.world.rank, size=self.world.size, training=training, seed=seed, together=self.spread
        )

    def reduce(self, tensor: torch.Tensor, operation: str = "mean", *, what: str = "a value") -> torch.Tensor:
        """The value over all ranks, on each of them.

        Raises:
            RankError: Not all ranks have come to reduce it, in the time that they wait for each other.
        """
        value = tensor.detach().clone().to(self.device)
        if operation == "mean" and not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        remedy = "What is logged with sync_dist=True and on_step=True every rank logs at each step."
        with self._together("reduce", f"have reduced {what}", remedy):
            dist.all_reduce(value, _OPERATIONS[operation], group=self._reducing)
        return value / self.world.size if operation == "mean" else value

    def all_gather(self, tensor: torch.Tensor, group: Any = None, sync_grads: bool = False) -> torch.Tensor:
        """The tensors of all ranks, which are of one shape, stacked in the order of ranks.

        Args:
            tensor: This rank's.
            group: Some of the ranks, as torch.distributed has them; by default all.
            sync_grads: Whether the backward pass brings each rank the gradients that all have for its tensor.

        Raises:
            RankError: Not all ranks have come to gather it, in the time that they wait for each other.
        """
        own, group = tensor.to(self.device), group or self._reducing
        with self._together("all_gather", "have come", "Every rank calls it, with a tensor of the same shape."):
            gathered: torch.Tensor = _Gathered.apply(own if sync_grads else own.detach(), group)  # type: ignore[no-untyped-call]
        return gathered

    @contextmanager
    def _together(self, phase: str, done: str, remedy: str) -> Iterator[None]:
        """Where torch's own error tells of ranks that are missing."""
        try:
            yield
        except RuntimeError as error:
            if (failed := self.group.failure()) is not None:
                raise RankError(failed[1], rank=failed[0], phase=phase) from error
            raise RankError(
                f"not all ranks {done}: {str(error).splitlines()[0]}",
                rank=self.world.rank,
                phase=phase,
                remedy=remedy,
            ) from error

    def waited(self, error: BaseException) -> bool:
        """Whether it came of a collective, here or on the rank that failed first: torch's own errors name no rank."""
        if not isinstance(error, RuntimeError) and getattr(error, "phase", None) not in _COLLECTIVES:
            return False
        return any(word in str(error) for word in ("gloo", "NCCL", "c10d"))


class DataParallel(Distributed):
    """The whole model on each rank.

    Args:
        devices, precision, launcher, world: As for ``Distributed``.
        sync_batchnorm: Whether batch norm looks at the batches of all ranks together; on GPUs alone.
        options: Arguments of ``DistributedDataParallel``, such as ``find_unused_parameters``.
        shared: ``backend`` and ``timeout`` of ``Distributed``.
    """

    asked_as = "DDPStrategy"

    def __init__(
        self,
        devices: list[torch.device],
        precision: Precision,
        launcher: Launcher,
        world: World,
        *,
        sync_batchnorm: bool = False,
        options: dict[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(devices, precision, launcher, world, **shared)
        self._sync_batchnorm, self._options = sync_batchnorm, options or {}
        self._wrapped: DistributedDataParallel | None = None
        self._manual = False

    def setup(self, module: nn.Module, *, training: bool) -> None:
        """Bring the module to the device; for training, give every rank the weights of rank 0."""
        super().setup(module, training=training)
        if self._sync_batchnorm:
            if self.device.type != "cuda":
                raise ConfigError("sync_batchnorm=True needs GPUs: torch has it for no other device.")
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]  # torch's stubs lack it
        self._wrapped, self._manual = None, not getattr(module, "automatic_optimization", True)
        if training and any(p.requires_grad for p in module.parameters()):
            ids = [self.device.index] if self.device.type == "cuda" else None
            # By hand there may be several backward passes for one forward, each of another part of the parameters:
            # every pass is prepared when it comes, and those that have no part in it are looked for.
            options = {**self._options, "find_unused_parameters": True} if self._manual else self._options
            self._wrapped = DistributedDataParallel(_Steps(module), device_ids=ids, **options)
            self._wrapped.require_backward_grad_sync = not self._manual

    def forward(self, step: Callable[..., T], *args: Any) -> T:
        """Call a step; one with gradients through torch's wrapper, which follows its backward pass."""
        if self._wrapped is None or not torch.is_grad_enabled():
            return super().forward(step, *args)
        with self.precision.forward():
            result: T = self._wrapped(step, *args)
            return result

    def no_sync(self, module: Any) -> AbstractContextManager[Any]:
        """Gradients stay on their rank meanwhile."""
        return nullcontext() if self._wrapped is None or self._manual else self._wrapped.no_sync()

    def backward(self, module: Any, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, at the end of which every rank has the mean of all gradients."""
        if self._wrapped is not None and self._manual:
            self._wrapped.require_backward_grad_sync = True
            self._wrapped.reducer.prepare_for_backward([loss])
            super().backward(module, loss, *args, **kwargs)
            self._wrapped.require_backward_grad_sync = False
        else:
            super().backward(module, loss, *args, **kwargs)

    def gradients(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The mean of what each rank holds: until the step's last batch they are not averaged."""
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        means = averaged(list(named.values()), [p.grad for p in named.values()], self.world.size)
        return {name: mean for name, mean in zip(named, means, strict=True) if mean is not None}

    def load_gradients(self, module: nn.Module, gradients: Mapping[str, torch.Tensor]) -> None:
        """Put the mean back, on every rank."""
        if gradients and self.world.rank == 0 and self.world.size > 1:
            logger.warning(
                "the checkpoint lies between the batches of one step: each rank goes on with the mean of the "
                "gradients of all, which is exact up to rounding"
            )
        super().load_gradients(module, gradients)

    def teardown(self, module: nn.Module) -> None:
        """Take the wrapper away."""
        self._wrapped = None
        super().teardown(module)


class _Gathered(torch.autograd.Function):
    """The tensors of all ranks; backwards, each rank gets the sum of the gradients that all have for its own."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, group: Any) -> torch.Tensor:
        """Stacked in the order of ranks."""
        ctx.group = group
        every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(every, own.contiguous(), group=group)
        return torch.stack(every)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """A collective: every rank goes backwards through it."""
        whole = gradients[0].clone()
        dist.all_reduce(whole, group=ctx.group)
        return whole[dist.get_rank(ctx.group)], None


class _Joined:
    """What a launcher runs on each rank; picklable, where what it is made of is."""

    def __init__(self, strategy: Distributed, run: Callable[[], Any]) -> None:
        self._strategy, self._run = strategy, run

    def __call__(self, world: World) -> Any:
        self._strategy.join(world)
        return self._run()


class _Steps(nn.Module):
    """Makes a step of a module the forward pass that torch's wrapper looks at."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, step: Callable[..., Any], *args: Any) -> Any:
        return step(*args)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
