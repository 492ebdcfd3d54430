"""Answer imports of Lightning's modules with modules that hold Holdfast's names. Reads tables; knows no name itself."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from holdfast.compat.absent import NotServedError, not_served
from holdfast.compat.table import ALIASES, MODULES, OLD
from holdfast.errors import ConfigError

ROOTS = ("lightning", *ALIASES)
_ORIGIN = "holdfast.compat"


class Served(ModuleType):
    """A module of the table. Each name is fetched from its home when it is first asked for, and is that very object."""

    def __getattr__(self, name: str) -> Any:
        found = _homes(self.__name__).get(name)
        if found is not None:
            home, attribute = found
            value = getattr(import_module(home), attribute)
        elif f"{self.__name__}.{name}" in MODULES:
            value = import_module(f"{self.__name__}.{name}")
        else:
            raise AttributeError(_no_attribute(self.__name__, name))
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        inside = f"{self.__name__}."
        below = {module.removeprefix(inside).partition(".")[0] for module in MODULES if module.startswith(inside)}
        return sorted({*self.__dict__, *_homes(self.__name__), *below})


class Finder(MetaPathFinder, Loader):
    """A meta path finder for everything below ``ROOTS``; it knows of nothing else."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """A spec for a module of the table, None for one that is not Lightning's.

        Raises:
            NotServedError: It is Lightning's, and Holdfast has it not.
        """
        if fullname.partition(".")[0] not in ROOTS:
            return None
        if canonical(fullname) not in MODULES:
            raise not_served(canonical(fullname))
        return ModuleSpec(fullname, self, origin=_ORIGIN, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module: one object under all its names."""
        name = canonical(spec.name)
        if name != spec.name:
            if _spelled(spec.name) in OLD:
                warnings.warn(f"{spec.name} is the old name of {name}.", DeprecationWarning, stacklevel=2)
            return import_module(name)
        module = Served(name, f"{name}, served by Holdfast.")
        module.__dict__["__all__"] = [n for n in _homes(name) if not n.startswith("_")]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def install() -> None:
    """From now on, ``lightning``, ``pytorch_lightning`` and ``lightning_fabric`` are Holdfast in this process.

    Call it before the first import of any of them; calling it again does nothing. A Lightning that is installed stays
    as it is, and is not looked at.

    Raises:
        ConfigError: Lightning itself was imported before.
    """
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    already = [root for root in ROOTS if root in sys.modules]
    if already:
        raise ConfigError(
            f"holdfast.compat.install(): {' and '.join(already)} was imported before, and is Lightning's.",
            remedy="Call it before the first import of it, or start the program with `holdfast run`.",
        )
    sys.meta_path.insert(0, Finder())


def uninstall() -> None:
    """Imports find Lightning again, if it is installed. What was imported before stays what it is."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ROOTS]:
        if isinstance(sys.modules[name], Served):
            del sys.modules[name]


def take_over(root: str) -> None:
    """What a file in ``shims`` does while it is imported as ``root``: the import ends with the served module."""
    del sys.modules[root]
    install()
    import_module(root)


def canonical(fullname: str) -> str:
    """The name of a module in the table, whichever spelling it was asked for by."""
    name = _spelled(fullname)
    return OLD.get(name, name)


def _spelled(fullname: str) -> str:
    """The name as it is below ``lightning``."""
    root, dot, rest = fullname.partition(".")
    return ALIASES.get(root, root) + dot + rest


def _homes(module: str) -> dict[str, tuple[str, str]]:
    """Each name of a module of the table, with the module that it is from and its name there."""
    return {
        theirs: (home, ours or theirs)
        for home, names in MODULES[module].items()
        for theirs, _, ours in (name.partition("=") for name in names)
    }


def _no_attribute(module: str, name: str) -> str:
    if name.startswith("__"):  # asked for by the interpreter and by tools, in plenty
        return name
    return str(not_served(f"{module}.{name}"))


__all__ = ["Finder", "NotServedError", "Served", "canonical", "install", "take_over", "uninstall"]
