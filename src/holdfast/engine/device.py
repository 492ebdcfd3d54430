"""Read memory of a GPU beside the training that goes on: piece by piece, through pinned memory, on other streams.

Knows no file, and lends nothing: whoever reads sees to it that what is read does not change.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

PIECE = 2**20
"""Bytes that are fetched at once: so much pinned memory each thread takes that reads."""


class Beside:
    """Reads GPUs as they are once all is done that was asked of them before it was made.

    Args:
        devices: The GPUs, each at least once; other devices are passed over.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._asked = {device: _asked(device) for device in set(devices) if device.type == "cuda"}
        self._numbers = {device: itertools.count() for device in self._asked}
        self._own = _Own()

    def fetch(self, there: torch.Tensor) -> NDArray[np.uint8]:
        """Bytes of a GPU in host memory, ``PIECE`` at most, where they stay until the same thread fetches others."""
        line = self._line(there.device)
        here = line.pinned[: there.numel()]
        with line.current():
            here.copy_(there)  # returns when they are here: this thread waits for its own stream alone
        array: NDArray[np.uint8] = here.numpy()
        return array

    def is_finite(self, tensor: torch.Tensor) -> bool:
        """Whether no element is NaN or infinite; looked at there.

        Args:
            tensor: Of floating-point or complex numbers, alone in its storage.
        """
        elements = torch.empty(0, dtype=tensor.dtype.to_real(), device=tensor.device).set_(tensor.untyped_storage())
        with self._line(tensor.device).current():
            return math.isfinite(greatest(elements))

    def _line(self, device: torch.device) -> _Line:
        """This thread's; made when it first reads, and not on the thread that trains, which reads nothing."""
        lines = self._own.lines
        if device not in lines:
            lines[device] = _Line(device, self._asked[device], next(self._numbers[device]))
        return lines[device]


class There:
    """The bytes of a storage on a GPU, fetched as they are asked for. Several threads may ask at once.

    Args:
        storage: The memory; it must not change until it has been read.
        beside: Reads it.
    """

    def __init__(self, storage: torch.UntypedStorage, beside: Beside) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        self._beside = beside

    def nbytes(self) -> int:
        """How long it is."""
        return self._bytes.numel()

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """The bytes from one place to another: see ``Beside.fetch``."""
        return self._beside.fetch(self._bytes[part])


def greatest(elements: torch.Tensor) -> float:
    """The greatest magnitude: NaN where an element is, infinity where one is. One pass that takes no memory.

    Args:
        elements: Real floating-point numbers, one at least.
    """
    return float(torch.linalg.vector_norm(elements, math.inf))


class _Own(threading.local):
    """What a thread reads with, by GPU."""

    def __init__(self) -> None:
        self.lines: dict[torch.device, _Line] = {}


class _Line:
    """What a thread reads one GPU with: a stream, and pinned memory for a piece.

    Args:
        device: The GPU.
        asked: What the stream waits for before anything is read.
        number: The thread's, among those that read this GPU now.
    """

    def __init__(self, device: torch.device, asked: torch.cuda.Event, number: int) -> None:
        self.stream = _stream(device, number)
        with torch.cuda.device(device):
            self.stream.wait_event(asked)
            self.pinned = torch.empty(PIECE, dtype=torch.uint8, device="cpu", pin_memory=True)

    @contextmanager
    def current(self) -> Iterator[None]:
        """On this thread, what a GPU is asked for goes to the stream."""
        # torch goes back from a stream to the device that was current before it, and a new thread's is the first GPU:
        # where this process has not used that one, some hundred megabytes of it would be taken.
        with torch.cuda.device(self.stream.device), torch.cuda.stream(self.stream):
            yield


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """The same at every save: torch has thirty-two, and deals them out in turn, again to those who train."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stubs lack it


def _asked(device: torch.device) -> torch.cuda.Event:
    """All that this thread has asked of a GPU."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stubs lack it
    event.record(torch.cuda.current_stream(device))
    return event
