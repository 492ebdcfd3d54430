"""Where a run stands, as Lightning 2 counts it loop by loop, and as ``Progress``. Pure: tree to tree.

The counters of Lightning's loops say where in a step a file was saved, each by being one ahead of the next: ``ready``,
``started``, ``processed``, ``completed``. What is written here is what Lightning 2.6 writes at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.policy.values import Progress

EPOCHS = "epoch_progress"
BATCHES = "epoch_loop.batch_progress"
STEPPED = "epoch_loop.state_dict"
AUTOMATIC = "epoch_loop.automatic_optimization.optim_progress"
MANUAL = "epoch_loop.manual_optimization.optim_step_progress"
VALIDATION = "epoch_loop.val_loop.batch_progress"


@dataclass(frozen=True)
class Stand:
    """Where a foreign file stands.

    Args:
        progress: The counters.
        stepped: Batches that ended with an optimizer step.
        validated: Whether the validation after its last batch is done.
        accumulating: Whether it seems to lie between the batches of one optimizer step.
        loader: The state of the loader, where there was one that keeps its own place.
    """

    progress: Progress
    stepped: int
    validated: bool = False
    accumulating: bool = False
    loader: Any = None


def written(
    progress: Progress,
    *,
    automatic: bool = True,
    last_batch: bool | None = None,
    validated: bool = False,
    window: bool = False,
    stepped: int | None = None,
    loader: Any = None,
) -> dict[str, Any]:
    """The ``loops`` of a file.

    Args:
        progress: The counters.
        automatic: Whether the trainer steps the optimizers.
        last_batch: Whether the last batch done is the epoch's last; by default whether the epoch is over.
        validated: Whether the validation after that batch is done.
        window: Whether gradients wait for more batches.
        stepped: Batches that ended with an optimizer step; by default the optimizer steps.
        loader: The state of a loader that keeps its own place; None for any other.
    """
    over, n = progress.complete, progress.batch
    last = over if last_batch is None else last_batch or over
    ended = over or validated or not n  # else it is as at a batch's end, when hooks run and the batch is not yet done
    stepped = progress.steps if stepped is None else stepped
    begun = progress.epoch + (over or n > 0)
    total = max(progress.batches, n)
    steps = (progress.steps, -(-n * progress.steps // max(total, 1)))  # of the run, and as many of the epoch's
    epochs = {"ready": begun, "started": begun, "processed": progress.epochs, "completed": progress.epoch}
    batches = {
        "total": _done(total, total - (not ended)),
        "current": _done(n, n - (not ended)),
        "is_last_batch": last,
    }
    fit = {
        "state_dict": {} if loader is None else {"combined_loader": [loader]},
        # In an epoch, Lightning adds the batch at whose end it saved when it goes on.
        STEPPED: {"_batches_that_stepped": stepped - (not over and n > 0 and not window)},
        BATCHES: batches,
        "epoch_loop.scheduler_progress": _two(0, 0, "ready", "completed"),
        "epoch_loop.automatic_optimization.state_dict": {},
        AUTOMATIC: {
            "optimizer": {
                "step": _two(*(steps if automatic else (0, 0)), "ready", "completed"),
                "zero_grad": _two(*(steps if automatic else (0, 0)), "ready", "completed", "started"),
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        MANUAL: _two(*((0, 0) if automatic else (progress.steps,) * 2), "ready", "completed"),
        "epoch_loop.val_loop.state_dict": {},
        VALIDATION: {**_idle(), "is_last_batch": validated},
        EPOCHS: {"total": dict(epochs), "current": dict(epochs)},
    }
    return {
        "fit_loop": fit,
        "validate_loop": {"state_dict": {}, "batch_progress": {**_idle(), "is_last_batch": False}},
        "test_loop": {"state_dict": {}, "batch_progress": {**_idle(), "is_last_batch": False}},
        "predict_loop": {"state_dict": {}, "batch_progress": _idle()},
    }


def read(state: Mapping[str, Any]) -> Stand:
    """Where a file of Lightning 2 stands; older ones have been brought to its form before.

    A file of an epoch that ``max_steps`` or a callback cut short stands in the middle of that epoch.

    Raises:
        KeyError, TypeError, AttributeError: Its loops are of another form.
    """
    fit = state["loops"]["fit_loop"]
    epochs, batches = fit[EPOCHS]["current"], fit[BATCHES]["current"]
    total = int(fit[BATCHES]["total"]["processed"])
    steps = int(fit[AUTOMATIC]["optimizer"]["step"]["total"]["completed"]) or int(fit[MANUAL]["total"]["completed"])
    logged = int(fit.get(STEPPED, {}).get("_batches_that_stepped", steps))
    ready, processed = int(epochs["ready"]), int(epochs["processed"])
    n, last = int(batches["processed"]), bool(fit[BATCHES]["is_last_batch"])
    if ready <= processed and (last or not n):  # the epoch is over, or none has begun
        progress = Progress(max(processed - 1, 0), n, processed > 0, total, steps)
        return Stand(progress, logged, validated=True)
    if ready <= processed:  # cut short
        return Stand(Progress(processed - 1, n, False, total, steps), logged, validated=True)
    if int(epochs["started"]) < ready:  # its hooks at the epoch's beginning: the batches are those of the one before
        return Stand(Progress(processed, 0, False, total, steps), logged)
    ended = int(batches["completed"]) == int(batches["ready"]) == n
    validation = fit.get(VALIDATION, {})
    validated = ended and bool(validation.get("is_last_batch")) and _all_done(validation.get("current", {}))
    inside = int(fit[AUTOMATIC]["optimizer"]["step"].get("current", {}).get("completed", 0))
    accumulating = not last and 0 < inside < n and n % inside != 0
    behind = n > 0 and not accumulating  # Lightning counts the batch only after whatever may save
    kept = (fit.get("state_dict") or {}).get("combined_loader") or []
    loader = kept[0] if len(kept) == 1 else None
    return Stand(Progress(processed, n, False, total, steps), logged + behind, validated, accumulating, loader)


def _all_done(counts: Mapping[str, Any]) -> bool:
    return 0 < int(counts.get("completed", 0)) == int(counts.get("ready", 0))


def _done(processed: int, completed: int) -> dict[str, int]:
    return {"ready": processed, "completed": completed, "started": processed, "processed": processed}


def _idle() -> dict[str, Any]:
    return {"total": _done(0, 0), "current": _done(0, 0)}


def _two(total: int, current: int, *names: str) -> dict[str, Any]:
    return {"total": dict.fromkeys(names, total), "current": dict.fromkeys(names, current)}
