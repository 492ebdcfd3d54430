"""What stands in a folder after a run was ended by force: every file verified, opened by stock torch, and told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from holdfast.catalog.folder import Folder
from holdfast.catalog.verify import Verdict, verify
from holdfast.store import LocalStore
from torture.child import fingerprint, wanted


@dataclass(frozen=True)
class Aftermath:
    """A folder whose every listed name has been verified.

    Args:
        weights: Step to the fingerprint of its weights, for each checkpoint.
        last: The step that ``last.ckpt`` holds; 0 where there is none.
        leftovers: Names of unfinished files.
        bytes: What all but ``.holdfast`` takes on the disk.
    """

    weights: dict[int, str]
    last: int
    leftovers: tuple[str, ...]
    bytes: int

    @property
    def newest(self) -> int:
        """The newest step; 0 where there is none."""
        return max(self.weights, default=0)


def look(root: Path) -> Aftermath:
    """Look at every byte of a folder, as a process that knows nothing of the one that wrote it."""
    folder = Folder(LocalStore(root))
    listing = folder.scan()
    assert listing.strangers == (), "what bears a checkpoint's name is one"
    weights = {}
    for record in listing.records:
        for name in record.names:
            with folder.store.open(name) as reader:
                finding = verify(reader)
            assert finding.verdict is Verdict.WHOLE, f"{name}: {finding.why}"
        assert record.progress.steps not in weights, "one step, one checkpoint"
        stock = torch.load(root / record.names[0], weights_only=True)
        weights[record.progress.steps] = fingerprint(stock["state_dict"])
    last = listing.by_name("last.ckpt")
    return Aftermath(weights, last.progress.steps if last else 0, listing.leftovers, usage(root))


def usage(root: Path) -> int:
    """Bytes that all but ``.holdfast``, which keeps a diary and so grows, takes on the disk: links count once."""
    files = (p.lstat() for p in root.rglob("*") if ".holdfast" not in p.parts and p.is_file())
    return sum({info.st_ino: 512 * info.st_blocks for info in files}.values())


def check(found: Aftermath, *, acknowledged: int, oracle: list[str]) -> None:
    """What holds after any kill: nothing acknowledged is lost, and every step is what it would have been.

    Args:
        found: The folder.
        acknowledged: The newest step whose save was said to be durable.
        oracle: The fingerprint of the weights by step.
    """
    assert found.newest >= acknowledged
    assert found.weights == {step: oracle[step] for step in found.weights}
    assert wanted(found.newest) <= set(found.weights)
    assert found.last >= acknowledged, "the alias is moved before a save is acknowledged"
    assert found.newest - found.last <= 1, "a kill between two renames leaves the alias one save behind at most"
