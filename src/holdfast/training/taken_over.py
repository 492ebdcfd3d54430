"""What the checkpoint callbacks of another program had kept, as those here count it. Reads no checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.callbacks.elsewhere import Elsewhere
from holdfast.log import logger


def rank_beside(state: Mapping[str, Any], path: Path | None) -> None:
    """Note in the states of checkpoint callbacks which of their checkpoints are still there, to rank with.

    One that is not at its path, which is absolute, is looked for beside the file that is gone on from: folders move.

    Args:
        state: A foreign checkpoint, brought to today's form; its callbacks' states are added to.
        path: The file; None where it is no local one.
    """
    callbacks = state.get("callbacks")
    for told in callbacks.values() if isinstance(callbacks, Mapping) else ():
        if isinstance(told, dict) and "best_model_path" in told:
            told.update(_kept(told, path.parent if path is not None else None).to_state())


def _kept(told: Mapping[str, Any], folder: Path | None) -> Elsewhere:
    models = told.get("best_k_models") or {}
    if not models and told.get("best_model_score") is not None:
        models = {told["best_model_path"]: told["best_model_score"]}
    scores, gone = {}, []
    for path, score in models.items():
        there, number = _there(str(path), folder), float(score)
        if there is None:
            gone.append(str(path))
        elif not math.isnan(number):
            scores[there] = number
    if gone:
        logger.warning(
            "%s: the checkpoint says that it ranks, but it is not there: it counts no more", ", ".join(sorted(gone))
        )
    newest = _there(str(told["best_model_path"] or ""), folder)
    return Elsewhere(scores, "" if scores or newest is None else newest)


def _there(path: str, folder: Path | None) -> str | None:
    """The path, or that of a file of this name in the folder; None where there is neither."""
    if path and os.path.exists(path):  # noqa: PTH110  # Path's own raises for some paths that nothing can be at
        return path
    beside = None if folder is None or not path else folder / Path(path).name
    return str(beside) if beside is not None and beside.is_file() else None
