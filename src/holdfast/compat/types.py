"""The types and enums that programs annotate with. They say what is taken and given; nothing here runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Optional, Protocol, TypedDict, Union

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

# Programs evaluate these as they stand, in Union[...] and Optional[...] of their own, on every Python: no "X | Y".
_PATH = Union[str, os.PathLike[str]]  # noqa: UP007
_DEVICE = Union[torch.device, str, int]  # noqa: UP007
_MAP_LOCATION_TYPE = Optional[Union[_DEVICE, Callable[[Any, str], Any], dict[Any, Any]]]  # noqa: UP007, UP045
_METRIC = Any
_EVALUATE_OUTPUT = list[Mapping[str, float]]
_PREDICT_OUTPUT = Union[list[Any], list[list[Any]]]  # noqa: UP007

STEP_OUTPUT = Optional[Union[torch.Tensor, Mapping[str, Any]]]  # noqa: UP007, UP045
TRAIN_DATALOADERS = Any
EVAL_DATALOADERS = Any

LRSchedulerTypeUnion = Union[LRScheduler, ReduceLROnPlateau]  # noqa: UP007
LRSchedulerPLType = LRSchedulerTypeUnion


class LRSchedulerConfigType(TypedDict, total=False):
    """A scheduler and when it steps, as ``configure_optimizers`` returns it."""

    scheduler: Any
    name: str | None
    interval: str
    frequency: int
    reduce_on_plateau: bool
    monitor: str | None
    strict: bool


class OptimizerConfig(TypedDict):
    """An optimizer, as ``configure_optimizers`` returns it in a dict."""

    optimizer: Optimizer


class OptimizerLRSchedulerConfig(TypedDict):
    """An optimizer with its scheduler."""

    optimizer: Optimizer
    lr_scheduler: LRSchedulerTypeUnion | LRSchedulerConfigType
    monitor: str | None


_Scheduler = Union[LRSchedulerTypeUnion, LRSchedulerConfigType]  # noqa: UP007
OptimizerLRScheduler = Optional[  # noqa: UP045
    Union[  # noqa: UP007
        Optimizer,
        Sequence[Optimizer],
        tuple[Sequence[Optimizer], Sequence[_Scheduler]],
        OptimizerConfig,
        OptimizerLRSchedulerConfig,
        Sequence[OptimizerConfig],
        Sequence[OptimizerLRSchedulerConfig],
    ]
]


class Optimizable(Protocol):
    """What steps parameters and has a state."""

    param_groups: list[dict[Any, Any]]
    state: Any

    def step(self, closure: Any = None) -> Any:
        """One step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put it back."""
        ...


class LightningEnum(str, Enum):
    """Words that equal their text, in whatever case it is written."""

    @classmethod
    def from_str(cls, value: str) -> LightningEnum | None:
        """The member of that name or value; None where there is none."""
        asked = value.replace("-", "_").lower()
        return next((one for one in cls if asked in (one.name.lower(), str(one.value).lower())), None)

    def __eq__(self, other: object) -> bool:
        text = other.value if isinstance(other, Enum) else other
        return isinstance(text, str) and str(self.value).lower() == text.lower()

    def __hash__(self) -> int:
        return hash(str(self.value).lower())


class GradClipAlgorithmType(LightningEnum):
    """How gradients are clipped."""

    VALUE = "value"
    NORM = "norm"

    @staticmethod
    def supported_type(val: str) -> bool:
        """Whether there is one of that name."""
        return GradClipAlgorithmType.from_str(val) is not None

    @staticmethod
    def supported_types() -> list[str]:
        """All names."""
        return [str(one.value) for one in GradClipAlgorithmType]
