"""A classmethod that refuses to be called on an instance. Knows nothing of what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    class_only = classmethod
else:

    class class_only:
        """A classmethod whose result would be lost on an instance: there, calling it is a ``TypeError``."""

        def __init__(self, method: Callable[..., Any]) -> None:
            self.__func__ = method
            self.__doc__ = method.__doc__

        def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
            if instance is None:
                return self.__func__.__get__(owner)
            name, kind = self.__func__.__name__, owner.__name__

            def refuse(*args: Any, **kwargs: Any) -> Any:
                raise TypeError(
                    f"{name}() builds a new {kind} and leaves the one it is called on as it is: call it on the "
                    f"class, and keep what it returns: loaded = {kind}.{name}(...)."
                )

            return refuse
