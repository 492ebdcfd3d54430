"""Read from a class's own ``__init__`` which types its arguments have, and make values of them. Looks at no file."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any, Union

_NOTHING = inspect.Parameter.empty
_NAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


@dataclasses.dataclass(frozen=True)
class InitParameter:
    """One argument of an ``__init__``.

    Args:
        name: Its name.
        kind: How it is passed, as ``inspect.Parameter.kind``.
        required: Whether it has no default.
        hint: Its annotation, resolved; ``typing.Any`` where there is none or it cannot be resolved.
        default_type: The type of its default where that is an Enum or a dataclass, else None.
    """

    name: str
    kind: Any
    required: bool
    hint: Any
    default_type: type | None


def init_parameters(cls: type) -> dict[str, InitParameter]:
    """The named arguments of ``cls.__init__`` by name; where it takes ``**kwargs``, its bases' after its own."""
    found: dict[str, InitParameter] = {}
    for owner in cls.__mro__:
        init = vars(owner).get("__init__")
        if not inspect.isfunction(init):
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in _NAMED and parameter.name not in found:
                found[parameter.name] = _described(parameter, inspect.unwrap(init).__globals__)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


def is_dataclass_instance(value: Any) -> bool:
    """Whether the value is of a dataclass, and not itself one."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def converted(parameter: InitParameter, value: Any) -> Any:
    """The value as the Enum or dataclass that the parameter names; the value itself where it names none.

    Raises:
        TypeError, ValueError: The annotation names the type, and no such value can be made.
    """
    made = _as(parameter.hint, value)
    if made is not value or parameter.default_type is None:
        return made
    try:
        return _as(parameter.default_type, value)
    except (TypeError, ValueError):
        return value  # a default does not say that every value is of its type


def names_type(parameter: InitParameter, full_name: str) -> bool:
    """Whether the annotation of the parameter, or its default, names the Enum or dataclass of that full name."""
    return full_name in {f"{kind.__module__}.{kind.__qualname__}" for kind in _kinds(parameter.hint)} or (
        parameter.default_type is not None
        and full_name == f"{parameter.default_type.__module__}.{parameter.default_type.__qualname__}"
    )


def _kinds(hint: Any) -> list[type]:
    """The Enums and dataclasses in an annotation."""
    if isinstance(hint, type) and (issubclass(hint, Enum) or dataclasses.is_dataclass(hint)):
        return [hint]
    return [kind for argument in typing.get_args(hint) for kind in _kinds(argument)]


def _described(parameter: inspect.Parameter, namespace: dict[str, Any]) -> InitParameter:
    default = parameter.default
    return InitParameter(
        name=parameter.name,
        kind=parameter.kind,
        required=default is _NOTHING,
        hint=_resolved(parameter.annotation, namespace),
        default_type=type(default) if isinstance(default, Enum) or is_dataclass_instance(default) else None,
    )


def _resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
    if annotation is _NOTHING:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(holder, globalns=namespace)["it"]
    except Exception:  # it is the source of the user's own class, and may name what exists for type checkers alone
        return Any


def _as(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _as_one_of(arguments, value)
    if origin is not None:
        return _as_container(origin, arguments, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value if isinstance(value, hint) else hint(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _as_dataclass(hint, value)
    return value


def _as_one_of(members: Sequence[Any], value: Any) -> Any:
    taker = next((member for member in members if _takes(member, value)), None)
    if taker is not None:
        return _as(taker, value)
    refused: Exception | None = None
    for member in members:
        try:
            made = _as(member, value)
        except (TypeError, ValueError) as error:
            refused = error
            continue
        if made is not value:
            return made
    if refused is not None:
        raise refused
    return value


def _takes(member: Any, value: Any) -> bool:
    """Whether a plain value is one of ``member`` as it is, or a container of that kind."""
    origin = typing.get_origin(member)
    if origin is not None:
        return isinstance(origin, type) and isinstance(value, origin)
    return type(value) is member or (member is float and type(value) is int)


def _as_container(origin: Any, arguments: Sequence[Any], value: Any) -> Any:
    if not isinstance(origin, type):
        return value
    if issubclass(origin, Mapping) and type(value) is dict and len(arguments) == 2:
        made: Any = {_as(arguments[0], key): _as(arguments[1], item) for key, item in value.items()}
        return made if _differ([*made, *made.values()], [*value, *value.values()]) else value
    if type(value) not in (list, tuple, set) or not issubclass(origin, (Sequence, AbstractSet)) or not arguments:
        return value
    hints: Sequence[Any] = [arguments[0]] * len(value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            return value
        hints = arguments
    items = list(value)
    changed = [_as(hint, item) for hint, item in zip(hints, items, strict=True)]
    return type(value)(changed) if _differ(changed, items) else value


def _differ(new: Sequence[Any], old: Sequence[Any]) -> bool:
    return any(a is not b for a, b in zip(new, old, strict=True))


def _as_dataclass(kind: Any, value: Mapping[str, Any]) -> Any:
    computed = {field.name for field in dataclasses.fields(kind) if not field.init}
    known = init_parameters(kind)
    return kind(
        **{
            name: converted(known[name], item) if name in known else item
            for name, item in value.items()
            if name not in computed
        }
    )
