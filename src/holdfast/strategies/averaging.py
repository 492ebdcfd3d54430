"""Average gradients that every rank holds whole. Changes none of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


def averaged(
    parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], size: int
) -> list[torch.Tensor | None]:
    """The mean over all ranks of each gradient, on every rank. A collective.

    Args:
        parameters: Whose they are; the same on all ranks.
        gradients: This rank's; one that only other ranks have counts as zero here, and what no rank has stays None.
        size: How many ranks there are.
    """
    if not parameters:
        return []
    used = torch.tensor([float(g is not None) for g in gradients], device=parameters[0].device)
    dist.all_reduce(used)
    means: list[torch.Tensor | None] = []
    for parameter, gradient, count in zip(parameters, gradients, used.tolist(), strict=True):
        if not count:
            means.append(None)
            continue
        mean = torch.zeros_like(parameter) if gradient is None else gradient.detach().clone()
        dist.all_reduce(mean)
        means.append(mean / size)
    return means
