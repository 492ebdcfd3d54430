"""What a loop of somebody's own is made of, beside the checkpoint that it goes on from. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from holdfast.errors import Incompatible
from holdfast.policy.values import Progress
from holdfast.sources import Loaded
from holdfast.state import changes, fingerprint
from holdfast.state.loaders import Place
from holdfast.state.report import Report


def taken(objects: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The fingerprint of the objects as they are, before any state is put in.

    Args:
        objects: What makes up the state, by part name.
        size: How many processes there are.
    """
    optimizers = [one for one in objects.values() if isinstance(one, torch.optim.Optimizer)]
    schedulers = [one for one in objects.values() if isinstance(one, LRScheduler)]
    loaders = [one.loader if isinstance(one, Place) else one for one in objects.values()]
    loader = next((one for one in loaders if isinstance(one, DataLoader)), None)
    return {
        **(fingerprint.of_optimizers(optimizers) if optimizers else {}),
        **({"scheduler": [fingerprint.of_scheduler(one) for one in schedulers]} if schedulers else {}),
        **fingerprint.of_loader(loader),
        "world_size": size,
        **fingerprint.of_process(),
    }


def compared(
    loaded: Loaded, objects: Mapping[str, Any], now: Mapping[str, Any], own: Collection[str]
) -> tuple[dict[str, Any], Report]:
    """The fingerprint of the run that goes on, and what there is to say.

    Args:
        loaded: The checkpoint, of which the objects have their state now.
        objects: They.
        now: Their fingerprint of before.
        own: Parts that are no objects.
    """
    saved = loaded.parts.get(fingerprint.KEY, {})
    differs = changes.differences(saved, now, {}, checkpoint=loaded.path, default="restore")
    parts, held = loaded.parts, loaded.manifest.parts
    restored = [*(name for name in objects if name in parts), *(["random state"] if "random" in parts else [])]
    missing = [name for name in objects if name not in parts]
    missing += [f"{name} (nobody asked for it)" for name in held if name not in parts and name not in own]
    if not saved:
        missing.append("what the run was made of, so that nothing can be compared")
    inexact = [] if "random" in parts else ["there is no random state"]
    inexact += [sentence for one in objects.values() if isinstance(one, Place) for sentence in one.inexact()]
    where, healthy = _where(loaded.manifest.progress), loaded.manifest.healthy
    report = Report(loaded.path, where, restored, missing, differs, inexact, healthy)
    return changes.kept(saved, now, differs), report


@contextmanager
def fitting() -> Iterator[None]:
    """Who has changed the model hears how to begin anew: else each start of the program would end here."""
    try:
        yield
    except Incompatible as error:
        error.advise('To begin anew, give the Checkpointer another folder, or call resume("fresh", ...).')
        raise


def _where(progress: Progress) -> str:
    return f"step {progress.steps:,}, epoch {progress.epoch}" + (", at its end" if progress.complete else "")
