"""Give out the names of one plan, each to one checkpoint. Pure: it knows names, and moves no file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from holdfast.policy.values import Record
from holdfast.policy.where import Where

_LONGEST_LABEL = 100  # bytes; the rest of the name needs room as well


class Names:
    """The names that one plan gives out.

    Args:
        taken: Names in use in the folder.
        vacated: Those among them that are held by what the plan evicts, to its ``What`` in words. Only a
            checkpoint of the same ``What`` may have them: another may be durable before what replaces it is.
        replaced: Those among these that the step at hand had under its earlier save.
    """

    def __init__(self, taken: Collection[str], vacated: Mapping[str, str], replaced: Collection[str] = ()) -> None:
        self.moves: set[str] = set()
        self._taken = set(taken)
        self._vacated = dict(vacated)
        self._replaced = set(replaced)
        self._aliases: set[str] = set()
        self._given: set[str] = set()
        self._own_of: dict[str, list[str]] = {}
        self._aliases_of: dict[str, list[str]] = {}

    def give(self, record: Record, where: Where, name: str) -> None:
        """A name of its own: as it is where that is free, becomes so by an eviction, or is to move; else versioned."""
        if name in record.names and name not in self.moves:
            return
        free = {vacant for vacant, what in self._vacated.items() if what == record.what}
        spoken_for = self._given | self._aliases | self._vacated.keys()
        moves = not where.version_counter and name in self._taken and name not in spoken_for
        if name not in free and not moves:
            # The version that this very step had already is had again; any other is not moved from one to the next.
            name = where.versioned(name, self._taken - (free & self._replaced))
        if name in free or moves:
            self._vacated.pop(name, None)
            self.moves.add(name)
        self._taken.add(name)
        self._given.add(name)
        self._own_of.setdefault(record.id, []).append(name)

    def move_alias(self, record: Record, alias: str | None) -> None:
        """A name that moves on to ``record``, unless another checkpoint of this plan was faster."""
        if alias is None or alias in self._aliases:
            return
        self._aliases.add(alias)
        self._vacated.pop(alias, None)
        self._taken.add(alias)
        if alias not in record.names:
            self.moves.add(alias)
            self._aliases_of.setdefault(record.id, []).append(alias)

    def given(self, record: Record) -> tuple[str, ...]:
        """What ``record`` was given; its own names first, for it is written under the first one."""
        return (*self._own_of.get(record.id, ()), *self._aliases_of.get(record.id, ()))

    def of(self, record: Record) -> tuple[str, ...]:
        """The names that ``record`` will have."""
        return (*(name for name in record.names if name not in self.moves), *self.given(record))


def name_of(where: Where, record: Record) -> str:
    """The name that a template makes of a checkpoint."""
    # No save is lost for its name; and what was not measured is no NaN, which somebody would have to look into.
    return where.name(record.progress, record.scores, missing="none")


def alias_of(where: Where, record: Record) -> str | None:
    """The alias that a checkpoint gets, if any."""
    return None if where.alias is None else name_of(replace(where, template=where.alias), record)


def given_by(where: Where, record: Record) -> str | None:
    """The name among a checkpoint's that the template gave it, with a version or without; None if it has none."""
    if where.template is None:
        return None
    exact = name_of(where, record)
    if exact in record.names:
        return exact
    versioned = f"{exact.removesuffix(where.extension)}{where.join}v"
    return next((name for name in record.names if name.startswith(versioned)), None)


def left_over(record: Record, going: Iterable[Where], staying: Iterable[Where]) -> list[str]:
    """The names that come from ``going`` alone, of a checkpoint that has others as well."""
    kept = {name for where in staying for name in (given_by(where, record), alias_of(where, record))}
    names = {name for where in going for name in (given_by(where, record), alias_of(where, record))}
    left = [name for name in record.names if name in names - kept]
    return left if len(left) < len(record.names) else []


def labelled(where: Where, record: Record) -> str:
    """The name of a checkpoint that a user gave a label; what no file name can hold of it becomes a dash."""
    assert record.label is not None
    safe = "".join(c if c.isalnum() or c in "-_=+" else "-" for c in record.label)
    short = safe.encode()[:_LONGEST_LABEL].decode(errors="ignore")
    return f"{name_of(where, record).removesuffix(where.extension)}-{short}{where.extension}"
