"""What the layers above ask of a strategy. They call torch's checkpoint-relevant verbs through it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.engine.group import Group
from holdfast.policy.what import What


@dataclass(frozen=True)
class Held:
    """The state of some objects, as they themselves give it. Tensors are lent, not copied.

    Args:
        parts: Part name to its state.
        frozen: Dotted names, beginning with the part's, of the modules' parameters that are not trained.
        groups: Part name of an optimizer to the parameter names of each of its groups.
    """

    parts: Mapping[str, Any]
    frozen: frozenset[str] = frozenset()
    groups: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)


class Strategy(Protocol):
    """How a state is spread over processes."""

    group: Group

    def capture(self, objects: Mapping[str, Any], what: What) -> Held:
        """The state of ``objects`` by name, those parts that ``what`` wants. Collectives happen here alone."""
        ...

    def restore(
        self,
        objects: Mapping[str, Any],
        parts: Mapping[str, Any],
        *,
        checkpoint: str,
        groups: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        """Put ``parts`` into the objects of the same names.

        Everything that can be checked is checked before anything is changed.

        Args:
            objects: What makes up the state, by part name.
            parts: The state of some of them.
            checkpoint: Where it comes from, for an error.
            groups: Part name of an optimizer to the parameter names of each of its groups, where known.

        Raises:
            Incompatible: Something is missing, extra, of another shape or in another order; all of it in one
                error. Or an object of the user's refused its state.
        """
        ...
