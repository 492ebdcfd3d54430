"""Split a state into a tree of plain values and the storages behind its tensors, and put the two together again.

Knows no file and no trainer. What is neither plain nor a tensor is set aside as *opaque*, with its path.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from holdfast.engine import plain
from holdfast.errors import ConfigError

MAX_DEPTH = 100
_PLAIN = (type(None), bool, float, str, complex, torch.Size, torch.dtype, torch.device)
_KEYS = (str, int, bool, float, type(None))
_MAX_INT_BITS = 8 * 255 - 1  # PyTorch's safe loader reads no longer ones


@dataclass(frozen=True)
class TensorRef:
    """One tensor's place in a storage; what a tree holds instead of the tensor.

    Args:
        path: Dotted path in the state; empty where it is not known.
        storage: Key of the storage that holds its elements.
        location: Where it lived, as PyTorch tags it: ``cpu``, ``cuda:0``, …
        dtype: Data type.
        shape: Size in each dimension.
        stride: Elements between neighbours in each dimension.
        offset: First element, counted in elements from the storage's beginning.
        trainable: Whether it asked for a gradient.
    """

    path: str
    storage: str
    location: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    trainable: bool = False

    def over(self, data: torch.UntypedStorage) -> torch.Tensor:
        """The tensor over the memory ``data``."""
        made = torch.empty(0, dtype=self.dtype, device=data.device)
        made.set_(data, self.offset, self.shape, self.stride)
        return made.requires_grad_(self.trainable)


@dataclass
class Tree:
    """A state taken apart.

    Args:
        root: Plain values, with a ``TensorRef`` for each tensor.
        storages: Key to memory, lent from the state, in the order in which the tree meets them.
        tensors: Every tensor reference, in the order of the tree.
        opaque: Dotted path to each value that is neither plain nor a tensor; the tree holds None in its place.
        types: Dotted path to the exact type of each value that is held as its nearest plain one.
    """

    root: Any = None
    storages: dict[str, torch.UntypedStorage] = field(default_factory=dict)
    tensors: list[TensorRef] = field(default_factory=list)
    opaque: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


def take_apart(
    state: Any,
    *,
    keep: Callable[[str, torch.Tensor], bool] | None = None,
    name: Callable[[tuple[Any, ...]], str] | None = None,
) -> Tree:
    """Walk a state. Containers are copied, so that later changes of them do not show; tensors are not.

    Args:
        state: Nested dictionaries, lists, tuples and sets of plain values and tensors.
        keep: Asked for each tensor with its name; those refused are left out of their dictionary.
        name: The dotted name of a path; by default the path itself.

    Raises:
        ConfigError: A tensor of a kind that a checkpoint cannot hold (sparse, quantised, on no device), or a state
            nested too deeply or containing itself; with its path.
    """
    walk = _Walk(keep, name or dotted)
    root = walk.value(state, (), 0)
    used = walk.used_bytes()
    walk.tree.root = put_together(root, lambda ref: walk.place(ref, used))
    return walk.tree


def put_together(root: Any, tensor: Callable[[Any], Any]) -> Any:
    """The tree with each tensor reference replaced by ``tensor(reference)``; containers are new."""
    if isinstance(root, (TensorRef, _Found)):
        return tensor(root)
    if isinstance(root, dict):
        filled = type(root)()
        for key, value in root.items():
            filled[key] = put_together(value, tensor)
        if isinstance(root, OrderedDict):
            vars(filled).update({k: put_together(v, tensor) for k, v in vars(root).items()})
        return filled
    if type(root) in (list, tuple):
        return type(root)(put_together(v, tensor) for v in root)
    return root


def references(root: Any) -> Iterator[TensorRef]:
    """Every tensor reference in a tree or in a piece of it."""
    if isinstance(root, TensorRef):
        yield root
    elif isinstance(root, (dict, list, tuple)):
        for value in root.values() if isinstance(root, dict) else root:
            yield from references(value)


def at(root: Any, path: tuple[str | int, ...]) -> Any:
    """The piece of a tree at a path of keys and indices; KeyError or IndexError where there is none."""
    for key in path:
        root = root[key]
    return root


def dotted(path: tuple[Any, ...]) -> str:
    """A path as text."""
    return ".".join(map(str, path))


class _Omitted:
    """Marks a tensor that ``keep`` refused."""


_OMITTED = _Omitted()


@dataclass(frozen=True, eq=False)
class _Found:
    """A tensor on its way into the tree: its storage is chosen when all tensors are known."""

    path: str
    tensor: torch.Tensor
    trainable: bool

    @property
    def memory(self) -> int:
        return int(self.tensor.untyped_storage()._cdata)

    @property
    def view(self) -> tuple[Any, ...]:
        """Equal for two tensors that are the same view of the same memory."""
        t = self.tensor
        return (self.memory, t.dtype, t.storage_offset(), tuple(t.shape), t.stride())


class _Walk:
    def __init__(
        self, keep: Callable[[str, torch.Tensor], bool] | None, name: Callable[[tuple[Any, ...]], str]
    ) -> None:
        self.tree = Tree()
        self.keep = keep
        self.name = name
        self.found: list[_Found] = []
        self.keys: dict[tuple[Any, ...], tuple[str, torch.Tensor]] = {}

    def value(self, value: Any, path: tuple[Any, ...], depth: int) -> Any:
        if depth > MAX_DEPTH:
            where = self.name(path)[:200]
            raise ConfigError(f"The state is nested more than {MAX_DEPTH} deep, or contains itself, at '{where}'.")
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return self.tensor(value, path)
        if kind in _PLAIN or (kind is int and value.bit_length() <= _MAX_INT_BITS) or (kind is bytes and value):
            return value
        if kind in (dict, OrderedDict, Counter):
            return self.mapping(value, path, depth)
        if kind in (list, tuple):
            items = [self.value(v, (*path, i), depth + 1) for i, v in enumerate(value)]
            return kind(None if item is _OMITTED else item for item in items)
        if kind is set and all(type(v) in _KEYS for v in value):
            return set(value)
        encoded = plain.encode(value)
        if encoded is not None:
            nearest, name = encoded
            self.tree.types[self.name(path)] = name
            return self.value(nearest, path, depth + 1)
        self.tree.opaque[self.name(path)] = value
        return None

    def mapping(self, value: Mapping[Any, Any], path: tuple[Any, ...], depth: int) -> Any:
        made: Any = type(value)()
        for key, item in value.items():
            if type(key) not in _KEYS and not (type(key) is tuple and all(type(k) in _KEYS for k in key)):
                self.tree.opaque[self.name(path)] = value
                return None
            taken = self.value(item, (*path, key), depth + 1)
            if taken is not _OMITTED:
                made[key] = taken
        if isinstance(value, OrderedDict) and "_metadata" in vars(value):
            # Modules keep the versions of their state there, and load_state_dict looks for it.
            made._metadata = self.value(vars(value)["_metadata"], (*path, "_metadata"), depth + 1)
        return made

    def tensor(self, tensor: torch.Tensor, path: tuple[Any, ...]) -> Any:
        name = self.name(path)
        if self.keep is not None and not self.keep(name, tensor):
            return _OMITTED
        _refuse(tensor, name)
        values = tensor.detach()
        if values.is_conj() or values.is_neg():
            values = values.resolve_conj().resolve_neg()
        found = _Found(name, values, tensor.requires_grad)
        self.found.append(found)
        return found

    def used_bytes(self) -> dict[int, int]:
        """Memory to the bytes of it that tensors of the state refer to, each view counted once."""
        used: dict[int, int] = {}
        for found in {f.view: f for f in self.found}.values():
            size = math.prod(found.tensor.shape) * found.tensor.element_size()
            used[found.memory] = used.get(found.memory, 0) + size
        return used

    def place(self, found: _Found, used: Mapping[int, int]) -> TensorRef:
        """Choose the storage: the tensor's own memory, or a copy where most of that is not the state's."""
        sparse = used[found.memory] * 2 < found.tensor.untyped_storage().nbytes()
        # A file's storage has one data type: views of one memory as two types become two storages.
        which = found.view if sparse else (found.memory, found.tensor.dtype)
        if which not in self.keys:
            kept = found.tensor.contiguous().clone() if sparse else found.tensor
            key = str(len(self.keys))
            self.keys[which] = (key, kept)
            self.tree.storages[key] = kept.untyped_storage()
        key, kept = self.keys[which]
        values = kept if sparse else found.tensor
        ref = TensorRef(
            found.path,
            key,
            torch.serialization.location_tag(values.untyped_storage()),
            values.dtype,
            tuple(values.shape),
            values.stride(),
            int(values.storage_offset()),
            found.trainable,
        )
        self.tree.tensors.append(ref)
        return ref


def _refuse(tensor: torch.Tensor, name: str) -> None:
    if tensor.layout is not torch.strided:
        kind = f"its layout is {tensor.layout}"
    elif tensor.is_quantized:
        kind = "it is quantised"
    elif tensor.is_meta:
        kind = "it is on the meta device and has no data"
    elif type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind = f"it is a {type(tensor).__module__}.{type(tensor).__qualname__}, which wraps other tensors"
    else:
        return
    raise ConfigError(
        f"The tensor '{name}' cannot be put into a checkpoint: {kind}.",
        remedy="Turn it into a dense tensor in state_dict(), or leave it out with what=full.excluding(...).",
    )
