"""Windows in which a save reads live tensors in place, and the fence at which a step of their optimizer waits.

Knows no file and no policy. What may be lent at all, ``lending`` says.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from holdfast.engine.lending import Lent, part_here
from holdfast.errors import HoldfastError

_SAMPLES = 64
_LOOK = 0.02
"""Seconds between two looks at where the training thread is."""
_LOOKS = 250
"""Looks after which a thread that seems to stand still is taken to wait, and not to change a tensor all the while.

Not seconds: where the whole process was paused, they pass, and the thread has had no time to go on.
"""


class Moved(HoldfastError):
    """What was lent was changed before it was read: the bytes may be those of no step.

    Args:
        names: The tensors, by their names in the checkpoint.
        waited: Seconds for which training has waited for them, if it has gone on for that reason.
    """

    def __init__(self, names: tuple[str, ...], waited: float | None = None) -> None:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if waited is None:
            what = f"{shown} changed while being read, and not in a step of its optimizer."
            remedy = "A later step is saved instead, from a copy. Call fence() before changing weights yourself."
        else:
            what = f"{shown} could not be read in {waited:g} s, and other ranks do not wait longer for this one."
            remedy = "A later step is saved instead, from a copy. See why the disk is so slow."
        super().__init__(what, remedy=remedy)
        self.names = names


class Window:
    """What one snapshot reads in place; opened on the thread that trains.

    It closes in steps. ``returned``: all is read. ``fence``, ``wait`` or ``verdict``: it is known whether anything had
    moved until then. After either, nothing of it is held any more.

    An operation bumps a tensor's version when it has changed the data, and not before: whoever looks while one is
    running sees nothing. So the training thread judges, which runs none while it looks; or the writer does, once it
    has seen the training thread do something else than what it was at when the last byte was read.

    Args:
        lent: Each tensor by its name in the checkpoint.
        patience: Seconds that training waits at most; then it goes on, and what was read is not published.
        given: Likewise, tensors that were made for the save. Nobody waits for them; who changes one all the same is
            noticed.
    """

    def __init__(
        self,
        lent: Mapping[str, Lent],
        patience: float | None = None,
        given: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> None:
        self.moved: tuple[str, ...] = ()
        self._names, self._patience, self._waited = tuple(lent), patience, False
        self._thread = threading.get_ident()
        self._parameters = {id(one.parameter) for one in lent.values()}
        self._pointers = {pointer for one in lent.values() if (pointer := _pointer(one.tensor))}
        watched = {**lent, **{name: Lent(tensor, tensor, tensor) for name, tensor in given.items()}}
        self._marks = [_Mark.of(name, one) for name, one in watched.items()]
        self._doing: tuple[int, int] | None = None
        self._read, self._judged, self._guard = threading.Event(), threading.Event(), threading.Lock()
        if lent:
            _watch(self)

    @property
    def read(self) -> bool:
        """Whether nothing that training changes is read in place any more."""
        return not self._names or self._read.is_set()

    def concerns(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a step of this optimizer changes what is lent."""
        return any(
            id(p) in self._parameters or _pointer(p) in self._pointers
            for group in optimizer.param_groups
            for p in group["params"]
        )

    def returned(self) -> None:
        """On the thread that reads: every byte was read."""
        self._doing = self._what_training_does()
        self._read.set()

    def wait(self) -> None:
        """On the thread that trains: wait until all is read, however long that takes."""
        self._read.wait()
        self._judge()

    def fence(self) -> None:
        """On the thread that trains: wait until all is read, or is given up; then anything may change."""
        if not self._names:
            return
        if not self._read.wait(self._patience):
            with self._guard:
                self._waited, self.moved = True, self._names
        self._judge()

    def verdict(self) -> None:
        """After ``returned``, before anything that was read is published.

        Raises:
            Moved: It may be torn.
        """
        for _ in range(_LOOKS if threading.get_ident() != self._thread else 0):
            if self._judged.wait(_LOOK) or self._what_training_does() != self._doing:
                break
        self._judge()
        if self.moved:
            raise Moved(self.moved, self._patience if self._waited else None)

    def release(self) -> None:
        """Nothing more will be read, whatever happened: who waits at the fence goes on."""
        self._read.set()
        self._judge()

    def _judge(self) -> None:
        with self._guard:
            self.moved += tuple(mark.name for mark in self._marks if not self._waited and mark.moved())
            self._marks = []
        self._judged.set()
        _unwatch(self)

    def _what_training_does(self) -> tuple[int, int] | None:
        frame = _frame_of(self._thread)
        return None if frame is None else (id(frame), frame.f_lasti)


def _frame_of(thread: int) -> FrameType | None:
    """Where a thread is; None where it has ended.

    No garbage is collected meanwhile: Python 3.11 does it with the list of threads locked. A tensor that is freed then
    lets go of the interpreter, a thread that ends takes it and waits for that list, and both wait for ever.
    """
    with _looking:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(thread)
        finally:
            if collects:
                gc.enable()


@dataclass(frozen=True)
class _Mark:
    """A tensor as it was when it was lent: its version, and a few of its values, for what bumps no version.

    A step of an optimizer counts at the divided tensor alone, and a change of a rank's part at that part alone.
    """

    name: str
    lent: Lent
    storage: torch.UntypedStorage
    versions: tuple[int, int]
    values: torch.Tensor

    @classmethod
    def of(cls, name: str, lent: Lent) -> _Mark:
        storage = lent.tensor.untyped_storage()
        return cls(name, lent, storage, _versions(lent), _sample(storage))

    def moved(self) -> bool:
        return _versions(self.lent) != self.versions or not torch.equal(_sample(self.storage), self.values)


def _versions(lent: Lent) -> tuple[int, int]:
    return lent.tensor._version, lent.counted._version


def _sample(storage: torch.UntypedStorage) -> torch.Tensor:
    """Bits from all over a memory, as integers, for NaN is not equal to itself; of numbers as wide as there are.

    Of a GPU's none: whoever looked would wait for all that training has asked of it.
    """
    if storage.device.type == "cuda":
        return torch.empty(0, device="cpu")
    kind = next(kind for kind in (torch.int64, torch.int32, torch.uint8) if storage.nbytes() % kind.itemsize == 0)
    bits = torch.empty(0, dtype=kind, device=storage.device).set_(storage)
    return bits[:: max(1, bits.numel() // _SAMPLES) | 1].clone()


def _pointer(tensor: torch.Tensor) -> int:
    """Where its memory begins, or that of its part here; 0 where it has none of its own."""
    tensor = part_here(tensor)
    plain = type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    return tensor.untyped_storage().data_ptr() if plain and tensor.layout is torch.strided else 0


# The windows that are open, and whether there is any: a compiled optimizer step is compiled once for each of the two
# answers. A hook that came and went with a window would be compiled anew each time.
_windows: set[Window] = set()
_open = False
_guard = threading.Lock()
_looking = threading.Lock()
_hooked = False


def _watch(window: Window) -> None:
    global _open, _hooked
    with _guard:
        if not _hooked:
            register_optimizer_step_pre_hook(_before_step)
            _hooked = True
        _windows.add(window)
        _open = True


def _unwatch(window: Window) -> None:
    global _open
    with _guard:
        _windows.discard(window)
        _open = bool(_windows)


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if _open:
        _wait(optimizer)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _wait(optimizer: torch.optim.Optimizer) -> None:
    for window in tuple(_windows):
        if window.concerns(optimizer):
            window.fence()
