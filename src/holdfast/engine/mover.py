"""What the folders of a run want of one moment: captured once, written once for each What, committed in each folder.

Decides nothing: what is wanted was planned before, and what becomes of a folder is its ``Shelf``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from holdfast.catalog.second import second
from holdfast.engine.commit import commit, withdraw, words
from holdfast.engine.fence import Moved
from holdfast.engine.group import Group
from holdfast.engine.job import Capture, Captured, Work, prepare
from holdfast.engine.shelf import Wanted, from_plain, to_plain
from holdfast.engine.writer import Outcome, Ticket, Writer
from holdfast.errors import RankError, StoreError
from holdfast.policy.plan import Save
from holdfast.policy.values import Moment
from holdfast.policy.what import What
from holdfast.store import LocalStore, Sink

_Taker = tuple[Wanted, Save]


@dataclass
class _Task:
    """One checkpoint on its way, and who gets it: the first takes what is written, the others a second name of that."""

    job: Work
    takers: Sequence[_Taker]
    there: str = ""
    """Its name in the first one's folder, once it is durable there."""


class Mover:
    """Captures, writes and commits for all folders of a run; one save is in flight.

    Args:
        capture: Gives the state, by parts, as it is now.
        group: The ranks.
        commit_timeout: Seconds that ranks wait for each other's part of a save.
        memory: Bytes of buffers that a save may take; see ``archive.write``.
    """

    def __init__(
        self, capture: Capture, group: Group, *, commit_timeout: float = 600.0, memory: int | None = None
    ) -> None:
        self.group = group
        self.state, self._commit_timeout, self._memory = capture, commit_timeout, memory
        self._writer = Writer()
        self._begun: Sequence[Ticket] = ()
        self._warned: set[str] = set()
        self._restless: set[str] = set()
        self._spent: list[str] = []
        self._saves = 0

    def begin(self, wanted: Sequence[Wanted]) -> list[Ticket]:
        """Begin one save for all who want something of one moment. The same call on every rank.

        Returns:
            The save as each of them sees it.
        """
        for ticket in self._begun:
            ticket.wait()  # one in flight; who began it hears of it when it settles
        self._saves += 1
        first = wanted[0].shelf
        key = f"save/{first.folder.store.root}/{first.run.ref.id}/{first.run.ref.attempt}/{self._saves}"
        tasks: list[_Task] = []
        for one in wanted:
            one.shelf.capturing = one
        try:
            for what, takers in _by_what(wanted).items():
                for task in self._capture(what, takers):
                    tasks.append(task)  # one by one: what was captured is released where the next cannot be
        except BaseException as error:
            for task in tasks:
                task.job.release()
            if isinstance(error, Exception):
                withdraw(self.group, key, error, self._spent)
            raise
        finally:
            for one in wanted:
                one.shelf.capturing = None
        windows = [task.job.window for task in tasks if task.job.window is not None]
        names = [one.names for one in wanted]
        self._begun = self._writer.begin(names, lambda: self._save(wanted, tasks, key), windows)
        return list(self._begun)

    def close(self) -> None:
        """End the thread, when what it writes is written."""
        self._writer.close()

    def _capture(self, what: What, takers: Sequence[_Taker]) -> Iterator[_Task]:
        """Capture the state once, on every rank; when all are prepared, training may go on."""
        captured = self.state(what)
        if self.group.rank != 0 and not captured.divided:
            return  # nothing to write
        # A folder of shards has no second name in another folder.
        for together in [[taker] for taker in takers] if captured.divided else _together(takers):
            yield _Task(self._prepare(captured, what, together), together)

    def _prepare(self, captured: Captured, what: What, takers: Sequence[_Taker]) -> Work:
        shelves = [wanted.shelf for wanted, _ in takers]
        sequence = max(shelf.sequence for shelf in shelves) + 1
        for shelf in shelves:
            shelf.sequence = sequence
        run = shelves[0].run.ref
        taking: Callable[..., Work] = prepare
        if captured.divided:
            from holdfast.engine import sharded  # what it needs of torch is loaded by those who need it

            # Of several folders for one moment, the temporary names lie apart.
            taking = partial(sharded.prepare, rank=self.group.rank, ordinal=f"{run.attempt}-{self._saves}")
        saves = [save for _, save in takers]
        moments = [wanted.moment for wanted, _ in takers]
        return taking(
            captured,
            what,
            Moment(moments[0].events, moments[0].progress, _joined(m.metrics for m in moments)),
            run=run,
            sequence=sequence,
            tallies=_joined(wanted.tallies for wanted, _ in takers),
            policies=tuple(dict.fromkeys(name for save in saves for name in save.policies)),
            reason="; ".join(dict.fromkeys(save.reason for save in saves if save.reason)),
            label=next((save.label for save in saves if save.label is not None), None),
            scores=_joined(save.scores for save in saves),
            warned=self._warned,
            copied=self._restless,
            patience=self.group.patience,
        )

    def _save(self, wanted: Sequence[Wanted], tasks: Sequence[_Task], key: str) -> list[Outcome]:
        """On the writer thread: write, commit, evict. Every failure becomes a ``SaveFailed`` with its four parts."""
        sinks: list[Any] = []
        raised: dict[int, Exception] = {}
        results: list[Sequence[Any] | Exception]

        def write() -> list[Any]:
            return [
                task.job.write(one.shelf.folder.store, save.names[0], sinks, memory=self._memory)
                for task in tasks
                for one, save in task.takers[:1]
            ]

        try:
            told = commit(
                self.group,
                key,
                write=write,
                publish=lambda told: self._publish(wanted, tasks, sinks, told, raised),
                deadline=self._commit_timeout,
                spent=self._spent,
            )
            results = [self._heard(one, raised.get(i)) for i, one in enumerate(told["folders"])]
        except Exception as error:  # whatever it is, the run must hear of it in the words of a failed save
            if isinstance(error, Moved):
                self._restless.update(error.names)
            results = [error] * len(wanted)
        finally:
            for task in tasks:
                task.job.release()
        if any(isinstance(result, Exception) for result in results):
            for sink in sinks:
                with suppress(StoreError):
                    sink.discard()  # what is published stays
        return [self._outcome(one, tasks, result) for one, result in zip(wanted, results, strict=True)]

    def _publish(
        self,
        wanted: Sequence[Wanted],
        tasks: Sequence[_Task],
        sinks: list[Any],
        told: Mapping[int, Sequence[Any]],
        raised: dict[int, Exception],
    ) -> dict[str, Any]:
        """Rank 0: each folder gets what it wants. What fails in one, once all is written, is that one's."""
        for i, task in enumerate(tasks):
            task.job.complete({rank: each[i] for rank, each in told.items() if each})
        own = list(sinks)
        folders: list[dict[str, Any]] = []
        for number, one in enumerate(wanted):
            try:
                written = [
                    (save, task, own[i] if taker is task.takers[0][0] else self._second(task, one, save, sinks))
                    for i, task in enumerate(tasks)
                    for taker, save in task.takers
                    if taker is one
                ]
                saved = one.shelf.publish(one, [(save, task.job, sink) for save, task, sink in written])
                for (_, task, _), record in zip(written, saved, strict=True):
                    task.there = task.there or record.names[0]
                folders.append({"error": None, "records": to_plain(saved)})
            except Exception as error:  # the other folders get theirs all the same
                raised[number] = error
                folders.append({"error": words(error), "records": []})
        return {"folders": folders}

    def _second(self, task: _Task, one: Wanted, save: Save, sinks: list[Any]) -> Sink:
        """The same bytes for another folder."""
        source = task.takers[0][0].shelf.folder.store
        store = one.shelf.folder.store
        assert isinstance(source, LocalStore), "only these share a write"
        assert isinstance(store, LocalStore), "only these share a write"
        if not task.there:
            raise StoreError("share", f"{source.root}/{task.takers[0][1].names[0]}", OSError("it is not there"))
        sink = second(source, task.there, store, save.names[0], owner=one.shelf.run.ref.id)
        sinks.append(sink)
        return sink

    def _heard(self, told: Mapping[str, Any], raised: Exception | None) -> Sequence[Any] | Exception:
        """What came of one folder, as rank 0 saw it or told it."""
        if told["error"] is None:
            return list(told["records"])
        return raised or RankError(told["error"], rank=0, phase="commit")

    def _outcome(self, one: Wanted, tasks: Sequence[_Task], result: Sequence[Any] | Exception) -> Outcome:
        if not isinstance(result, Exception):
            one.shelf.news = from_plain(result)
            return one.shelf.news[0] if one.shelf.news else None
        written = {}
        if self.group.rank == 0:
            written = {t.job.manifest.id: save.names[0] for t in tasks for taker, save in t.takers if taker is one}
        return one.shelf.failed(one, result, written, rank=self.group.rank, of=self.group.size)


def _by_what(wanted: Sequence[Wanted]) -> dict[What, list[_Taker]]:
    found: dict[What, list[_Taker]] = {}
    for one in wanted:
        for save in one.plan.saves:
            found.setdefault(save.what, []).append((one, save))
    return found


def _together(takers: Sequence[_Taker]) -> list[list[_Taker]]:
    """Who shares one file: those to whom its manifest tells the same run, and whose policies it can tell apart."""
    groups: list[list[_Taker]] = []
    for taker in takers:
        group = next((group for group in groups if _can_share(group, taker[0])), None)
        if group is None:
            groups.append([taker])
        else:
            group.append(taker)
    return groups


def _can_share(group: Sequence[_Taker], one: Wanted) -> bool:
    first = group[0][0]
    if not (isinstance(first.shelf.folder.store, LocalStore) and isinstance(one.shelf.folder.store, LocalStore)):
        return False
    return first.shelf.run.ref == one.shelf.run.ref and all(
        not wanted.remembering & one.remembering for wanted, _ in group
    )


def _joined(mappings: Any) -> dict[str, Any]:
    return {name: value for mapping in mappings for name, value in mapping.items()}
