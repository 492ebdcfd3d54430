"""An engine that saves at every step, in this process: its state is one tensor that says which step it is."""

from __future__ import annotations

from pathlib import Path

import torch

from holdfast import every, last
from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.engine.engine import Engine
from holdfast.engine.job import Captured
from holdfast.engine.writer import Ticket
from holdfast.errors import SaveFailed
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress, Score
from holdfast.policy.what import What, full
from holdfast.policy.where import Where
from holdfast.store import LocalStore
from torture.child import RULES, fingerprint, kept, score

ELEMENTS = 2**14  # 64 KiB
_POLICIES = (
    Policy("rules", every(steps=1), RULES),
    Policy("last", every(steps=1), last(1), full, Where(None, alias="last")),
)


class Saver:
    """Saves, and knows what is saved.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        folder = Folder(LocalStore(root))
        folder.store.prepare()
        self.root = root
        self.run = runs.begin(folder)
        self.engine = Engine(folder, self.run, _POLICIES, self._capture)
        self.step = 0
        self.saved: list[int] = []
        self.advance()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close(clean=True)

    def begin(self) -> Ticket:
        """Begin the save of the next step."""
        self.step += 1
        progress = Progress(batch=self.step, batches=self.step, steps=self.step)
        scores = {"loss": Score(score(self.step), self.step)}
        ticket = self.engine.consider(Moment(frozenset({Event.BATCH_END}), progress, scores))
        assert ticket is not None, "every step is saved"
        return ticket

    def attempt(self) -> SaveFailed | None:
        """Save the next step, and wait until that is over: how it failed, if so. Nothing is settled yet."""
        ticket = self.begin()
        try:
            assert ticket.record is not None
        except SaveFailed as error:
            return error
        self.saved.append(self.step)
        return None

    def save(self) -> None:
        """Save the next step, which must go without a failure or a warning."""
        error = self.attempt()
        assert error is None, error
        self.engine.settle()

    def advance(self) -> None:
        """Save on until the next save will evict a checkpoint, besides moving the alias."""
        while not kept(self.saved) - kept([*self.saved, self.step + 1]):
            self.save()

    @property
    def name(self) -> str:
        """The name of the checkpoint of the newest step that was tried."""
        return f"epoch=0-step={self.step}.ckpt"

    def _capture(self, what: What) -> Captured:
        return Captured({"state_dict": _state(self.step)}, {"model": ("state_dict",)})


def oracle(step: int) -> str:
    """The fingerprint of the state at a step."""
    return fingerprint(_state(step))


def _state(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((ELEMENTS,), float(step))}
