"""Write and read the pickle inside a checkpoint: plain values and tensor references, nothing else.

Writing makes what PyTorch's own loader reads. Reading is an interpreter of the few opcodes that writing uses: it
imports nothing, calls nothing, and bounds depth, sizes and the number of objects (docs/format.md, "The pickle").
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from holdfast.engine.statetree import MAX_DEPTH, TensorRef

MAX_OBJECTS = 5_000_000

_TYPED = {
    dtype: getattr(torch, name) for dtype, name in torch.storage._dtype_to_storage_type_map().items()
    if not name.startswith("Q")
}  # fmt: skip
_DTYPES = {str(d).removeprefix("torch."): d for d in (*_TYPED, *torch.storage._new_dtypes())}
_BY_STORAGE = {cls.__name__: dtype for dtype, cls in _TYPED.items()}


class PickleError(ValueError):
    """A pickle that is not one of ours: damaged in a way that kept its checksum, or made to deceive."""


class _Place:
    """Stands for a storage while pickling."""

    __slots__ = ("ref", "bytes")

    def __init__(self, ref: TensorRef, bytes: int) -> None:
        self.ref = ref
        self.bytes = bytes


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, storage_bytes: Callable[[str], int]) -> None:
        super().__init__(file, protocol=2)
        self.storage_bytes = storage_bytes

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Place):
            return None
        ref = obj.ref
        typed = _TYPED.get(ref.dtype)
        count = obj.bytes // ref.dtype.itemsize if typed else obj.bytes
        return ("storage", typed or torch.storage.UntypedStorage, ref.storage, ref.location, count)

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, TensorRef):
            return NotImplemented
        place = _Place(obj, self.storage_bytes(obj.storage))
        args: tuple[Any, ...] = (place, obj.offset, obj.shape, obj.stride, obj.trainable, OrderedDict())
        if obj.dtype in _TYPED:
            return (torch._utils._rebuild_tensor_v2, args)
        return (torch._utils._rebuild_tensor_v3, (*args, obj.dtype))


def dumps(root: Any, storage_bytes: Callable[[str], int]) -> bytes:
    """Pickle a tree as PyTorch does.

    Args:
        root: Plain values and ``TensorRef``.
        storage_bytes: The length of a storage by its key.
    """
    file = io.BytesIO()
    _Writer(file, storage_bytes).dump(root)
    return file.getvalue()


def loads(data: bytes) -> Any:
    """Read a tree back; nothing in ``data`` is imported or called.

    Raises:
        PickleError: It uses what ``dumps`` does not, ends early, or passes a bound.
    """
    try:
        return _Interpreter(data).run()
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise PickleError(f"the pickle is malformed: {error!r:.200}") from error
    except (OverflowError, MemoryError, RecursionError) as error:
        raise PickleError(f"the pickle passes a bound: {type(error).__name__}") from error


class _Mark:
    __slots__ = ()


_MARK = _Mark()


class _Name:
    """A global that was named, one of the closed list: what it stands for is built by ``_build`` alone."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_STORAGES = {f"torch {name}" for name in _BY_STORAGE} | {"torch.storage UntypedStorage"}
_DTYPE_NAMES = {f"torch {name}": dtype for name, dtype in _DTYPES.items()}


class _Storage:
    __slots__ = ("dtype", "key", "location")

    def __init__(self, dtype: torch.dtype | None, key: str, location: str) -> None:
        self.dtype = dtype
        self.key = key
        self.location = location


_SHARED = (bytes, complex, torch.Size, torch.dtype, torch.device, _Name)


class _Interpreter:
    """A stack machine for protocol 2. Depth is kept beside every container, so that nothing recurses later."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.depths: dict[int, int] = {}
        self.kept: list[Any] = []
        self.objects = 0

    def run(self) -> Any:
        while True:
            opcode = self.take(1)
            if opcode == b".":
                if len(self.stack) != 1 or self.position != len(self.data):
                    raise PickleError("the pickle does not end where it says")
                return self.stack[0]
            step = _STEPS.get(opcode)
            if step is None:
                known = {o.code.encode("latin-1"): o.name for o in pickletools.opcodes}
                raise PickleError(f"the pickle uses {known.get(opcode, opcode)}, which a checkpoint never does")
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

    def push(self, value: Any) -> None:
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise PickleError(f"the pickle holds more than {MAX_OBJECTS:,} objects")
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("the pickle's stack is in disorder")
        return value

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        items.reverse()
        return items

    def hold(self, container: Any, items: list[Any]) -> None:
        """Note that ``container`` holds ``items``, and refuse what is too deep or contains itself."""
        depth = self.depths.get(id(container), 1)
        for item in items:
            if item is container:
                raise PickleError("the pickle holds a container that contains itself")
            depth = max(depth, self.depths.get(id(item), 0) + 1)
        if depth > MAX_DEPTH + 20:
            raise PickleError(f"the pickle is nested more than {MAX_DEPTH} deep")
        if id(container) not in self.depths:
            self.kept.append(container)  # its id stays its own as long as the depths are looked at
        self.depths[id(container)] = depth

    def container(self, value: Any, items: list[Any]) -> None:
        self.hold(value, items)
        self.push(value)

    # One method an opcode family; _STEPS below is the closed list.

    def proto(self) -> None:
        if self.take(1) != b"\x02":
            raise PickleError("the pickle is not of protocol 2")

    def tuple_of(self, count: int | None) -> None:
        items = self.pop_to_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.container(tuple(items), items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise PickleError("the pickle appends to what is no list")
        self.hold(target, items)
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise PickleError("the pickle sets items of what is no dictionary")
        for key in items[::2]:
            if not _is_key(key):
                raise PickleError(f"the pickle has a dictionary key of type {type(key).__name__}")
        self.hold(target, items)
        target.update(zip(items[::2], items[1::2], strict=True))

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
        if type(value) not in _SHARED and not _is_key(value):
            # What we write is a tree. A container met twice would let a small file unfold into a huge state.
            raise PickleError(f"the pickle holds one {type(value).__name__} in two places")
        self.push(value)

    def global_name(self) -> None:
        text = f"{self.line()} {self.line()}"
        if text in _DTYPE_NAMES:
            self.push(_DTYPE_NAMES[text])
        elif text in _BUILDERS or text in _STORAGES:
            self.push(_Name(text))
        else:
            raise PickleError(f"the pickle names {text.replace(' ', '.')}, which a checkpoint never does")

    def persistent(self) -> None:
        kind, storage, key, location, _ = self.pop()
        if kind != "storage" or not isinstance(storage, _Name) or storage.text not in _STORAGES:
            raise PickleError("the pickle refers to something that is no storage")
        if not (isinstance(key, str) and isinstance(location, str) and len(key) < 32 and len(location) < 64):
            raise PickleError("the pickle refers to a storage by no name")
        name = storage.text.partition(" ")[2]
        self.push(_Storage(_BY_STORAGE.get(name), key, location))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or function.text not in _BUILDERS or type(arguments) is not tuple:
            raise PickleError("the pickle calls what a checkpoint never does")
        made = _BUILDERS[function.text](*arguments)
        self.container(made, list(arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if type(target) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
            raise PickleError("the pickle sets attributes that a checkpoint never does")
        self.hold(target, [state])
        vars(target).update(state)


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(type(k) in (str, int, bool, float, type(None)) for k in key)
    return type(key) in (str, int, bool, float, type(None))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, trainable: Any, hooks: Any) -> TensorRef:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise PickleError("the pickle builds a tensor on what is no storage")
    return _checked(storage, storage.dtype, offset, shape, stride, trainable)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, trainable: Any, hooks: Any, dtype: Any
) -> TensorRef:
    if not isinstance(storage, _Storage) or storage.dtype is not None or not isinstance(dtype, torch.dtype):
        raise PickleError("the pickle builds a tensor on what is no storage")
    return _checked(storage, dtype, offset, shape, stride, trainable)


def _checked(
    storage: _Storage, dtype: torch.dtype, offset: Any, shape: Any, stride: Any, trainable: Any
) -> TensorRef:
    counts = (*shape, *stride, offset)
    if type(trainable) is not bool or len(shape) != len(stride) or len(shape) > 64:
        raise PickleError("the pickle describes a tensor that cannot be")
    if not all(type(n) is int and 0 <= n < 2**62 for n in counts):
        raise PickleError("the pickle describes a tensor that cannot be")
    place = storage.key, storage.location
    return TensorRef("", *place, dtype, tuple(shape), tuple(stride), offset, trainable)


def _bytes(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise PickleError("the pickle holds bytes in a way that a checkpoint never does")
    return text.encode("latin-1")


def _set(items: list[Any]) -> set[Any]:
    if type(items) is not list or not all(_is_key(i) for i in items):
        raise PickleError("the pickle holds a set of what cannot be in one")
    return set(items)


def _counter(items: dict[Any, int]) -> Counter[Any]:
    if type(items) is not dict or not all(type(n) is int for n in items.values()):
        raise PickleError("the pickle holds a counter that counts nothing")
    return Counter(items)


def _size(shape: tuple[int, ...]) -> torch.Size:
    if type(shape) is not tuple or not all(type(n) is int and -(2**62) < n < 2**62 for n in shape):
        raise PickleError("the pickle holds a size that cannot be")
    return torch.Size(shape)


def _device(kind: str, index: int | None = None) -> torch.device:
    if type(kind) is not str or not (index is None or type(index) is int):
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
    pickle.EMPTY_DICT: lambda i: i.container({}, []),
    pickle.EMPTY_LIST: lambda i: i.container([], []),
    pickle.EMPTY_TUPLE: lambda i: i.container((), []),
    pickle.TUPLE1: lambda i: i.tuple_of(1),
    pickle.TUPLE2: lambda i: i.tuple_of(2),
    pickle.TUPLE3: lambda i: i.tuple_of(3),
    pickle.TUPLE: lambda i: i.tuple_of(None),
    pickle.APPEND: lambda i: i.append([i.pop()]),
    pickle.APPENDS: lambda i: i.append(i.pop_to_mark()),
    pickle.SETITEM: lambda i: i.set_items([i.pop(), i.pop()][::-1]),
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
