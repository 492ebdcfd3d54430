"""Where the tensors of a checkpoint go: the forms of ``map_location`` as one function from storage to storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.serialization import default_restore_location

from holdfast.errors import ConfigError, Incompatible
from holdfast.log import logger

Device = torch.device | str | int
MapLocation = Device | Mapping[Any, Any] | Callable[[torch.UntypedStorage, str], torch.UntypedStorage | None] | None
Placement = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def placement(map_location: MapLocation, checkpoint: str) -> Placement:
    """The function that moves a storage, given it (in host memory) and the name of the device it was saved from.

    Args:
        map_location: A device, by object, name or index; a dict from devices saved from to devices; a function of a
            storage and the name of its device, which returns the storage moved, or None to leave that to us; or
            None: where it was saved from, or the CPU, with a line that says so, where this machine has no such device.
        checkpoint: Its name, for an error.

    Raises:
        ConfigError: It is none of these.
    """
    if map_location is None:
        return _home(checkpoint)
    if isinstance(map_location, (torch.device, str, int)):
        fixed = _name(map_location)
        return lambda storage, saved_from: _moved(storage, fixed, checkpoint)
    if isinstance(map_location, Mapping):
        names = {_name(old): _name(new) for old, new in map_location.items()}
        return lambda storage, saved_from: _moved(storage, names.get(saved_from, saved_from), checkpoint)
    if callable(map_location):
        return _asking(map_location, checkpoint)
    raise ConfigError(f"map_location is a device, a dict of devices or a function, not {map_location!r:.80}.")


def _home(checkpoint: str) -> Placement:
    absent: set[str] = set()

    def place(storage: torch.UntypedStorage, saved_from: str) -> torch.UntypedStorage:
        if _present(saved_from):
            return _moved(storage, saved_from, checkpoint)
        if saved_from not in absent:
            absent.add(saved_from)
            logger.info("'%s' was saved from %s, which is not here: loaded to the CPU", checkpoint, saved_from)
        return storage

    return place


def _asking(function: Callable[[torch.UntypedStorage, str], torch.UntypedStorage | None], checkpoint: str) -> Placement:
    def place(storage: torch.UntypedStorage, saved_from: str) -> torch.UntypedStorage:
        placed = function(storage, saved_from)
        return _moved(storage, saved_from, checkpoint) if placed is None else placed

    return place


def _name(device: Any) -> str:
    if isinstance(device, int):
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return f"{accelerator.type if accelerator else 'cuda'}:{device}"
    try:
        return str(torch.device(device))
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"map_location names no device: {device!r:.80}.") from error


def _present(name: str) -> bool:
    """Whether this machine has the device; torch knows of one kind of accelerator at a time."""
    device = torch.device(name)
    if device.type == "cpu":
        return True
    if not torch.accelerator.is_available():
        return False
    here = torch.accelerator.current_accelerator()
    return here is not None and here.type == device.type and (device.index or 0) < torch.accelerator.device_count()


def _moved(storage: torch.UntypedStorage, device: str, checkpoint: str) -> torch.UntypedStorage:
    try:
        moved: torch.UntypedStorage = default_restore_location(storage, device)  # type: ignore[no-untyped-call]  # torch's stubs lack it
        return moved
    except (RuntimeError, AssertionError) as error:  # torch's two ways to say that there is no such device
        raise Incompatible(
            f"cannot be loaded to the device '{device}': {str(error).partition(chr(10))[0].rstrip('.')}.",
            checkpoint=checkpoint,
            good="Nothing was loaded.",
            remedy="Give one that is here, such as map_location='cpu'.",
        ) from error
