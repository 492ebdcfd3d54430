"""Reduce what is logged in an epoch to one number, as it comes. Never reads a tensor: no device is waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from zlib import crc32

import torch
from torch import Tensor
from typing_extensions import override

Across = Callable[..., Tensor]
"""Reduces a tensor over all ranks: the tensor and one of ``"sum"``, ``"min"``, ``"max"``; ``what=`` is for errors."""

OPERATIONS = ("mean", "sum", "min", "max")

_FOLD = 64


class Reduction(Protocol):
    """What stands for the values of one metric in one epoch so far.

    Tensors given to ``add`` have no dimensions and ask for no gradient; they may be changed afterwards.
    """

    __slots__ = ()

    @property
    def dtype(self) -> torch.dtype:
        """That of the result."""
        ...

    def accept(self, value: Tensor) -> None:
        """Make ready for values of this one's dtype, which ``add`` has not had yet."""
        ...

    def add(self, value: Tensor, size: int) -> None:
        """Take in the value of a batch of ``size`` samples."""
        ...

    def add_number(self, value: float, size: int) -> None:
        """Take in a plain number."""
        ...

    def result(self, across: Across | None, dtype: torch.dtype | None = None) -> Tensor:
        """The reduced value, a tensor of its own.

        Args:
            across: Reduces it over all ranks; None for this rank's alone.
            dtype: That of the result, where ranks have agreed on one.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Copies of all there is, as tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        ...


class Reduced:
    """Which single values this rank has reduced with others, and in what order.

    A value that one rank leaves out is reduced with that rank's next one, and nobody notices: only the counts tell.
    """

    __slots__ = ("_counts", "_order")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._order = 0

    def count(self, name: str) -> None:
        """One more, by its name."""
        self._counts[name] = self._counts.get(name, 0) + 1
        self._order = crc32(name.encode(), self._order)

    def told(self) -> list[Any]:
        """What other ranks need for ``difference``, plain."""
        return [self._order, self._counts]

    @staticmethod
    def difference(told: Sequence[list[Any]]) -> tuple[int, str] | None:
        """The first rank that has reduced other values than rank 0, and what differs; None if there is none."""
        order, counts = told[0]
        for rank, (other, those) in enumerate(told):
            if other == order:
                continue
            for name in sorted({*counts, *those}):
                if (here := counts.get(name, 0)) != (there := those.get(name, 0)):
                    return rank, f"has logged {name!r} {there:,} times, and rank 0 {here:,} times"
            return rank, "has logged the same metrics as rank 0 in another order"
        return None


def reduction(operation: str | Callable[[Any], Any]) -> Reduction:
    """An empty reduction: one of ``OPERATIONS``, or a function of the tensor of all values."""
    if not isinstance(operation, str):
        return Every(operation)
    return Total(mean=operation == "mean") if operation in ("mean", "sum") else Extreme(largest=operation == "max")


def nothing_yet(operation: str, dtype: torch.dtype) -> Reduction:
    """One that stands for no value, on a rank that reduces with others what they have, of that dtype."""
    made = reduction(operation)
    if isinstance(made, Total):
        name = str(dtype).removeprefix("torch.")
        made.load_state_dict({"tensor": None, "dtype": name, "number": 0, "weight": 0})
    else:
        whole = None if dtype.is_floating_point else torch.iinfo(dtype)
        ends = (math.inf, -math.inf) if whole is None else (whole.max, whole.min)
        made.load_state_dict({"tensor": torch.tensor(ends[operation == "max"], dtype=dtype), "number": None})
    return made


def as_tensor(number: float) -> Tensor:
    """A plain number as a tensor that loses none of it: float64, or int64 for an int that fits."""
    whole = isinstance(number, int) and abs(number) < 2**63
    return torch.tensor(number, dtype=torch.int64 if whole else torch.float64)


def lasting() -> AbstractContextManager[Any]:
    """Tensors made in it may be used everywhere, also when a validation's inference mode surrounds it."""
    return torch.inference_mode(False)


class Total(Reduction):
    """A sum, or an average weighted by batch sizes.

    Floats are summed in float64 (float32 where the device has none), so that a long epoch loses no digits; the
    result is float32, or float64 where values are float64, plain numbers, or averaged integers. A sum of
    integers is an integer.
    """

    __slots__ = ("_dtype", "_host", "_mean", "_number", "_tensor", "_weight")

    def __init__(self, *, mean: bool) -> None:
        self._mean = mean
        self._tensor: Tensor | None = None
        self._host = True
        self._dtype: torch.dtype | None = None
        self._number: float = 0
        self._weight = 0

    @override
    def accept(self, value: Tensor) -> None:
        tensor = self._tensor
        floats = self._mean or value.is_floating_point() or (tensor is not None and tensor.is_floating_point())
        # What was logged from the host must not pull the sum of an accelerator back to it.
        device = value.device if tensor is None or value.device.type != "cpu" else tensor.device
        sums = torch.int64 if not floats else torch.float32 if device.type == "mps" else torch.float64
        with lasting():
            self._tensor = torch.zeros((), dtype=sums, device=device) if tensor is None else tensor.to(device, sums)
        self._host = self._tensor.is_cpu
        narrow = value.is_floating_point() and value.dtype is not torch.float64
        dtype = torch.float32 if narrow else sums
        self._dtype = dtype if self._dtype is None else torch.promote_types(self._dtype, dtype)

    @override
    def add(self, value: Tensor, size: int) -> None:
        assert self._tensor is not None, "accept() comes first"
        if self._host and not value.is_cpu:
            self.accept(value)
        self._tensor.add_(value, alpha=size)
        self._weight += size

    @override
    def add_number(self, value: float, size: int) -> None:
        self._number += value * size
        self._weight += size

    @override
    def result(self, across: Across | None, dtype: torch.dtype | None = None) -> Tensor:
        with lasting(), torch.no_grad():
            number = self._plain()
            total, dtype = number if self._tensor is None else self._tensor + number, dtype or self.dtype
            if across is not None:
                total = across(_widest(total, dtype), "sum")
            if self._mean:
                weight = torch.tensor(self._weight, device=total.device)
                total = total / (weight if across is None else across(weight, "sum"))
            return total.to(dtype)

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._plain().dtype if self._dtype is None else self._dtype

    def _plain(self) -> Tensor:
        return as_tensor(float(self._number) if self._mean else self._number)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "tensor": None if self._tensor is None else self._tensor.clone(),
            "dtype": None if self._dtype is None else str(self._dtype).removeprefix("torch."),
            "number": self._number,
            "weight": self._weight,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tensor = None if state["tensor"] is None else state["tensor"].clone()
        self._host = self._tensor is None or self._tensor.is_cpu
        self._dtype = None if state["dtype"] is None else getattr(torch, state["dtype"])
        self._number, self._weight = state["number"], state["weight"]


class Extreme(Reduction):
    """The smallest or the largest value, in its own dtype. One NaN makes it NaN."""

    __slots__ = ("_choose", "_largest", "_number", "_tensor")

    def __init__(self, *, largest: bool) -> None:
        self._largest = largest
        self._choose = torch.maximum if largest else torch.minimum
        self._tensor: Tensor | None = None
        self._number: float | None = None

    @override
    def accept(self, value: Tensor) -> None:
        """Any dtype will do: torch promotes."""

    @override
    def add(self, value: Tensor, size: int) -> None:
        self._tensor = value.clone() if self._tensor is None else self._choose(self._tensor, value)

    @override
    def add_number(self, value: float, size: int) -> None:
        known = self._number
        if known is None or math.isnan(value) or (value > known if self._largest else value < known):
            self._number = value

    @override
    def result(self, across: Across | None, dtype: torch.dtype | None = None) -> Tensor:
        with lasting(), torch.no_grad():
            value = self._own()
            if across is None:
                return value
            dtype = dtype or value.dtype
            return across(_widest(value, dtype), "max" if self._largest else "min").to(dtype)

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._own().dtype

    def _own(self) -> Tensor:
        values = [] if self._tensor is None else [self._tensor.clone()]
        values += [] if self._number is None else [as_tensor(self._number)]
        return values[0] if len(values) == 1 else self._choose(*values)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"tensor": None if self._tensor is None else self._tensor.clone(), "number": self._number}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tensor = None if state["tensor"] is None else state["tensor"].clone()
        self._number = state["number"]


class Every(Reduction):
    """All values, for a function of the user's; eight bytes each, batch sizes do not count."""

    __slots__ = ("_folded", "_function", "_recent")

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._folded: list[Tensor] = []
        self._recent: list[Tensor] = []

    @override
    def accept(self, value: Tensor) -> None:
        """Any dtype will do: torch promotes."""

    @override
    def add(self, value: Tensor, size: int) -> None:
        self._recent.append(value.clone())
        if len(self._recent) == _FOLD:
            self._fold()

    @override
    def add_number(self, value: float, size: int) -> None:
        self.add(as_tensor(value), size)

    @property
    @override
    def dtype(self) -> torch.dtype:
        return torch.float64

    @override
    def result(self, across: Across | None, dtype: torch.dtype | None = None) -> Tensor:
        assert across is None, "refused when it was first logged"
        self._fold()
        with lasting(), torch.no_grad():
            value = self._function(torch.cat(self._folded))
            return value.clone() if isinstance(value, Tensor) else value

    @override
    def state_dict(self) -> dict[str, Any]:
        self._fold()
        return {"values": torch.cat(self._folded) if self._folded else None}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent = []
        self._folded = [] if state["values"] is None else [state["values"].clone()]

    def _fold(self) -> None:
        if self._recent:
            # Unlike stack, cat lets dtypes differ.
            self._folded.append(torch.cat([value.reshape(1) for value in self._recent]))
            self._recent.clear()


def _widest(value: Tensor, dtype: torch.dtype) -> Tensor:
    """In a kind of which one is the same on all ranks, whatever each of them has logged, and which loses nothing."""
    return value.to(torch.float64 if dtype.is_floating_point else torch.int64)
