"""Find the checkpoint that a word or a path means: ``last``, ``best``, ``auto`` (with walk-back), or a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.verify import Finding, Verdict, verify
from holdfast.errors import Corrupt, NotFound, StoreError
from holdfast.policy.values import Record
from holdfast.policy.which import Which


T = TypeVar("T")


@dataclass(frozen=True)
class Passed:
    """A checkpoint that was passed over because it does not verify.

    Args:
        name: Its name.
        why: What is wrong with it.
        steps: Optimizer steps that it holds, where that is still known.
    """

    name: str
    why: str
    steps: int | None = None


@dataclass(frozen=True)
class Found(Generic[T]):
    """The newest checkpoint that could be read.

    Args:
        record: Which; None for a fresh start.
        value: What reading it gave.
        passed: What was passed over on the way, newest first.
    """

    record: Record | None
    value: T | None
    passed: tuple[Passed, ...] = ()

    @property
    def steps_lost(self) -> int:
        """Optimizer steps between the newest one passed over and the one found."""
        newest = max((p.steps for p in self.passed if p.steps is not None), default=0)
        return max(0, newest - (self.record.progress.steps if self.record else 0))


def resumable(records: Iterable[Record]) -> list[Record]:
    """Those that a run can go on from, newest first; of the newest run before any of an older one."""
    whole = [r for r in records if r.what == "full"]
    return sorted(whole, key=lambda r: r.order, reverse=True)


def last(listing: Listing) -> Record | None:
    """The newest checkpoint of the newest run; by the order of commits, never by name or time."""
    newest = resumable(listing.records)
    return newest[0] if newest else None


def best(listing: Listing, which: Which) -> Record | None:
    """The best of the newest run by the first ranking rule of ``which``."""
    run = listing.newest_run()
    return which.best_of(listing.of_run(run)) if run else None


def auto(listing: Listing, read: Callable[[Record], T]) -> Found[T]:
    """The newest checkpoint that ``read`` accepts, walking back over those that it calls ``Corrupt``.

    Where there is none, that is a fresh start.
    """
    passed = [Passed(s.name, s.why) for s in listing.strangers if s.verdict is Verdict.CORRUPT]
    for record in resumable(listing.records):
        try:
            return Found(record, read(record), tuple(passed))
        except Corrupt as error:
            passed.append(Passed(record.names[0], str(error), record.progress.steps))
    return Found(None, None, tuple(passed))


def named(listing: Listing, name: str, *, where: str) -> Record:
    """The checkpoint of that name.

    Raises:
        NotFound: There is none; the sentence lists what there is.
        Corrupt: There is a file of that name which is no checkpoint any more.
    """
    record = listing.by_name(name)
    if record is not None:
        return record
    stranger = next((s for s in listing.strangers if s.name == name), None)
    if stranger is not None and stranger.verdict is Verdict.CORRUPT:
        raise Corrupt(
            f"is corrupt: {stranger.why}.", checkpoint=f"{where}/{name}", good=newest_good(listing.records)
        )
    there = ", ".join(n for r in listing.records for n in r.names[:1]) or "nothing"
    raise NotFound(f"does not exist. {where} holds: {there}.", checkpoint=f"{where}/{name}")


def check(folder: Folder, record: Record) -> Finding:
    """Verify the file of one record in full."""
    try:
        with folder.store.open(record.names[0]) as reader:
            return verify(reader, ours=True)
    except StoreError as error:
        return Finding(Verdict.CORRUPT, str(error))


def newest_good(records: Iterable[Record], *, but: str = "") -> str:
    """A sentence naming the newest other checkpoint, for an error's third part."""
    for record in resumable(records):
        if record.id != but:
            return f"'{record.names[0]}' (step {record.progress.steps:,}) is the newest other one."
    return "There is no other checkpoint in this folder."
