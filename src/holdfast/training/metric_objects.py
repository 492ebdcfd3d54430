"""What torchmetrics objects have seen so far, for a checkpoint and for other ranks. Updates none of them.

It never imports torchmetrics: a module that has such objects has done so itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def states(module: Any) -> dict[str, dict[str, Any]]:
    """What each metric object in a module has seen, by its path; nothing of those that have seen nothing.

    Tensors are copied, for an update may change them where they are. Those in lists are lent: lists only grow.
    """
    return {
        path: {
            "count": metric.update_count,
            "state": {
                name: value.detach().clone() if isinstance(value, torch.Tensor) else list(value)
                for name, value in metric.metric_state.items()
            },
        }
        for path, metric in _objects(module)
        if metric.update_count
    }


def restore(module: Any, states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Let the metric objects in a module go on from there; those that had seen nothing begin.

    Returns:
        Paths of objects that are not there any more, or whose state is made of other things.
    """
    left = dict(states)
    for path, metric in _objects(module):
        saved = left.get(path)
        if saved is not None and saved["state"].keys() != metric.metric_state.keys():
            continue
        metric.reset()
        if saved is None:
            continue
        del left[path]
        for name, value in saved["state"].items():
            if isinstance(value, torch.Tensor):
                setattr(metric, name, value.to(metric.device, copy=True))
            else:
                device = torch.device("cpu") if metric.compute_on_cpu else metric.device
                setattr(metric, name, [one.to(device) if isinstance(one, torch.Tensor) else one for one in value])
        metric._update_count = saved["count"]  # there is no public way to say it
    return list(left)


def path_of(module: Any, metric: Any) -> str | None:
    """Where a metric object is in a module; None for one that is not, or is not of torchmetrics."""
    return next((path for path, other in _objects(module) if other is metric), None)


def computed(metric: Any) -> Any:
    """The value of a metric object. One that has seen nothing takes part in what other ranks have seen, in silence."""
    if getattr(metric, "update_called", True):
        return metric.compute()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")
        return metric.compute()


def forget_computed(metric: Any) -> None:
    """Let a metric object compute anew: ranks that reduce together all do, whichever of them has seen more since."""
    metric._computed = None  # there is no public way to say it


def _objects(module: Any) -> Iterator[tuple[str, Any]]:
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is None or not isinstance(module, torch.nn.Module):
        return
    for path, part in module.named_modules():
        if isinstance(part, torchmetrics.Metric):
            yield path, part
