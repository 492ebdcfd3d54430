"""File names that a subclass of ``ModelCheckpoint`` has its own mind about. Asks it for names; decides nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast.policy.values import Progress
from holdfast.policy.where import Where


@dataclass(frozen=True)
class OwnNames(Where):
    """A ``Where`` that asks an overridden ``format_checkpoint_name`` or ``file_exists``.

    Args:
        folder: What the names are relative to.
        names: ``format_checkpoint_name``, where it is overridden.
        exists: Whether a path is taken, as ``file_exists`` says, where it is overridden.
    """

    folder: str = ""
    names: Callable[[Mapping[str, Any]], str] | None = None
    exists: Callable[[str], bool] | None = None

    def name(self, progress: Progress, scores: Mapping[str, float], *, missing: float | str | None = None) -> str:
        """The subclass's name for these metrics, below the folder."""
        if self.names is None:
            return super().name(progress, scores, missing=missing)
        # A subclass formats numbers: what stands for one that is missing is one too.
        unknown = dict.fromkeys(self.fields, missing if isinstance(missing, (int, float)) else math.nan)
        counters = {"epoch": progress.epoch, "step": progress.steps}
        own = self.names({**unknown, "global_step": progress.steps, **scores, **counters})
        return os.path.relpath(own, self.folder) if os.path.isabs(own) else own  # noqa: PTH117  # text, not a file

    def versioned(self, name: str, taken: Collection[str]) -> str:
        """The first version of a name that is free, and not taken in the subclass's eyes either."""
        refused = set(taken)
        while True:
            found = super().versioned(name, refused)
            if self.exists is None or not self.exists(os.path.join(self.folder, found)):  # noqa: PTH118
                return found
            refused.add(found)


def renamed(where: Where, template: str) -> Where:
    """The same, with another template."""
    return replace(where, template=template)
