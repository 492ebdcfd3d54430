"""What programs ask ``trainer.strategy`` beside what a loop does: which rank this is, and values of other ranks."""

from __future__ import annotations

import base64
import pickle
from typing import Any, ClassVar

import torch

from holdfast.engine.group import Group
from holdfast.strategies.world import World


class Answers:
    """The side of a strategy that programs talk to. Every rank calls ``barrier`` and what has a value to give."""

    world: World
    device: torch.device
    group: Group
    asked_as: ClassVar[str]
    """The class of ``holdfast.strategies`` that asks for it, of which it counts as an instance."""

    @property
    def root_device(self) -> torch.device:
        """Where this rank computes."""
        return self.device

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.world.rank == 0

    @property
    def global_rank(self) -> int:
        """This process among all."""
        return self.world.rank

    @property
    def local_rank(self) -> int:
        """This process among those of its host."""
        return self.world.local_rank

    @property
    def node_rank(self) -> int:
        """This host among all."""
        return self.world.node

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.world.size

    def barrier(self, name: str | None = None) -> None:
        """Wait for all ranks.

        Raises:
            RankError: Not all have come in the time that they wait for each other; it names those that are missing.
        """
        self.group.barrier(phase=name or "barrier")

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The value of one rank, on every rank: anything that can be pickled; not for what is large.

        Raises:
            RankError: Not all have come in the time that they wait for each other.
        """
        if self.group.size == 1:
            return obj
        text = base64.b85encode(pickle.dumps(obj)).decode() if self.group.rank == src else ""
        if src != 0:
            every = self.group.gather(text, phase="broadcast")
            text = every[src] if every else ""
        told = self.group.broadcast(text, phase="broadcast")
        return obj if self.group.rank == src else pickle.loads(base64.b85decode(told))  # noqa: S301  from a rank of this program

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether it is so on all ranks, or on any of them."""
        told = self.group.gather(bool(decision), phase="decision")
        agreed = (min if all else max)(told) if self.group.rank == 0 else None
        return bool(self.group.broadcast(agreed, phase="decision"))

    def all_gather(self, tensor: torch.Tensor, group: Any = None, sync_grads: bool = False) -> torch.Tensor:
        """The tensor itself: there is one rank."""
        return tensor
