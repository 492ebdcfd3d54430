"""Call a class with the hyperparameters of a checkpoint. Calls the class it is given, and nothing that a file names."""

from __future__ import annotations

import inspect
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from holdfast.engine import containers
from holdfast.errors import ConfigError, Incompatible
from holdfast.formats.everyday import Unknown
from holdfast.log import logger
from holdfast.training.annotations import InitParameter, init_parameters, names_type
from holdfast.training.hparams import NAMESPACE, OMEGACONF, AttributeDict, exact

T = TypeVar("T")

_INSTANTIATOR, _CLASS_PATH = "_instantiator", "_class_path"
"""Keys by which other programs' files name code to import; they are no hyperparameters."""

_TRUSTED = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")
"""What Lightning's command line writes as ``_instantiator``. It is not called: the class itself is."""

_CONTAINERS = (OMEGACONF, "omegaconf.dictconfig.DictConfig")


def build(
    cls: type[T],
    stored: Any,
    given: Mapping[str, Any],
    *,
    checkpoint: str,
    argument: str | None = None,
    argument_type: str | None = None,
    withheld: Sequence[str] = (),
    named: Mapping[str, Unknown] | None = None,
    alone: bool = False,
) -> T:
    """Call ``cls`` with stored hyperparameters; those given win. Stored ones that it does not take are left out.

    Args:
        cls: What to build.
        stored: The hyperparameters of the file: a mapping or a ``Namespace``.
        given: Arguments from the caller.
        checkpoint: Its name, for an error.
        argument: The one argument that takes all of them, where they were saved so; ``"kwargs"`` for none.
        argument_type: What that one was: ``"argparse.Namespace"``, OmegaConf's, or None for a dictionary.
        withheld: Dotted names of hyperparameters that the file holds and that were not read.
        named: Those among them that are a plain value of a class that the file names: made where the class being built
            names the same.
        alone: Whether they may all be one argument that nobody has named: the only required one is then taken.

    Raises:
        Incompatible: A required argument has no value; or the class names a type that a value does not fit.
        ConfigError: The file names something to build it with, which is not called.
    """
    values = _mapping(stored, checkpoint)
    cls = _named_class(cls, values.pop(_INSTANTIATOR, None), values.pop(_CLASS_PATH, None), checkpoint)
    own, takes_all = _signature(cls)
    known = {name: u.plain for name, u in (named or {}).items() if name in own and names_type(own[name], u.name)}
    withheld = [name for name in withheld if name not in known]
    values = {name: value for name, value in {**values, **known}.items() if name not in withheld}
    if alone:
        required = [p.name for p in own.values() if p.required and p.name not in given]
        argument = required[0] if len(required) == 1 and required[0] not in values else None
    if argument in own and argument not in given:
        inside = {name: value for name, value in given.items() if name not in own}
        values = {argument: _one({**values, **inside}, cls, argument, argument_type, checkpoint)}
    else:
        _say_unused([] if takes_all else [name for name in given if name not in own], cls, own)
        values = _exact(cls, {name: value for name, value in values.items() if name not in given}, checkpoint)
    arguments = {n: v for n, v in {**values, **given}.items() if takes_all or n in own}
    _require(cls, own, arguments, withheld, checkpoint)
    _say_withheld([name for name in withheld if name.partition(".")[0] not in given], checkpoint)
    positional = [arguments.pop(p.name) for p in own.values() if _positional(p) and p.name in arguments]
    return cls(*positional, **arguments)


def _named_class(cls: type[T], instantiator: Any, path: Any, checkpoint: str) -> type[T]:
    """The class that a file of Lightning's command line means: a subclass that is there already, or ``cls`` itself.

    It is looked up among what is imported, and nothing is imported for it.
    """
    if instantiator is None:
        return cls
    if instantiator not in _TRUSTED:
        raise ConfigError(
            f"checkpoint '{checkpoint}' names {instantiator!r:.200} as what builds the {cls.__name__}, which is "
            f"none of {', '.join(_TRUSTED)}.",
            remedy="It was not called. Do not trust the file; or give its hyperparameters by hparams_file=....",
        )
    if path is None:
        return cls
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if not (isinstance(found, type) and issubclass(found, cls)):
        raise ConfigError(
            f"checkpoint '{checkpoint}' is of the class {path!r:.200}: no subclass of {cls.__name__} that is imported.",
            remedy="If you trust the file, import the module that defines the class first.",
        )
    return found


def _one(values: dict[str, Any], cls: type, argument: str, argument_type: str | None, checkpoint: str) -> Any:
    """All hyperparameters as one argument: as the class says, or as it was, or as what can be read either way."""
    made = _exact(cls, {argument: values}, checkpoint)[argument]
    if type(made) is not dict:
        return made
    if argument_type in _CONTAINERS and (container := containers.container(made)) is not None:
        return container
    return Namespace(**made) if argument_type == NAMESPACE else AttributeDict(made)


def _exact(cls: type, values: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    try:
        return exact(cls, values)
    except ConfigError as error:
        raise Incompatible(
            f"holds a hyperparameter that does not fit: {error.what}", checkpoint=checkpoint, remedy=error.remedy
        ) from error


def _signature(cls: type) -> tuple[dict[str, InitParameter], bool]:
    """The named arguments of the class's own ``__init__``, and whether it takes any others by name."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    names = {
        p.name for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    }
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {name: p for name, p in init_parameters(cls).items() if name in names}, takes_all


def _mapping(stored: Any, checkpoint: str) -> dict[str, Any]:
    if isinstance(stored, Namespace):
        return dict(vars(stored))
    if isinstance(stored, Mapping):
        return dict(stored)
    raise Incompatible(
        f"holds hyperparameters as a {type(stored).__name__}, not as a dictionary.",
        checkpoint=checkpoint,
        remedy="Give them in a file: load_from_checkpoint(..., hparams_file=...).",
    )


def _positional(parameter: InitParameter) -> bool:
    return parameter.kind is inspect.Parameter.POSITIONAL_ONLY


def _require(
    cls: type,
    own: Mapping[str, InitParameter],
    arguments: Mapping[str, Any],
    withheld: Sequence[str],
    checkpoint: str,
) -> None:
    missing = [p.name for p in own.values() if p.required and p.name not in arguments]
    if not missing:
        return
    there = [name for name in missing if name in withheld]
    trust = (
        f" {', '.join(there)} is in it, but not as a plain value: weights_only=False, if you trust it." if there else ""
    )
    example = ", ".join(f"{name}=..." for name in missing)
    raise Incompatible(
        f"has no value for {', '.join(missing)}, which {cls.__name__}.__init__ needs.",
        checkpoint=checkpoint,
        remedy=f"Pass it: {cls.__name__}.load_from_checkpoint(path, {example}); or call save_hyperparameters() in "
        f"__init__, so that later checkpoints hold it.{trust}",
    )


def _say_unused(names: Sequence[str], cls: type, own: Mapping[str, InitParameter]) -> None:
    if names:
        logger.warning(
            "load_from_checkpoint: %s.__init__ takes no %s, which is left out; it takes: %s",
            cls.__name__,
            ", ".join(names),
            ", ".join(own) or "nothing",
        )


def _say_withheld(names: Sequence[str], checkpoint: str) -> None:
    if names:
        logger.warning(
            "'%s' holds hyperparameters that are not plain, which a safe load leaves out: %s; give them as keyword "
            "arguments, or load with weights_only=False if you trust the file",
            checkpoint,
            ", ".join(names),
        )
