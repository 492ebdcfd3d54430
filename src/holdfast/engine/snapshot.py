"""The state of one step, safe from the training that goes on: what it may change is copied, the rest is lent.

Whoever holds a ``Snapshot`` reads storages through it, and cannot tell which of them are copies. What may be lent,
``lending`` says; until when, ``fence``.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from holdfast.engine.device import Beside
from holdfast.engine.fence import Window
from holdfast.engine.lending import Lent
from holdfast.engine.statetree import Tree


@dataclass(frozen=True)
class Snapshot:
    """A tree, its storages in host memory, and its opaque values pickled.

    Args:
        tree: The state taken apart; its storages are copies in host memory, and those of the state where they are lent.
        opaque: Dotted path to the pickle of each value that is neither plain nor a tensor.
        lost: Dotted paths of such values that cannot be pickled.
        window: Open while what is lent is read; whoever reads closes it. None where nothing is lent.
        beside: Reads the storages that are lent by GPUs.
    """

    tree: Tree
    opaque: Mapping[str, bytes] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    window: Window | None = None
    beside: Beside = field(default_factory=lambda: Beside(()))

    @property
    def bytes(self) -> int:
        """Bytes of all storages."""
        return sum(storage.nbytes() for storage in self.tree.storages.values())


def take(
    tree: Tree, lent: Iterable[Lent] = (), *, but: Collection[str] = (), patience: float | None = None
) -> Snapshot:
    """Copy every storage to host memory that is not lent. When it returns, all but those may change.

    Args:
        tree: The state taken apart.
        lent: Tensors that change in a step of their optimizer only: it waits until they have been read.
        but: Names of tensors that are copied none the less.
        patience: Seconds that training waits at most.
    """
    owners = {one.tensor.untyped_storage()._cdata: one for one in lent}
    names: dict[str, str] = {}
    for ref in tree.tensors:
        names.setdefault(ref.storage, ref.path)
    storages, borrowed = {}, {}
    for key, storage in tree.storages.items():
        owner = owners.get(storage._cdata)
        if owner is None or names[key] in but:
            storages[key] = _host_copy(storage)
        else:
            storages[key], borrowed[names[key]] = storage, owner
    pickled: dict[str, bytes] = {}
    lost = []
    for path, value in tree.opaque.items():
        try:
            pickled[path] = pickle.dumps(value, protocol=4)
        except Exception:  # a user's __reduce__ may raise anything, and a save never fails for such a value
            lost.append(path)
    copied = Tree(tree.root, storages, tree.tensors, {}, tree.types)
    window = Window(borrowed, patience) if borrowed else None
    return Snapshot(copied, pickled, tuple(lost), window, Beside(one.tensor.device for one in borrowed.values()))


def _host_copy(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    copy = torch.UntypedStorage(storage.nbytes())  # type: ignore[no-untyped-call]  # torch's stubs lack it
    copy.copy_(storage)
    return copy
