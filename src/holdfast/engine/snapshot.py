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
        tree: The state taken apart; its storages are copies, and those of the state where they are lent or given.
        opaque: Dotted path to the pickle of each value that is neither plain nor a tensor.
        lost: Dotted paths of such values that cannot be pickled.
        window: Open while what is lent is read; whoever reads closes it. None where all are copies.
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
    tree: Tree,
    lent: Iterable[Lent] = (),
    given: Iterable[torch.Tensor] = (),
    *,
    but: Collection[str] = (),
    patience: float | None = None,
) -> Snapshot:
    """Copy every storage to host memory that is not lent or given. When it returns, all but those may change.

    Args:
        tree: The state taken apart.
        lent: Tensors that change in a step of their optimizer only: it waits until they have been read.
        given: Tensors in host memory that were made for this state, and that nobody changes any more.
        but: Names of tensors that are copied none the less.
        patience: Seconds that training waits at most.
    """
    owners = {one.tensor.untyped_storage()._cdata: one for one in lent}
    made = {one.untyped_storage()._cdata: one for one in given}
    names: dict[str, str] = {}
    for ref in tree.tensors:
        names.setdefault(ref.storage, ref.path)
    storages: dict[str, torch.UntypedStorage] = {}
    borrowed: dict[str, Lent] = {}
    taken: dict[str, torch.Tensor] = {}
    for key, storage in tree.storages.items():
        name, number = names[key], storage._cdata
        storages[key] = storage
        if name not in but and number in owners:
            borrowed[name] = owners[number]
        elif name not in but and number in made:
            taken[name] = made[number]
        else:
            storages[key] = _host_copy(storage)
    pickled: dict[str, bytes] = {}
    lost = []
    for path, value in tree.opaque.items():
        try:
            pickled[path] = pickle.dumps(value, protocol=4)
        except Exception:  # a user's __reduce__ may raise anything, and a save never fails for such a value
            lost.append(path)
    copied = Tree(tree.root, storages, tree.tensors, {}, tree.types)
    beside = Beside(one.tensor.device for one in borrowed.values())
    window = Window(borrowed, patience, taken) if borrowed or taken else None  # last: nothing may fail once it is open
    return Snapshot(copied, pickled, tuple(lost), window, beside)


def _host_copy(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    copy = torch.UntypedStorage(storage.nbytes())  # type: ignore[no-untyped-call]  # torch's stubs lack it
    copy.copy_(storage)
    return copy
