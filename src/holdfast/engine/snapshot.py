"""The state of one step, safe from the training that goes on.

This is the seam where saving gets cheaper: whoever holds a ``Snapshot`` reads storages through it, and cannot
tell whether they were copied at once or are lent until the next optimizer step. Today all are copied.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from holdfast.engine.statetree import Tree


@dataclass(frozen=True)
class Snapshot:
    """A tree, its own copy of every storage in host memory, and its opaque values pickled.

    Args:
        tree: The state taken apart; its storages are those of the copy.
        opaque: Dotted path to the pickle of each value that is neither plain nor a tensor.
        lost: Dotted paths of such values that cannot be pickled.
    """

    tree: Tree
    opaque: Mapping[str, bytes] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all storages."""
        return sum(storage.nbytes() for storage in self.tree.storages.values())


def take(tree: Tree) -> Snapshot:
    """Copy every storage to host memory. When it returns, the state may change."""
    copies = {key: _host_copy(storage) for key, storage in tree.storages.items()}
    pickled: dict[str, bytes] = {}
    lost = []
    for path, value in tree.opaque.items():
        try:
            pickled[path] = pickle.dumps(value, protocol=4)
        except Exception:  # a user's __reduce__ may raise anything, and a save never fails for such a value
            lost.append(path)
    return Snapshot(Tree(tree.root, copies, tree.tensors, {}, tree.types), pickled, tuple(lost))


def _host_copy(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    copy = torch.UntypedStorage(storage.nbytes())  # type: ignore[no-untyped-call]  # torch's stubs lack it
    copy.copy_(storage)
    return copy
