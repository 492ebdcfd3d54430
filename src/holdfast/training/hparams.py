"""Remember the arguments that an object was built with, and make them plain for a file. Imports nothing a file names.

In a file an Enum is its value and a dataclass a dict of its fields; ``exact`` turns them back only where the
``__init__`` of the class being built names their type. The other everyday types (paths, NumPy scalars,
``timedelta``, ``Namespace``, …) are the engine's to encode.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import FrameType
from typing import Any, ClassVar

from torch import nn

from holdfast.engine import containers
from holdfast.errors import ConfigError
from holdfast.log import warn
from holdfast.training.annotations import converted, init_parameters, is_dataclass_instance

NAMESPACE = "argparse.Namespace"
"""What a checkpoint says of hyperparameters that were one ``Namespace`` argument."""


OMEGACONF = "omegaconf.DictConfig"
"""What it says of those that were one OmegaConf argument."""


class AttributeDict(dict[str, Any]):
    """A dictionary whose items are attributes too: ``hparams.lr`` is ``hparams["lr"]``.

    An item whose name is a method of dictionaries, such as ``items``, is reached by ``[...]`` alone.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            there = ", ".join(map(str, self)) or "nothing"
            raise AttributeError(f"There is no hyperparameter '{name}'. There is: {there}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"There is no hyperparameter '{name}'.") from None

    def copy(self) -> AttributeDict:
        """A shallow copy, of the same kind."""
        return AttributeDict(self)

    def __repr__(self) -> str:
        width = max((len(str(name)) for name in self), default=0)
        return "\n".join(f"{name!s:<{width}} = {value!r}" for name, value in self.items())


class HyperparametersMixin:
    """Gives a class ``save_hyperparameters``. It has no ``__init__``: the order of base classes does not matter."""

    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str] = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str] = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE: ClassVar[str] = "hparams_type"

    _hparams_name: str | None = None
    _hparams_type: str | None = None
    _log_hyperparams: bool = False

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Iterable[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Remember the arguments of ``__init__`` as ``hparams``, for checkpoints and loggers.

        Called in ``__init__``, or in what it calls. The arguments of every ``__init__`` that is building this object
        count, a subclass's over its base's; ``**kwargs`` by their own names. Several calls add up. Of ``*args``
        no name is known: they are left out with a warning, unless a base's ``__init__`` that is still running names
        them.

        An ``nn.Module`` among them is an attribute of ``hparams``, but goes neither into ``hparams_initial`` nor into
        checkpoints, where its weights are already; a warning says to ignore it.

        Args:
            args: Names of the arguments to remember, all by default; or one dict, ``Namespace``, dataclass or OmegaConf
                container, whose items or fields are the hyperparameters.
            ignore: Names to leave out, those among them that an earlier call has remembered.
            frame: Where to begin to look for ``__init__``; the caller by default.
            logger: Whether loggers get them.

        Raises:
            ConfigError: No ``__init__`` of this object is running and no object was given; a name is none of its
                arguments; an argument cannot be copied; or ``args`` is none of the above.
        """
        running = [f for f in _frames(frame or sys._getframe(1)) if _builds(f, self)]
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        arguments = _arguments(self, running, ignored)
        given = [arg for arg in args if not isinstance(arg, str)]
        if given:
            values = _items(given[0], alone=len(args) == 1)
            self._hparams_name = next((name for name, v in arguments.items() if v is given[0]), None)
            self._hparams_type = _kind(given[0])
        else:
            values = _selected(arguments, args, ignored, self, running)
            self._hparams_name = "kwargs" if values else None
            self._hparams_type = None
        self._log_hyperparams = logger
        self._remember({name: value for name, value in values.items() if name not in ignored})
        for name in ignored:  # a base's call, which came first, has taken the arguments of its subclasses too
            self.hparams.pop(name, None)
            self.__dict__["_hparams_initial"].pop(name, None)

    @property
    def hparams(self) -> AttributeDict:
        """The hyperparameters; changes of them go into later checkpoints."""
        found: AttributeDict = self.__dict__.setdefault("_hparams", AttributeDict())
        return found

    @property
    def hparams_initial(self) -> AttributeDict:
        """A deep copy of the hyperparameters as they were when they were saved, without modules."""
        found: AttributeDict = copy.deepcopy(self.__dict__.get("_hparams_initial", AttributeDict()))
        return found

    def _remember(self, values: Mapping[str, Any]) -> None:
        modules = [name for name, value in values.items() if isinstance(value, nn.Module)]
        if modules:
            warn(
                f"{', '.join(modules)}: a module is no hyperparameter. Its weights are in the checkpoint already, and "
                f"it is left out of the hyperparameters there. Say so: save_hyperparameters(ignore={modules!r}), and "
                "give it as a keyword argument to load_from_checkpoint.",
            )
        initial: AttributeDict = self.__dict__.setdefault("_hparams_initial", AttributeDict())
        initial.update({name: _copied(name, v) for name, v in values.items() if name not in modules})
        self.hparams.update(values)


def checkpoint_entries(owner: HyperparametersMixin) -> dict[str, Any]:
    """What a checkpoint holds of ``owner``'s hyperparameters, by key; nothing where there are none."""
    if not owner.hparams:
        return {}
    entries = {
        owner.CHECKPOINT_HYPER_PARAMS_KEY: plain(owner.hparams),
        owner.CHECKPOINT_HYPER_PARAMS_NAME: owner._hparams_name,
    }
    if owner._hparams_type is not None:
        entries[owner.CHECKPOINT_HYPER_PARAMS_TYPE] = owner._hparams_type
    return entries


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters with every Enum as its value and every dataclass as a dict, and without modules.

    What the engine encodes by itself, and what nobody can, is left as it is.
    """
    return {name: _plain(value) for name, value in values.items() if not isinstance(value, nn.Module)}


def exact(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for ``cls``, with Enums and dataclasses as themselves where its ``__init__`` names their type.

    The type is taken from the annotation of the argument, or from its default; also inside ``Optional``, unions, lists,
    tuples, sets and dicts, and in the fields of such a dataclass. A union that takes the plain value as well leaves
    it plain, and so does an annotation that cannot be resolved.

    Raises:
        ConfigError: The type is named, and has no such value any more; with the argument's name.
    """
    known = init_parameters(cls)
    made = {}
    for name, value in values.items():
        try:
            made[name] = converted(known[name], value) if name in known else value
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The argument '{name}' of {cls.__name__} cannot be made from {value!r:.80}: {error}.",
                remedy="Pass it as a keyword argument instead.",
            ) from error
    return made


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _builds(frame: FrameType, owner: object) -> bool:
    """Whether the frame is an ``__init__`` at work on ``owner``."""
    code = frame.f_code
    return code.co_name == "__init__" and code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is owner


def _arguments(owner: object, running: list[FrameType], ignored: set[str]) -> dict[str, Any]:
    """The arguments of all the running ``__init__``, the innermost first, so that subclasses win."""
    arguments: dict[str, Any] = {}
    for frame in running:
        names, extra, keywords, local = inspect.getargvalues(frame)
        arguments.update({name: local[name] for name in names[1:] if name in local})
        arguments.update(local.get(keywords, {}) if keywords else {})
        if extra and local.get(extra) and frame is running[0] and extra not in ignored:
            warn(
                f"The values of *{extra} of {type(owner).__name__}.__init__ have no names, and are not among the "
                f"hyperparameters. Name them in the signature, or say save_hyperparameters(ignore='{extra}').",
            )
    if dataclasses.is_dataclass(owner):
        # A generated __init__ has a marker of its own in place of a default that a factory makes.
        arguments.update({f.name: getattr(owner, f.name) for f in dataclasses.fields(owner) if f.name in arguments})
    return arguments


def _selected(
    arguments: dict[str, Any], names: tuple[str, ...], ignored: set[str], owner: object, running: list[FrameType]
) -> dict[str, Any]:
    who = type(owner).__name__
    if not running:
        raise ConfigError(
            f"save_hyperparameters() was called while no __init__ of {who} was running: it has no arguments to save.",
            remedy="Call it in __init__, or give it a dict, a Namespace or a dataclass.",
        )
    unknown = [name for name in names if name not in arguments]
    if unknown:
        raise ConfigError(
            f"{', '.join(map(repr, unknown))}: no argument of {who}.__init__.",
            remedy=f"Its arguments are: {', '.join(arguments) or 'none'}.",
        )
    return {name: arguments[name] for name in names} if names else arguments


def _kind(given: Any) -> str | None:
    """What a checkpoint says of the one object that held all hyperparameters."""
    if isinstance(given, Namespace):
        return NAMESPACE
    return OMEGACONF if containers.is_container(given) else None


def _items(given: Any, *, alone: bool) -> dict[str, Any]:
    if not alone:
        raise ConfigError("save_hyperparameters() takes names of arguments, or one object, not a mixture.")
    if isinstance(given, Namespace):
        return dict(vars(given))
    if containers.is_container(given):
        return containers.items(given)
    if isinstance(given, Mapping):
        return dict(given)
    if is_dataclass_instance(given):
        return {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
    raise ConfigError(
        f"save_hyperparameters() takes names of arguments, or one dict, Namespace or dataclass, not {given!r:.80}."
    )


def _copied(name: str, value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:  # a user's object may refuse in any way
        raise ConfigError(
            f"The hyperparameter '{name}' cannot be copied: {error}.",
            remedy=f"Leave it out: save_hyperparameters(ignore=['{name}']).",
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if is_dataclass_instance(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    kind = type(value)
    if kind in (dict, AttributeDict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if kind is OrderedDict:
        return OrderedDict((_plain(key), _plain(item)) for key, item in value.items())
    if kind is defaultdict:
        return defaultdict(None, {_plain(key): _plain(item) for key, item in value.items()})
    if kind is Namespace:
        return Namespace(**{key: _plain(item) for key, item in vars(value).items()})
    if kind in (list, tuple, set):
        return kind(_plain(item) for item in value)
    return value
