"""Find the checkpoint that a word or a path means: ``last``, ``best``, ``auto`` (with walk-back), or a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from holdfast.catalog.folder import Folder, Listing
from holdfast.catalog.verify import Finding, Verdict, verify
from holdfast.errors import Corrupt, NotFound, StoreError
from holdfast.policy.values import Record
from holdfast.policy.which import Which


@dataclass(frozen=True)
class Passed:
    """A checkpoint that was passed over because it does not verify, and why."""

    record: Record
    why: str


@dataclass(frozen=True)
class Resolved:
    """What was found.

    Args:
        record: The checkpoint; None for a fresh start.
        passed: Newer ones that do not verify, newest first.
    """

    record: Record | None
    passed: tuple[Passed, ...] = ()

    @property
    def steps_lost(self) -> int:
        """Optimizer steps between the newest one passed over and the one found."""
        if not self.passed:
            return 0
        return self.passed[0].record.progress.steps - (self.record.progress.steps if self.record else 0)


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


def auto(folder: Folder, listing: Listing) -> Resolved:
    """The newest checkpoint that verifies, walking back over those that do not; none at all is a fresh start."""
    passed: list[Passed] = []
    for record in resumable(listing.records):
        finding = check(folder, record)
        if finding.verdict is Verdict.WHOLE:
            return Resolved(record, tuple(passed))
        passed.append(Passed(record, finding.why))
    return Resolved(None, tuple(passed))


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


def newest_good(
    records: Sequence[Record], verdict: Callable[[Record], Verdict] | None = None, *, but: str = ""
) -> str:
    """A sentence naming the newest other checkpoint, for an error's third part."""
    for record in resumable(records):
        if record.id != but and (verdict is None or verdict(record) is Verdict.WHOLE):
            verified = "verified" if verdict else "the newest other one"
            return f"'{record.names[0]}' (step {record.progress.steps:,}) is {verified}."
    return "There is no other checkpoint in this folder."
