"""Split a state into a tree of plain values and the storages behind its tensors, and put them together again.

Knows no file and no trainer. What is neither plain nor a tensor is set aside as *opaque*, with its path.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from holdfast.catalog.manifest import ITEM_BYTES
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

    @property
    def dtype_name(self) -> str:
        """The data type by its name in a manifest."""
        return _name(self.dtype)

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
        opaque: Dotted path to each value that is neither plain nor a tensor; the tree holds None for it.
        types: ``spelled`` path to the exact type of each value that is held as its nearest plain one.
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
        ConfigError: A tensor of a kind that a checkpoint cannot hold (sparse, quantised, on no device), or a
            state nested too deeply or containing itself; with its path.
    """
    walk = _Walk(keep, name or dotted)
    root = walk.value(state, (), 0)
    walk.compact()
    walk.tree.root = put_together(root, walk.place)
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
        if isinstance(root, OrderedDict):
            yield from references(dict(vars(root)))


def at(root: Any, path: tuple[str | int, ...]) -> Any:
    """The piece of a tree at a path of keys and indices; KeyError or IndexError where there is none."""
    for key in path:
        root = root[key]
    return root


def dotted(path: tuple[Any, ...]) -> str:
    """A path as text."""
    return ".".join(map(str, path))


def spelled(path: tuple[Any, ...]) -> str:
    """A path as text that no other path has: a key that is no plain word is quoted, as in ``a.'b.c'.0``."""
    return ".".join(_spelled(key) for key in path)


def _spelled(key: Any) -> str:
    if type(key) is str:
        return key if key.isidentifier() else repr(key)
    return str(key) if type(key) is int else f"[{key!r}]"


def _is_key(key: Any) -> bool:
    """Whether a dictionary in a checkpoint may have this key, and a set hold it."""
    if type(key) is tuple:
        return all(type(k) is not tuple and _is_key(k) for k in key)
    return type(key) in _KEYS and (type(key) is not int or key.bit_length() <= _MAX_INT_BITS)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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

    @property
    def elements(self) -> int:
        """Elements of memory that it refers to; those that stride 0 repeats count once."""
        t = self.tensor
        return math.prod(n if s else min(n, 1) for n, s in zip(t.shape, t.stride(), strict=True))

    @property
    def start(self) -> int:
        return int(self.tensor.storage_offset())

    @property
    def end(self) -> int:
        """One past its last element in memory."""
        t = self.tensor
        if not t.numel():
            return self.start
        return self.start + 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))


class _Walk:
    def __init__(
        self, keep: Callable[[str, torch.Tensor], bool] | None, name: Callable[[tuple[Any, ...]], str]
    ) -> None:
        self.tree = Tree()
        self.keep = keep
        self.name = name
        self.found: list[_Found] = []
        self.moved: dict[tuple[Any, ...], torch.Tensor] = {}
        self.keys: dict[tuple[Any, ...], str] = {}

    def value(self, value: Any, path: tuple[Any, ...], depth: int) -> Any:
        if depth > MAX_DEPTH:
            where = self.name(path)[:200]
            raise ConfigError(f"The state is deeper than {MAX_DEPTH}, or contains itself, at '{where}'.")
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return self.tensor(value, path)
        if kind in _PLAIN or (kind is int and _is_key(value)) or (kind is bytes and value):
            return value
        if kind in (dict, OrderedDict, Counter):
            return self.mapping(value, path, depth)
        if kind in (list, tuple):
            items = [self.value(v, (*path, i), depth + 1) for i, v in enumerate(value)]
            return kind(None if item is _OMITTED else item for item in items)
        if kind is set and all(type(v) is not tuple and _is_key(v) for v in value):
            return set(value)
        encoded = plain.encode(value)
        if encoded is not None:
            nearest, name = encoded
            self.tree.types[spelled(path)] = name
            return self.value(nearest, path, depth + 1)
        self.tree.opaque[self.name(path)] = value
        return None

    def mapping(self, value: Mapping[Any, Any], path: tuple[Any, ...], depth: int) -> Any:
        if not all(map(_is_key, value)):
            self.tree.opaque[self.name(path)] = value
            return None
        made: Any = type(value)()
        for key, item in value.items():
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
        refuse(tensor, name)
        values = tensor.detach()
        if values.is_conj() or values.is_neg():
            values = values.resolve_conj().resolve_neg()
        found = _Found(name, values, tensor.requires_grad)
        self.found.append(found)
        return found

    def compact(self) -> None:
        """Where less than half of a memory is the state's, move that to memory of its own."""
        by_memory: dict[int, dict[tuple[Any, ...], _Found]] = {}
        for found in self.found:
            by_memory.setdefault(found.memory, {})[found.view] = found
        for views in by_memory.values():
            runs = _overlapping(views.values())
            used = sum(run.bytes for run in runs)
            if used * 2 < next(iter(views.values())).tensor.untyped_storage().nbytes():
                for run in runs:
                    self.moved.update(run.copied())

    def place(self, found: _Found) -> TensorRef:
        values = self.moved.get(found.view, found.tensor)
        storage = values.untyped_storage()
        # A file's storage has one data type: views of one memory as two types become two storages.
        key = self.keys.setdefault((storage._cdata, values.dtype), str(len(self.keys)))
        self.tree.storages[key] = storage
        ref = TensorRef(
            found.path,
            key,
            torch.serialization.location_tag(storage),
            values.dtype,
            tuple(values.shape),
            values.stride(),
            int(values.storage_offset()),
            found.trainable,
        )
        self.tree.tensors.append(ref)
        return ref


@dataclass(frozen=True)
class _Run:
    """Views of one memory and one data type whose extents overlap."""

    views: tuple[_Found, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Bytes that the views refer to, at most."""
        elements = min(sum(view.elements for view in self.views), self.end - self.start)
        return elements * self.views[0].tensor.element_size()

    def copied(self) -> dict[tuple[Any, ...], torch.Tensor]:
        """Each view, over a copy of the memory that holds no more than is needed to keep them overlapping."""
        first = self.views[0]
        if len(self.views) == 1 and first.tensor.numel() <= self.end - self.start:
            return {first.view: first.tensor.clone(memory_format=torch.contiguous_format)}
        copy = first.tensor.as_strided((self.end - self.start,), (1,), self.start).clone()
        return {
            view.view: copy.as_strided(view.tensor.shape, view.tensor.stride(), view.start - self.start)
            for view in self.views
        }


def _overlapping(views: Iterable[_Found]) -> list[_Run]:
    """The views by runs whose extents overlap."""
    runs: list[list[_Found]] = []
    end = 0
    for view in sorted(views, key=lambda v: (str(v.tensor.dtype), v.start, v.end)):
        if runs and view.tensor.dtype is runs[-1][0].tensor.dtype and view.start < end:
            runs[-1].append(view)
            end = max(end, view.end)
        else:
            runs.append([view])
            end = view.end
    return [_Run(tuple(run), run[0].start, max(view.end for view in run)) for run in runs]


def refuse(tensor: torch.Tensor, name: str) -> None:
    """Raise ConfigError for a tensor of a kind that a checkpoint cannot hold."""
    if tensor.layout is not torch.strided:
        kind = f"its layout is {tensor.layout}"
    elif tensor.is_nested:
        kind = "it is nested"
    elif tensor.is_quantized:
        kind = "it is quantised"
    elif tensor.is_meta:
        kind = "it is on the meta device and has no data"
    elif type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind = f"it is a {type(tensor).__module__}.{type(tensor).__qualname__}, which wraps other tensors"
    elif _name(tensor.dtype) not in ITEM_BYTES:
        kind = f"its data type is {tensor.dtype}"
    else:
        return
    raise ConfigError(
        f"The tensor '{name}' cannot be put into a checkpoint: {kind}.",
        remedy="Turn it into a dense tensor in state_dict(), or leave it out with what=full.excluding(...).",
    )
