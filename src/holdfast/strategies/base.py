"""What the layers above ask of a strategy. They call torch's checkpoint-relevant verbs through it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from holdfast.engine.engine import Captured
from holdfast.engine.group import Group
from holdfast.policy.what import What


class Strategy(Protocol):
    """How a state is spread over processes."""

    group: Group

    def capture(self, objects: Mapping[str, Any], what: What) -> Captured:
        """The state of ``objects`` by name, those parts that ``what`` wants; collectives happen here and nowhere else.

        Tensors are lent, not copied.
        """
        ...

    def restore(self, objects: Mapping[str, Any], parts: Mapping[str, Any], *, checkpoint: str) -> None:
        """Put ``parts`` into the objects of the same names.

        Everything is checked before anything is changed.

        Raises:
            Incompatible: Something is missing, extra or of another shape; all of it in one error.
        """
        ...
