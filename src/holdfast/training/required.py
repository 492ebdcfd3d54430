"""What is looked at and nobody logs: said early, and for checkpoint callbacks an error once all have logged."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from holdfast.engine.group import Group
from holdfast.errors import ConfigError
from holdfast.log import logger
from holdfast.policy.values import Event
from holdfast.training.places import Place
from holdfast.training.ranks import each

_MISSPELT = 0.8
"""How much alike two names are where one is most likely meant to be the other; train_loss and val_loss are less."""


class Required:
    """The metrics that rank or name something.

    Args:
        places: The folders whose callbacks look at them.
        logged: Names of all metrics that were logged so far.
        group: The ranks.
        validates: Whether there is a validation, which may log what is looked at.
        logs_late: Whether somebody may log at a training epoch's end.
    """

    def __init__(
        self,
        places: Sequence[Place],
        logged: Callable[[], Iterable[str]],
        group: Group,
        *,
        validates: bool,
        logs_late: bool,
    ) -> None:
        self._places, self._logged, self._group = places, logged, group
        self._awaited = {Event.VALIDATION_END} if validates else set()
        self._awaited |= {Event.TRAIN_EPOCH_END} if logs_late or not validates else set()
        self._checked = self._warned = False

    def sanity_checked(self, watched: Iterable[str]) -> None:
        """Say what the sanity check has not logged: training may, but a name like one that is there is misspelt.

        Args:
            watched: What else is looked at than by checkpoints.
        """
        known = sorted(self._logged())
        wanted = dict.fromkeys([*(name for place in self._places for name in place.wanted), *watched])
        for name in wanted if self._group.rank == 0 else ():
            if name in known:
                continue
            alike = difflib.get_close_matches(name, known, 1, _MISSPELT)
            say = logger.warning if alike else logger.info
            say(
                "%r is monitored or part of a file name, and the sanity check did not log it: training has to; %s",
                name,
                f"did you mean {alike[0]!r}?" if alike else f"logged there: {', '.join(known) or 'nothing'}",
            )

    def warn(self, place: Place) -> None:
        """Once, where a checkpoint is due that nobody can rank or name yet, and no error will tell for long."""
        if self._group.rank or self._warned or self._checked or Event.VALIDATION_END in self._awaited:
            return
        self._warned = True
        if missing := self._missing(place):
            logger.warning(
                "a checkpoint is due, and %s was not logged so far; logged: %s",
                ", ".join(map(repr, missing)),
                ", ".join(sorted(self._logged())) or "nothing",
            )

    def seen(self, event: Event) -> None:
        """Once, when all who log have logged: a metric that nobody logs would never rank or name anything.

        Raises:
            ConfigError: There is one.
        """
        if self._checked or event not in self._awaited:
            return
        self._awaited.discard(event)
        if self._awaited:
            return
        self._checked = True
        lacking = each(self._group, list(dict.fromkeys(name for p in self._places for name in self._missing(p))))
        missing = lacking[0]  # rank 0 decides: what only others lack ranks and names all the same
        if missing:
            known = sorted(self._logged())
            logs = [rank for rank, names in enumerate(lacking) if not set(missing) <= set(names)]
            where = f" on rank 0, which decides; rank {', '.join(map(str, logs))} has logged it" if logs else ""
            alike = dict.fromkeys(one for name in missing for one in difflib.get_close_matches(name, known, 1))
            meant = f"Did you mean {', '.join(map(repr, alike))}? " if alike else ""
            raise ConfigError(
                f"A ModelCheckpoint looks at {', '.join(map(repr, missing))}, which was never logged{where}.",
                good="What was saved so far stands.",
                remedy=f"{meant}Logged so far: {', '.join(known) or 'nothing'}.",
            )

    def _missing(self, place: Place) -> list[str]:
        known = set(self._logged())
        return [name for name in place.wanted if name not in known]
