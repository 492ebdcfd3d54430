"""Build a module or datamodule from a checkpoint: read it, build the object, put its state back.

Imports and calls nothing that a file names: the caller gives the class.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.manifest import Manifest
from holdfast.engine.reader import CheckpointFile
from holdfast.errors import ConfigError, Corrupt, Foreign, Incompatible, NotFound
from holdfast.store import LocalStore
from holdfast.training.building import build
from holdfast.training.hparams import HyperparametersMixin
from holdfast.training.hparams_file import read_hparams
from holdfast.training.placement import MapLocation, Placement, placement
from holdfast.training.weights import load_weights

T = TypeVar("T")


@dataclass(frozen=True)
class Read:
    """A checkpoint as hooks know it.

    Args:
        path: For people.
        state: The dictionary.
        manifest: What our own files say of themselves; None for a foreign one.
        withheld: Dotted paths of values that are in the file and that a safe load does not give: there is None in
            their place.
    """

    path: str
    state: dict[str, Any]
    manifest: Manifest | None = None
    withheld: tuple[str, ...] = ()


def load_module(
    cls: type[T],
    path: str | os.PathLike[str],
    *,
    map_location: MapLocation = None,
    hparams_file: str | os.PathLike[str] | None = None,
    strict: bool | None = None,
    weights_only: bool | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> T:
    """Build a ``LightningModule`` with the hyperparameters and weights of a checkpoint.

    In this order: ``cls(...)``, ``configure_model``, ``on_load_checkpoint``, ``load_state_dict``, then the device where
    its first tensor was read to. Only where the class has an ``on_load_checkpoint`` is the whole file read.

    Args:
        cls: What to build: a ``torch.nn.Module``.
        path: The file.
        map_location: Where tensors go, in any form that ``torch.load`` takes. By default where they were saved from,
            or the CPU where this machine has no such device.
        hparams_file: Hyperparameters to use instead of the checkpoint's, a .yaml or .csv file.
        strict: Whether all keys must match; by default what the module's ``strict_loading`` says.
        weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.
        kwargs: Arguments of ``__init__``, over those of the checkpoint.

    Raises:
        NotFound: There is no such file.
        Corrupt: It is damaged.
        Foreign: It is not ours, and the safe loader cannot read it.
        Incompatible: It does not fit the class, or this machine lacks the device.
        ConfigError: ``hparams_file`` cannot be read, or ``map_location`` is of no known form.
    """
    # Not at the top: the module's own file imports from here.
    from holdfast.training.module import LightningModule

    hook = getattr(cls, "on_load_checkpoint", None)
    everything = hook is not None and hook is not LightningModule.on_load_checkpoint
    keys = None if everything else ["state_dict", *_hparam_keys(cls)]
    read = read_checkpoint(path, keys, map_location=map_location, weights_only=weights_only)
    module: Any = _built(cls, read, hparams_file, kwargs or {})
    if hasattr(module, "configure_model"):
        module.configure_model()
    if everything:
        module.on_load_checkpoint(read.state)
    state = _weights(read)
    if strict is None:
        strict = getattr(module, "strict_loading", True)
    load_weights(module, state, strict=strict, checkpoint=read.path, remedy=_remedy(read) if strict else "")
    device = next((value.device for value in state.values() if isinstance(value, torch.Tensor)), None)
    return cast(T, module if device is None else module.to(device))


def _weights(read: Read) -> Mapping[str, Any]:
    state = read.state.get("state_dict")
    if not isinstance(state, Mapping):
        raise Incompatible(
            f"holds no 'state_dict'. It holds: {', '.join(map(str, read.state)) or 'nothing'}.",
            checkpoint=read.path,
            remedy="If these are the weights themselves: module.load_state_dict(torch.load(path)).",
        )
    return state


def _remedy(read: Read) -> str:
    """What to do where keys are missing because they were never meant to be there."""
    if read.manifest is None or read.manifest.what in ("full", "weights only"):
        return ""
    return f"It was saved with a part of the weights only ({read.manifest.what}): load it with strict=False."


def load_datamodule(
    cls: type[T],
    path: str | os.PathLike[str],
    *,
    map_location: MapLocation = None,
    hparams_file: str | os.PathLike[str] | None = None,
    weights_only: bool | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> T:
    """Build a ``LightningDataModule`` with the hyperparameters and the state that a checkpoint holds of it.

    The state is what the checkpoint has under the class's qualified name; it may have none. Arguments and errors are
    those of ``load_module``.
    """
    keys = [cls.__qualname__, *_hparam_keys(cls)]
    read = read_checkpoint(path, keys, map_location=map_location, weights_only=weights_only)
    datamodule: Any = _built(cls, read, hparams_file, kwargs or {})
    if cls.__qualname__ in read.state:
        datamodule.load_state_dict(read.state[cls.__qualname__])
    return cast(T, datamodule)


def read_checkpoint(
    path: str | os.PathLike[str],
    keys: Collection[str] | None = None,
    *,
    map_location: MapLocation = None,
    weights_only: bool | None = None,
) -> Read:
    """Read a checkpoint's dictionary: ours verified, a foreign one by ``torch.load``.

    Args:
        path: The file.
        keys: Those to read; None for all. A foreign file is read whole.
        map_location: Where tensors go.
        weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.

    Raises:
        NotFound, Corrupt, Foreign, Incompatible, ConfigError: As ``load_module`` does.
    """
    file = _local(path)
    store = LocalStore(file.parent)
    if store.stat(file.name) is None:
        raise NotFound("does not exist.", checkpoint=str(file))
    place = placement(map_location, str(file))
    try:
        return _read_ours(store, file, keys, place, trusted=weights_only is False)
    except Foreign:
        return _read_foreign(file, place, safe=weights_only is not False)
    except Corrupt:
        # Anybody's folder may be large: only one that has a ledger is looked through for what else is good.
        if store.stat(LEDGER) is None:
            raise
        listing = Folder(store).scan()
        this = listing.by_name(file.name)
        good = resolve.newest_good(listing.records, but=this.id if this else "")
        return _read_ours(store, file, keys, place, trusted=weights_only is False, good=good)


def _local(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"A checkpoint is given by its path, not as a {type(path).__name__}.")
    text = os.fspath(path)
    if "://" in text:
        raise ConfigError(f"'{text}' is a URL: only local files are read.", remedy="Fetch it first.")
    file = Path(text).expanduser().absolute()
    if os.path.isdir(file):  # noqa: PTH112 # Path.is_dir raises where a folder above may not be read
        raise NotFound("is a folder.", checkpoint=str(file), remedy="Name a checkpoint in it, such as its last.ckpt.")
    return file


def _read_ours(
    store: LocalStore,
    file: Path,
    keys: Collection[str] | None,
    place: Placement,
    *,
    trusted: bool,
    good: str = "",
) -> Read:
    with store.open(file.name) as reader:
        ours = CheckpointFile(reader, name=str(file), good=good)
        opaque = ours.opaque() if trusted else {}
        state = ours.whole(keys=keys, location=place, opaque=opaque)
    withheld = tuple(name for name in ours.manifest.opaque if name not in opaque)
    return Read(str(file), state, ours.manifest, withheld)


def _read_foreign(file: Path, place: Placement, *, safe: bool) -> Read:
    try:
        # torch's stubs know of typed storages only; what it hands over is untyped.
        state = torch.load(file, map_location=cast(Any, place), weights_only=safe)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        remedy = "If you trust whoever wrote it as your own code: weights_only=False." if safe else ""
        raise Foreign(
            f"was not written by Holdfast, and PyTorch cannot read it: {_reason(error)}.",
            checkpoint=str(file),
            good="Nothing was loaded.",
            remedy=remedy,
        ) from error
    if not isinstance(state, dict):
        raise Incompatible(f"holds a {type(state).__name__}, not a dictionary.", checkpoint=str(file))
    return Read(str(file), state)


def _reason(error: Exception) -> str:
    """The one line of PyTorch's page of advice that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    telling = [line for line in lines if "WeightsUnpickler error" in line]
    return (telling or lines)[0].rstrip(".")


def _hparam_keys(cls: Any) -> tuple[str, str, str]:
    owner = cls if issubclass(cls, HyperparametersMixin) else HyperparametersMixin
    return (
        owner.CHECKPOINT_HYPER_PARAMS_KEY,
        owner.CHECKPOINT_HYPER_PARAMS_NAME,
        owner.CHECKPOINT_HYPER_PARAMS_TYPE,
    )


def _built(cls: type[T], read: Read, hparams_file: str | os.PathLike[str] | None, kwargs: Mapping[str, Any]) -> T:
    values_key, name_key, type_key = _hparam_keys(cls)
    if hparams_file is not None:
        return build(cls, read_hparams(hparams_file), kwargs, checkpoint=read.path, alone=True)
    withheld = [p.removeprefix(values_key + ".") for p in read.withheld if p.startswith(values_key + ".")]
    return build(
        cls,
        read.state.get(values_key, {}),
        kwargs,
        checkpoint=read.path,
        argument=read.state.get(name_key),
        argument_type=read.state.get(type_key),
        withheld=withheld,
    )
