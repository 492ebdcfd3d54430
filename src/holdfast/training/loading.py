"""Build a module or datamodule from a checkpoint: read it, build the object, put its state back.

Imports and calls nothing that a file names: the caller gives the class.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch

from holdfast.catalog import resolve
from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.manifest import Manifest
from holdfast.engine.directory import Checkpoint, opened
from holdfast.engine.reader import CheckpointFile
from holdfast.engine.statetree import dotted
from holdfast.errors import ConfigError, Corrupt, Foreign, Incompatible
from holdfast.formats import foreign, migrations
from holdfast.formats.everyday import Unknown
from holdfast.log import logger
from holdfast.store import LocalStore
from holdfast.training.building import build
from holdfast.training.hparams import HyperparametersMixin
from holdfast.training.hparams_file import read_hparams
from holdfast.training.opening import Readable, Source, readable, sharded_at
from holdfast.training.placement import MapLocation, Placement, placement
from holdfast.training.weights import OnMismatch, load_weights

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
        named: Path of keys to those among them that are a plain value of a class that the file names.
    """

    path: str
    state: dict[str, Any]
    manifest: Manifest | None = None
    withheld: tuple[str, ...] = ()
    named: dict[tuple[Any, ...], Unknown] = field(default_factory=dict)


def load_module(
    cls: type[T],
    path: Source,
    *,
    map_location: MapLocation = None,
    hparams_file: str | os.PathLike[str] | None = None,
    strict: bool | None = None,
    weights_only: bool | None = None,
    on_mismatch: OnMismatch = "raise",
    kwargs: Mapping[str, Any] | None = None,
) -> T:
    """Build a ``LightningModule`` with the hyperparameters and weights of a checkpoint.

    In this order: ``cls(...)``, ``configure_model``, ``on_load_checkpoint``, ``load_state_dict``, then the device where
    its first tensor was read to. Only where the class has an ``on_load_checkpoint`` is the whole file read.

    Args:
        cls: What to build: a ``torch.nn.Module``.
        path: The file: a path, a URL (http, https, or whatever fsspec opens) or an open binary file.
        map_location: Where tensors go, in any form that ``torch.load`` takes. By default where they were saved from,
            or the CPU where this machine has no such device.
        hparams_file: Hyperparameters to use instead of the checkpoint's, a .yaml or .csv file.
        strict: Whether all keys must match; by default what the module's ``strict_loading`` says.
        weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.
        on_mismatch: ``"skip"`` leaves tensors of another shape, such as a new head's, as ``__init__`` has made them,
            and lists them in the log; ``"raise"`` refuses the checkpoint.
        kwargs: Arguments of ``__init__``, over those of the checkpoint.

    Raises:
        NotFound: There is no such file.
        Corrupt: It is damaged.
        Foreign: It is not ours, and the safe loader cannot read it.
        Incompatible: It does not fit the class, or this machine lacks the device.
        ConfigError: ``hparams_file`` cannot be read, or ``map_location`` or ``on_mismatch`` is of no known form.
    """
    if on_mismatch not in get_args(OnMismatch):
        raise ConfigError(f"on_mismatch is 'raise' or 'skip', not {on_mismatch!r:.80}.")
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
    remedy = _remedy(read) if strict else ""
    load_weights(module, state, strict=strict, checkpoint=read.path, remedy=remedy, on_mismatch=on_mismatch)
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
    path: Source,
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
    source: Source,
    keys: Collection[str] | None = None,
    *,
    map_location: MapLocation = None,
    weights_only: bool | None = None,
) -> Read:
    """Read a checkpoint's dictionary: ours verified, a foreign one by PyTorch's safe loader, brought to today's form.

    Args:
        source: A path, a URL or an open binary file.
        keys: Those to read; None for all. A foreign file is read whole.
        map_location: Where tensors go.
        weights_only: False gives back values that are not plain too, by pickle, which runs code in the file.

    Raises:
        NotFound, Corrupt, Foreign, Incompatible, ConfigError: As ``load_module`` does.
    """
    trusted = weights_only is False
    if isinstance(source, (str, os.PathLike)) and (path := sharded_at(source)) is not None:
        with opened(LocalStore(path.parent), path.name, name=str(path), good=_newest_good_beside(path)) as found:
            return _read_ours(found, keys, placement(map_location, str(path)), trusted=trusted)
    with readable(source) as there:
        place = placement(map_location, there.name)
        try:
            return _read_ours(CheckpointFile(there.reader, name=there.name), keys, place, trusted=trusted)
        except Foreign:
            return read_foreign(there, place, trusted=trusted)
        except Corrupt:
            good = _newest_good_beside(there.path)
            if not good:
                raise
            ours = CheckpointFile(there.reader, name=there.name, good=good)
            return _read_ours(ours, keys, place, trusted=trusted)


def _newest_good_beside(path: Path | None) -> str:
    """What else is good in the folder. Anybody's may be large: only one that has a ledger is looked through."""
    if path is None:
        return ""
    store = LocalStore(path.parent)
    if store.stat(LEDGER) is None:
        return ""
    listing = Folder(store).scan()
    this = listing.by_name(path.name)
    return resolve.newest_good(listing.records, but=this.id if this else "")


def _read_ours(ours: Checkpoint, keys: Collection[str] | None, place: Placement, *, trusted: bool) -> Read:
    opaque = ours.opaque() if trusted else {}
    state = ours.whole(keys=keys, location=place, opaque=opaque, mapped=["state_dict"])
    withheld = tuple(name for name in ours.manifest.opaque if name not in opaque)
    return Read(ours.name, state, ours.manifest, withheld)


def read_foreign(there: Readable, place: Any, *, trusted: bool) -> Read:
    """Read a file that Holdfast did not write, and bring it to the form of today's.

    Says what of it is left behind, and what a safe load withholds.

    Raises:
        Foreign: It cannot be read, or not safely.
        Incompatible: It holds something else than a dictionary, or essential parts of it cannot be read safely.
    """
    found = foreign.read_foreign(there.file, name=there.name, location=place, trusted=trusted)
    try:
        said = migrations.migrate(found.state)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Incompatible(
            f"holds something of another form than any version of Lightning wrote: {error!r:.200}.",
            checkpoint=there.name,
            good="Nothing was loaded.",
        ) from error
    for sentence in said:
        logger.warning("'%s': %s", there.name, sentence)
    essential = [dotted(path) for path in found.withheld if path and path[0] in _ESSENTIAL]
    if essential:
        raise Foreign(
            f"holds what cannot be read safely: {', '.join(essential[:10])}.",
            checkpoint=there.name,
            good="Nothing was loaded.",
            remedy=foreign.TRUST,
        )
    withheld = tuple(dotted(path) for path in found.withheld)
    named = {path: unknown for path, unknown in found.withheld.items() if unknown.plain is not None}
    return Read(there.name, found.state, None, withheld, named)


_ESSENTIAL = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")


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
        named={path[1]: unknown for path, unknown in read.named.items() if len(path) == 2 and path[0] == values_key},
    )
