"""Read memory of a GPU beside the training that goes on: piece by piece, through pinned memory, on other streams.

Knows no file, and lends nothing: whoever reads sees to it that what is read does not change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

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
        self._lines = {device: _Line(device, _asked(device)) for device in set(devices) if device.type == "cuda"}

    def fetch(self, there: torch.Tensor) -> NDArray[np.uint8]:
        """Bytes of a GPU in host memory, ``PIECE`` at most, where they stay until the same thread fetches others."""
        line = self._lines[there.device]
        here = line.pinned[: there.numel()]
        with torch.cuda.stream(line.stream):
            here.copy_(there, non_blocking=True)
        line.stream.synchronize()
        array: NDArray[np.uint8] = here.numpy()
        return array

    def is_finite(self, tensor: torch.Tensor) -> bool:
        """Whether no element is NaN or infinite; looked at there, a few million at a time, to take no memory.

        Args:
            tensor: Of floating-point or complex numbers, alone in its storage.
        """
        elements = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
        with torch.cuda.stream(self._lines[tensor.device].stream):
            parts = torch.split(elements, 4 * PIECE)
            return all(bool(torch.isfinite(part).all()) for part in parts)


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


class _Line(threading.local):
    """What a thread reads one GPU with: a stream, and pinned memory for a piece; each thread has its own.

    Args:
        asked: What the stream waits for before anything is read.
    """

    def __init__(self, device: torch.device, asked: torch.cuda.Event) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stubs lack it
        self.stream.wait_event(asked)
        self.pinned = torch.empty(PIECE, dtype=torch.uint8, pin_memory=True)


def _asked(device: torch.device) -> torch.cuda.Event:
    """All that this thread has asked of a GPU."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stubs lack it
    event.record(torch.cuda.current_stream(device))
    return event
