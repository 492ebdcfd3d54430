"""What counts as one number, and how numbers are read. Only ``numbers`` here waits for a device."""

from __future__ import annotations

import numbers as abstract
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import ConfigError
from holdfast.training.reduction import as_tensor, lasting


def numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    """Those of ``values`` that are one number, as plain ints or floats by dtype, in their order.

    Tensors of one device and dtype are read together: one wait for the device.
    """
    plain: dict[str, int | float] = {}
    together: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            if value.numel() == 1 and not value.is_complex():
                together.setdefault((value.device, value.dtype), {})[name] = value.detach().reshape(())
        elif isinstance(value, abstract.Real):
            plain[name] = plain_number(value)
    for tensors in together.values():
        read = torch.stack(list(tensors.values())).tolist()
        plain |= {name: plain_number(value) for name, value in zip(tensors, read, strict=True)}
    return {name: plain[name] for name in values if name in plain}


def plain_number(value: Any) -> int | float:
    """A real number of any class as a plain one; a bool is an int."""
    return int(value) if isinstance(value, abstract.Integral) else float(value)


def tensor_of(value: Tensor | float) -> Tensor:
    """A tensor as it is; a plain number as one."""
    return value if isinstance(value, Tensor) else as_tensor(value)


def one_element(name: str, value: Tensor) -> Tensor:
    """A tensor of one element without its dimensions.

    Raises:
        ConfigError: It has not exactly one.
    """
    if value.numel() != 1:
        raise no_number(name, value)
    return value.reshape(())


def computed(name: str, value: Any) -> Tensor | float:
    """What an object or function of the user's gave: a tensor of our own, or a plain number.

    Raises:
        ConfigError: It is not one real number.
    """
    if isinstance(value, Tensor) and not value.is_complex():
        with lasting():
            return one_element(name, value).detach().clone()
    if isinstance(value, abstract.Real):
        return plain_number(value)
    raise no_number(name, value)


def check_object(name: str, value: Any) -> None:
    """Refuse what is no metric object, or stands for several metrics.

    Raises:
        ConfigError: It is not one of torchmetrics', nor has its three verbs.
    """
    verbs = all(callable(getattr(value, verb, None)) for verb in ("update", "compute", "reset"))
    if not verbs or hasattr(value, "items"):
        raise no_number(name, value)


def no_number(name: str, value: Any) -> ConfigError:
    """The error for a value that is not one real number."""
    if isinstance(value, Tensor):
        what = f"a tensor of shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
        remedy = f"Log one number, such as {'its abs()' if value.is_complex() else 'its mean()'}."
    else:
        what = f"a {type(value).__name__}"
        remedy = "Use log_dict for several numbers." if hasattr(value, "items") else "Log one number."
    return ConfigError(f"Metric {name!r} is {what}, not one real number.", remedy=remedy)


def size_of(batch: Any) -> int | None:
    """The first of ``sizes``, found quickly in a batch that begins with a tensor; None where there is none."""
    part = batch
    while type(part) in (tuple, list, dict) and part:
        part = next(iter(part.values())) if type(part) is dict else part[0]
    if isinstance(part, Tensor) and part.dim():
        return len(part)
    return next(sizes(batch), None)


def sizes(batch: Any) -> Iterator[int]:
    """The first dimension of each tensor in a batch; 1 for one that has none."""
    if isinstance(batch, Tensor):
        yield batch.size(0) if batch.dim() else 1
    elif isinstance(batch, (str, bytes, Iterator)):
        return  # text has no size, and an iterator would be used up
    elif isinstance(batch, Iterable):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from sizes(part)
    elif is_dataclass(batch):
        for field in fields(batch):
            yield from sizes(getattr(batch, field.name))
