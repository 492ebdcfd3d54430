"""From ``strategy=``, ``accelerator=``, ``devices=`` and ``num_nodes=`` to a strategy. Touches no device."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch

from holdfast.errors import ConfigError
from holdfast.state.precision import Precision
from holdfast.strategies.base import TrainingStrategy
from holdfast.strategies.training import SingleDevice
from holdfast.strategies.world import CHILD, World, world_of

if TYPE_CHECKING:
    from holdfast.strategies.launch import Launcher

Start = Literal["popen", "spawn", "fork"]


class _Runs(type):
    """``isinstance(trainer.strategy, DDPStrategy)``: what a trainer made of the options is an instance of them too."""

    def __instancecheck__(cls, instance: Any) -> bool:
        asked = globals().get(getattr(type(instance), "asked_as", ""), object)
        return super().__instancecheck__(instance) or issubclass(asked, cls)


class AnyStrategy(metaclass=_Runs):
    """What all of them are."""


class ParallelStrategy(AnyStrategy):
    """What those of many processes are."""


@dataclass(frozen=True)
class SingleDeviceStrategy(AnyStrategy):
    """``strategy="single_device"``.

    Args:
        device: Which; by default the first of the accelerator's.
    """

    device: torch.device | str | None = None


@dataclass(frozen=True, init=False)
class DDPStrategy(ParallelStrategy):
    """``strategy="ddp"`` with options.

    Args:
        start_method: How the other processes come about where no launcher has started them: ``"popen"`` runs the
            script again for each, ``"spawn"`` and ``"fork"`` make all of them children of this one.
        process_group_backend: Of torch.distributed; by the kind of device by default.
        timeout: How long a rank waits for the others.
        options: Arguments of torch's ``DistributedDataParallel``, such as ``find_unused_parameters``.
    """

    start_method: Start
    process_group_backend: str | None
    timeout: timedelta
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        *,
        start_method: Start = "popen",
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=10),
        **options: Any,
    ) -> None:
        if start_method not in ("popen", "spawn", "fork"):
            raise ConfigError(f"start_method is 'popen', 'spawn' or 'fork', not {start_method!r}.")
        for name, value in (
            ("start_method", start_method),
            ("process_group_backend", process_group_backend),
            ("timeout", timeout),
            ("options", options),
        ):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class FSDPStrategy(ParallelStrategy):
    """``strategy="fsdp"`` with options.

    Args:
        auto_wrap_policy: Which modules are gathered by themselves for their forward pass: their classes, or a function
            that says so of each; by default the module as a whole. What ``configure_model`` has sharded stays.
        reshard_after_forward: Whether parameters are given up between the forward and the backward pass; torch's
            default is all but the outermost module's.
        state_dict_type: ``"full"``: a checkpoint is one file, which rank 0 gathers tensor by tensor and writes;
            ``"sharded"``: it is a folder, to which every rank writes its own part. Either is read by any strategy on
            any number of ranks.
        process_group_backend: Of torch.distributed; by the kind of device by default.
        timeout: How long a rank waits for the others.
    """

    auto_wrap_policy: Collection[type[torch.nn.Module]] | Callable[[torch.nn.Module], bool] | None = None
    reshard_after_forward: bool | None = None
    state_dict_type: Literal["full", "sharded"] = "full"
    process_group_backend: str | None = None
    timeout: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        if self.state_dict_type not in ("full", "sharded"):
            raise ConfigError(f"state_dict_type is 'full' or 'sharded', not {self.state_dict_type!r}.")


_STARTS: dict[str, Start] = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}

Asked = SingleDeviceStrategy | DDPStrategy | FSDPStrategy

NAMES: dict[str, Asked] = {
    "single_device": SingleDeviceStrategy(),
    "fsdp": FSDPStrategy(),
    **{name: DDPStrategy(start_method=start) for name, start in _STARTS.items()},
    **{
        f"{name}_find_unused_parameters_true": DDPStrategy(start_method=start, find_unused_parameters=True)
        for name, start in _STARTS.items()
    },
}
"""What ``strategy=`` may be called."""


def chosen(
    strategy: Any,
    *,
    accelerator: str | None,
    devices: int | str | Sequence[int],
    num_nodes: int,
    precision: str | int,
    sync_batchnorm: bool = False,
) -> TrainingStrategy:
    """The strategy.

    Raises:
        ConfigError: Arguments are unknown, contradict each other or the launcher, or ask for devices that are not
            there; all of it in one error.
    """
    problems = []
    if isinstance(strategy, str) and strategy not in ("auto", *NAMES):
        problems.append(f"strategy={strategy!r} is not one of {', '.join(('auto', *NAMES))}")
    elif isinstance(strategy, SingleDevice):
        problems.append("strategy= takes a name or one of holdfast.strategies, not what another Trainer runs on")
    elif strategy is not None and not isinstance(strategy, (str, SingleDeviceStrategy, DDPStrategy, FSDPStrategy)):
        problems.append(f"strategy= takes a name or one of holdfast.strategies, not a {type(strategy).__name__}")
    accelerator = "auto" if accelerator is None else accelerator
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        problems.append(f"accelerator is 'auto', 'cpu', 'gpu' or 'cuda', not {accelerator!r}")
    if type(num_nodes) is not int or num_nodes < 1:
        problems.append(f"num_nodes is a number of hosts, not {num_nodes!r}")
    if problems:
        raise ConfigError("; ".join(problems))
    world = world_of(os.environ)
    found = _devices(accelerator, devices, world)
    asked: Asked | None = NAMES.get(strategy) if isinstance(strategy, str) else strategy
    if asked is None:
        several = len(found) > 1 or num_nodes > 1 or (world is not None and world.size > 1)
        asked = NAMES["ddp"] if several else NAMES["single_device"]
    if isinstance(asked, SingleDeviceStrategy):
        if len(found) > 1 or num_nodes > 1:
            raise ConfigError(f"strategy='single_device' trains on one device, and {len(found)} were asked for.")
        device = torch.device(asked.device) if asked.device is not None else found[0]
        return SingleDevice(device, Precision(precision, device))
    return _distributed(asked, found, world, num_nodes, Precision(precision, found[0]), sync_batchnorm)


def _distributed(
    asked: DDPStrategy | FSDPStrategy,
    devices: list[torch.device],
    world: World | None,
    nodes: int,
    precision: Precision,
    sync_batchnorm: bool,
) -> TrainingStrategy:
    """Imports what it needs itself: torch.distributed is loaded by those who use it."""
    shared = {"backend": asked.process_group_backend, "timeout": asked.timeout}
    if isinstance(asked, DDPStrategy):
        from holdfast.strategies.ddp import DataParallel

        here, launcher = _launcher(asked.start_method, world, len(devices), nodes)
        options = dict(asked.options)
        return DataParallel(
            devices, precision, launcher, here, sync_batchnorm=sync_batchnorm, options=options, **shared
        )
    from holdfast.strategies.fsdp import Sharded

    here, launcher = _launcher("popen", world, len(devices), nodes)
    return Sharded(
        devices, precision, launcher, here, policy=asked.auto_wrap_policy,
        reshard_after_forward=asked.reshard_after_forward, divides=asked.state_dict_type == "sharded", **shared,
    )  # fmt: skip


def _launcher(start: Start, world: World | None, local_size: int, nodes: int) -> tuple[World, Launcher]:
    from holdfast.strategies.launch import Forked, Script, Started

    if start != "popen" and world is None:
        if nodes > 1:
            raise ConfigError(f"ddp_{start} starts processes on this host alone: start the script with torchrun.")
        return World(0, local_size, 0, local_size), Forked(local_size, start)
    if world is None or CHILD in os.environ:
        launcher: Launcher = Script(local_size, nodes)
    else:
        launcher = Started(world)
    here = world or World(0, local_size * nodes, 0, local_size)
    if (here.local_size, here.nodes) != (local_size, nodes):
        raise ConfigError(
            f"{here.source} has started {here.local_size} processes on each of {here.nodes} hosts; "
            f"devices= and num_nodes= ask for {local_size} on each of {nodes}.",
            remedy="Ask for the same numbers in both places.",
        )
    return here, launcher


def _devices(accelerator: str, devices: int | str | Sequence[int], world: World | None) -> list[torch.device]:
    """The devices of this host, by local rank."""
    gpus = torch.cuda.device_count() if accelerator != "cpu" else 0
    if accelerator in ("gpu", "cuda") and not gpus:
        raise ConfigError("accelerator='gpu' was asked for, and torch sees none.")
    wanted = _numbers(devices, gpus, 1 if world is None else world.local_size)
    if not gpus:
        return [torch.device("cpu")] * len(wanted)
    if absent := [i for i in wanted if i >= gpus]:
        raise ConfigError(f"devices={devices!r}: there are {gpus} GPUs here, and none is number {absent[0]}.")
    return [torch.device("cuda", i) for i in wanted]


def _numbers(devices: int | str | Sequence[int], gpus: int, local_size: int) -> list[int]:
    """Which devices: on a CPU each stands for a process."""
    problem = ConfigError(f"devices={devices!r} is neither a number of them, nor a list of which, nor 'auto'.")
    if isinstance(devices, bool):
        raise problem
    if isinstance(devices, str) and devices.strip().lstrip("-").isdigit():
        devices = int(devices)
    if devices in ("auto", -1, "-1"):
        return list(range(local_size if local_size > 1 or not gpus else gpus))
    if isinstance(devices, str):
        try:
            devices = [int(one) for one in devices.split(",") if one.strip()]
        except ValueError:
            raise problem from None
    if isinstance(devices, int):
        if devices < 1:
            raise problem
        return list(range(devices))
    which = list(devices)
    if not which or any(type(i) is not int or i < 0 for i in which) or len(set(which)) != len(which):
        raise problem
    return which
