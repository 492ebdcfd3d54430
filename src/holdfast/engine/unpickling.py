"""Read the pickle inside a checkpoint: plain values and tensor references, nothing else.

An interpreter of the few opcodes that ``pickling`` uses: it imports nothing, calls nothing, and bounds depth
and length (docs/format.md, "The pickle").
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from holdfast.catalog.manifest import ITEM_BYTES, MAX_BYTES
from holdfast.engine.pickling import TYPED
from holdfast.engine.statetree import MAX_DEPTH, TensorRef


class PickleError(ValueError):
    """A pickle that is not one of ours: damaged in a way that kept its checksum, or made to deceive."""


def loads(data: bytes) -> Any:
    """Read a tree back; nothing in ``data`` is imported or called.

    Raises:
        PickleError: It uses what ``dumps`` does not, ends early, or passes a bound.
    """
    if len(data) > MAX_BYTES:
        raise PickleError(f"the pickle has {len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        return _Interpreter(data).run()
    except PickleError:
        raise
    except (IndexError, KeyError, struct.error, ValueError, TypeError, AttributeError) as error:
        raise PickleError(f"the pickle is malformed: {error!r:.200}") from error
    except (OverflowError, MemoryError) as error:
        raise PickleError(f"the pickle passes a bound: {type(error).__name__}") from error


class _Mark:
    __slots__ = ()


_MARK = _Mark()


class _Name:
    """A global that was named, one of the closed list: what it stands for is built by ``_build`` alone."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_BY_STORAGE = {cls.__name__: dtype for dtype, cls in TYPED.items()}
_STORAGES = {f"torch {name}" for name in _BY_STORAGE} | {"torch.storage UntypedStorage"}
_DTYPES = {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class _Storage:
    __slots__ = ("dtype", "key", "location")

    def __init__(self, dtype: torch.dtype | None, key: str, location: str) -> None:
        self.dtype = dtype
        self.key = key
        self.location = location


_UNFOLDED = 32
_UNFOLDED_ANYWAY = 2**24
"""Items that what is met again may make anew: so many for each byte of the pickle, or so many whatever its length.

Pickles of ours stay far below: in them only tuples that are keys are met again.
"""
_SHARED = (bytes, complex, torch.Size, torch.dtype, torch.device, _Name)


class _Interpreter:
    """A stack machine for protocol 2. Beside every value on the stack is how deep it is.

    What it builds is a tree: a container is never put in two places, and so never in itself.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.depths = bytearray()
        self.memo: dict[int, Any] = {}
        self.unfolded = 0

    def run(self) -> Any:
        while True:
            opcode = self.take(1)
            if opcode == b".":
                if len(self.stack) != 1 or self.position != len(self.data):
                    raise PickleError("the pickle does not end where it says")
                _require_values(self.stack)
                return self.stack[0]
            step = _STEPS.get(opcode)
            if step is None:
                names = {o.code.encode("latin-1"): o.name for o in pickletools.opcodes}
                name = names.get(opcode, repr(opcode))
                raise PickleError(f"the pickle uses {name}, which a checkpoint never does")
            step(self)

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise PickleError("the pickle ends early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def line(self) -> str:
        end = self.data.index(b"\n", self.position, self.position + 200)
        text = self.data[self.position : end].decode("ascii")
        self.position = end + 1
        return text

    def push(self, value: Any, depth: int = 0) -> None:
        if depth > MAX_DEPTH + 20:
            raise PickleError(f"the pickle is nested more than {MAX_DEPTH} deep")
        self.stack.append(value)
        self.depths.append(depth)

    def pop(self) -> tuple[Any, int]:
        """The topmost value and its depth."""
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("the pickle's stack is in disorder")
        return value, self.depths.pop()

    def pop_several(self, count: int) -> tuple[list[Any], int]:
        """The topmost values, lowest first, and the greatest of their depths."""
        popped = [self.pop() for _ in range(count)][::-1]
        return [value for value, _ in popped], max(depth for _, depth in popped)

    def pop_to_mark(self) -> tuple[list[Any], int]:
        start = len(self.stack)
        while start and self.stack[start - 1] is not _MARK:
            start -= 1
        if not start:
            raise PickleError("the pickle's stack is in disorder")
        items, depth = self.stack[start:], max(self.depths[start:], default=0)
        del self.stack[start - 1 :], self.depths[start - 1 :]
        return items, depth

    def hold(self, depth: int) -> None:
        """Note that the topmost value now holds one that is ``depth`` deep."""
        self.push(self.stack.pop(), max(self.depths.pop(), depth + 1))

    def unfold(self, value: Any) -> None:
        """Count what is made once more of a value that may stand in the pickle once."""
        if isinstance(value, (str, tuple)):
            self.unfolded += len(value)
        if self.unfolded > max(_UNFOLDED * len(self.data), _UNFOLDED_ANYWAY):
            raise PickleError("the pickle unfolds into far more than it holds")

    # One method an opcode family; _STEPS below is the closed list.

    def proto(self) -> None:
        if self.take(1) != b"\x02":
            raise PickleError("the pickle is not of protocol 2")

    def tuple_of(self, count: int | None) -> None:
        items, depth = self.pop_to_mark() if count is None else self.pop_several(count)
        self.push(tuple(items), depth + 1)

    def append(self, popped: tuple[list[Any], int]) -> None:
        items, depth = popped
        target = self.stack[-1]
        if type(target) is not list:
            raise PickleError("the pickle appends to what is no list")
        target.extend(items)
        self.hold(depth)

    def set_items(self, popped: tuple[list[Any], int]) -> None:
        items, depth = popped
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise PickleError("the pickle sets items of what is no dictionary")
        for key in items[::2]:
            if not _is_key(key):
                raise PickleError(f"the pickle has a dictionary key of type {type(key).__name__}")
        target.update(zip(items[::2], items[1::2], strict=True))
        self.hold(depth)

    def unicode(self) -> None:
        (length,) = struct.unpack("<I", self.take(4))
        self.push(self.take(length).decode("utf-8", "surrogatepass"))

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))

    def number(self, kind: str) -> None:
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind)))
        self.push(value)

    def put(self, kind: str) -> None:
        (index,) = struct.unpack(kind, self.take(struct.calcsize(kind)))
        if self.stack[-1] is _MARK:
            raise PickleError("the pickle's stack is in disorder")
        self.memo[index] = self.stack[-1]

    def get(self, kind: str) -> None:
        (index,) = struct.unpack(kind, self.take(struct.calcsize(kind)))
        value = self.memo[index]
        if type(value) is tuple:
            self.unfold(value)
        if type(value) not in _SHARED and not _is_key(value):
            # What we write is a tree. A container met twice would let a small file unfold into a huge state.
            raise PickleError(f"the pickle holds one {type(value).__name__} in two places")
        self.push(value, depth=int(type(value) is tuple))

    def global_name(self) -> None:
        text = f"{self.line()} {self.line()}"
        if text in _DTYPES:
            self.push(_DTYPES[text])
        elif text in _BUILDERS or text in _STORAGES:
            self.push(_Name(text))
        else:
            raise PickleError(f"the pickle names {text.replace(' ', '.')}, which a checkpoint never does")

    def persistent(self) -> None:
        reference, _ = self.pop()
        kind, storage, key, location, _ = reference
        if kind != "storage" or not isinstance(storage, _Name) or storage.text not in _STORAGES:
            raise PickleError("the pickle refers to something that is no storage")
        if not (isinstance(key, str) and isinstance(location, str) and len(key) < 32 and len(location) < 64):
            raise PickleError("the pickle refers to a storage by no name")
        name = storage.text.partition(" ")[2]
        self.push(_Storage(_BY_STORAGE.get(name), key, location))

    def reduce(self) -> None:
        (function, arguments), depth = self.pop_several(2)
        if not isinstance(function, _Name) or function.text not in _BUILDERS or type(arguments) is not tuple:
            raise PickleError("the pickle calls what a checkpoint never does")
        for argument in arguments:
            self.unfold(argument)
        self.push(_BUILDERS[function.text](*arguments), depth - 1)  # the arguments' tuple itself is gone

    def build(self) -> None:
        state, depth = self.pop()
        target = self.stack[-1]
        if type(target) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
            raise PickleError("the pickle sets attributes that a checkpoint never does")
        vars(target).update(state)
        self.hold(depth)


def _require_values(values: list[Any]) -> None:
    """Refuse a tree that holds what only stands for something while it is built."""
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
            left.extend(vars(value).values() if type(value) is OrderedDict else ())
        elif type(value) in (list, tuple):
            left.extend(value)
        elif isinstance(value, (_Mark, _Name, _Storage)):
            raise PickleError("the pickle holds a name where a value should be")


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(type(k) in (str, int, bool, float, type(None)) for k in key)
    return type(key) in (str, int, bool, float, type(None))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, trainable: Any, hooks: Any) -> TensorRef:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise PickleError("the pickle builds a tensor on what is no storage")
    return _checked(storage, storage.dtype, offset, shape, stride, trainable)


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, trainable: Any, hooks: Any, dtype: Any) -> TensorRef:
    if not isinstance(storage, _Storage) or storage.dtype is not None or not isinstance(dtype, torch.dtype):
        raise PickleError("the pickle builds a tensor on what is no storage")
    return _checked(storage, dtype, offset, shape, stride, trainable)


def _checked(storage: _Storage, dtype: torch.dtype, offset: Any, shape: Any, stride: Any, trainable: Any) -> TensorRef:
    if type(shape) is not tuple or type(stride) is not tuple or type(trainable) is not bool:
        raise PickleError("the pickle describes a tensor that cannot be")
    counts = (*shape, *stride, offset)
    if len(shape) != len(stride) or len(shape) > 64:
        raise PickleError("the pickle describes a tensor that cannot be")
    if not all(type(n) is int and 0 <= n < 2**62 for n in counts) or math.prod(shape) >= 2**62:
        raise PickleError("the pickle describes a tensor that cannot be")
    if trainable and not (dtype.is_floating_point or dtype.is_complex):
        raise PickleError("the pickle describes a tensor that cannot be")
    place = storage.key, storage.location
    made = TensorRef("", *place, dtype, tuple(shape), tuple(stride), offset, trainable)
    if made.dtype_name not in ITEM_BYTES:
        raise PickleError(f"the pickle describes a tensor of {dtype}, which a checkpoint never holds")
    return made


def _bytes(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise PickleError("the pickle holds bytes in a way that a checkpoint never does")
    return text.encode("latin-1")


def _set(items: list[Any]) -> set[Any]:
    if type(items) is not list or not all(_is_key(i) for i in items):
        raise PickleError("the pickle holds a set of what cannot be in one")
    return set(items)


def _counter(items: dict[Any, Any]) -> Counter[Any]:
    if type(items) is not dict:
        raise PickleError("the pickle holds a counter that counts nothing")
    return Counter(items)


def _size(shape: tuple[int, ...]) -> torch.Size:
    if type(shape) is not tuple or not all(type(n) is int and -(2**62) < n < 2**62 for n in shape):
        raise PickleError("the pickle holds a size that cannot be")
    return torch.Size(shape)


def _device(kind: str, index: int | None = None) -> torch.device:
    if type(kind) is not str or not (index is None or (type(index) is int and index in range(128))):
        raise PickleError("the pickle holds a device that cannot be")
    try:
        return torch.device(kind) if index is None else torch.device(kind, index)
    except RuntimeError as error:
        raise PickleError(f"the pickle names an unknown device: {kind!r:.40}") from error


def _ordered(*nothing: Any) -> OrderedDict[Any, Any]:
    if nothing:
        raise PickleError("the pickle builds an ordered dictionary in a way that a checkpoint never does")
    return OrderedDict()


def _complex(real: float, imaginary: float) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise PickleError("the pickle holds a complex number of what are no numbers")
    return complex(real, imaginary)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "collections OrderedDict": _ordered,
    "collections Counter": _counter,
    "_codecs encode": _bytes,
    "__builtin__ set": _set,
    "__builtin__ complex": _complex,
    "torch Size": _size,
    "torch device": _device,
}

_STEPS: dict[bytes, Callable[[_Interpreter], None]] = {
    pickle.PROTO: _Interpreter.proto,
    pickle.MARK: lambda i: i.push(_MARK),
    pickle.NONE: lambda i: i.push(None),
    pickle.NEWTRUE: lambda i: i.push(True),
    pickle.NEWFALSE: lambda i: i.push(False),
    pickle.BININT: lambda i: i.number("<i"),
    pickle.BININT1: lambda i: i.number("<B"),
    pickle.BININT2: lambda i: i.number("<H"),
    pickle.BINFLOAT: lambda i: i.number(">d"),
    pickle.LONG1: _Interpreter.long,
    pickle.BINUNICODE: _Interpreter.unicode,
    pickle.EMPTY_DICT: lambda i: i.push({}, 1),
    pickle.EMPTY_LIST: lambda i: i.push([], 1),
    pickle.EMPTY_TUPLE: lambda i: i.push((), 1),
    pickle.TUPLE1: lambda i: i.tuple_of(1),
    pickle.TUPLE2: lambda i: i.tuple_of(2),
    pickle.TUPLE3: lambda i: i.tuple_of(3),
    pickle.TUPLE: lambda i: i.tuple_of(None),
    pickle.APPEND: lambda i: i.append(i.pop_several(1)),
    pickle.APPENDS: lambda i: i.append(i.pop_to_mark()),
    pickle.SETITEM: lambda i: i.set_items(i.pop_several(2)),
    pickle.SETITEMS: lambda i: i.set_items(i.pop_to_mark()),
    pickle.BINPUT: lambda i: i.put("<B"),
    pickle.LONG_BINPUT: lambda i: i.put("<I"),
    pickle.BINGET: lambda i: i.get("<B"),
    pickle.LONG_BINGET: lambda i: i.get("<I"),
    pickle.GLOBAL: _Interpreter.global_name,
    pickle.BINPERSID: _Interpreter.persistent,
    pickle.REDUCE: _Interpreter.reduce,
    pickle.BUILD: _Interpreter.build,
}
