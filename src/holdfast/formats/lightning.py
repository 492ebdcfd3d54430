"""Arrange a state under the keys that readers of this family of checkpoints look for. Pure: tree to tree.

The arrangement is derived, never read back where there is a manifest: it says where each part went.
Keys as in "Saving and loading weights" (Lightning 1.5 pages) and the files of Lightning 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.errors import ConfigError
from holdfast.formats import loops
from holdfast.policy.values import Progress

LIGHTNING_VERSION = "2.6.6"
"""The version whose keys the files follow; Lightning reads no file that does not name one."""

_LISTS = {"optimizer": "optimizer_states", "scheduler": "lr_schedulers"}
_OWN = "holdfast"


def arrange(parts: Mapping[str, Any], progress: Progress) -> tuple[dict[str, Any], dict[str, tuple[str | int, ...]]]:
    """Lay out the parts of a state as one dictionary.

    ``model`` becomes ``state_dict``; ``optimizer``, ``optimizer2``, … the list ``optimizer_states``;
    ``scheduler``, ``scheduler2``, … the list ``lr_schedulers``; every other part goes under ``holdfast`` by
    its own name.

    Args:
        parts: Part name to its state.
        progress: Fills ``epoch``, ``global_step`` and ``loops``.

    Returns:
        The dictionary, and part name to its path in it.

    Raises:
        ConfigError: A part has no name.
    """
    root: dict[str, Any] = {
        "epoch": progress.epoch,
        "global_step": progress.steps,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "loops": loops.written(progress),
    }
    places: dict[str, tuple[str | int, ...]] = {}
    for name, state in parts.items():
        if not name:
            raise ConfigError("A part of the state needs a name.")
        if name == "model":
            root["state_dict"] = state
            places[name] = ("state_dict",)
            continue
        key = _LISTS.get(name.rstrip("0123456789"))
        if key is not None:
            items = root.setdefault(key, [])
            places[name] = (key, len(items))
            items.append(state)
        else:
            root.setdefault(_OWN, {})[name] = state
            places[name] = (_OWN, name)
    return root, places
