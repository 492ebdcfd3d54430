"""What a folder of checkpoints holds: names, manifests and ledger brought together. Reads only; no torch."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.catalog import directories, records
from holdfast.catalog.ledger import Ledger
from holdfast.catalog.manifest import RunRef, real, run_ref, text
from holdfast.catalog.verify import Damage, Verdict
from holdfast.errors import StoreError
from holdfast.policy.values import Record
from holdfast.store import Entry, Store, temporary_owner

EXTENSION = ".ckpt"


@dataclass(frozen=True)
class Stranger:
    """A file that bears a checkpoint's name and is none of ours, or none any more.

    Args:
        name: Its name in the folder.
        bytes: Its size.
        verdict: Foreign or corrupt.
        why: In a sentence.
        was: The checkpoint that the ledger says was there.
    """

    name: str
    bytes: int
    verdict: Verdict
    why: str
    was: Record | None = None


@dataclass(frozen=True)
class Listing:
    """A folder at one moment.

    Args:
        records: Our checkpoints, oldest first, by run and by order of commits.
        strangers: Files that bear a checkpoint's name and are no checkpoint of ours.
        leftovers: Names of unfinished files.
        names: Every name that is taken in the folder.
        runs: Every run known, by id, with its latest attempt.
        ended: Ids of the runs whose latest attempt ended clean.
        rules: Run to policy name to the rules by which it keeps, as ``Which.to_json`` writes them.
        saved_under: Id of a checkpoint to such rules of its run, by policy name, when it was saved.
        below: Folders of checkpoints below this one: each has a ledger of its own.
    """

    records: tuple[Record, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    leftovers: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    runs: Mapping[str, RunRef] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    rules: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
    saved_under: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
    below: tuple[str, ...] = ()

    def of_run(self, run: str) -> tuple[Record, ...]:
        """The records of one run, oldest first."""
        return tuple(r for r in self.records if r.run == run)

    def newest_run(self) -> str | None:
        """Id of the newest run that has a checkpoint."""
        return self.records[-1].run if self.records else None

    def by_id(self, id: str) -> Record | None:
        """The record of that id."""
        return next((r for r in self.records if r.id == id), None)

    def by_name(self, name: str) -> Record | None:
        """The record that has ``name`` among its names."""
        return next((r for r in self.records if name in r.names), None)


_Identity = tuple[int, int, int]


def identity(entry: Entry) -> _Identity:
    """What tells whether the object behind a name is still the one that was seen: size, time, inode."""
    return (entry.bytes, entry.mtime_ns, entry.inode)


class Folder:
    """A folder of checkpoints. ``scan`` reads; ``ledger`` writes facts.

    Args:
        store: Where the folder is.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ledger = Ledger(store)
        self._records: dict[str, Record] = {}
        self._ids: dict[_Identity, str] = {}
        self._strangers: dict[_Identity, Stranger] = {}
        self._ours: dict[str, str] = {}  # name to the id of what we last put there
        self._pinned: set[str] = set()
        self._labels: dict[str, str] = {}
        self._claims: dict[str, list[str]] = {}
        self._late: dict[str, dict[str, float]] = {}
        self._runs: dict[str, RunRef] = {}
        self._ended: set[str] = set()
        self._rules: dict[str, Mapping[str, list[Any]]] = {}
        self._saved_under: dict[str, Mapping[str, list[Any]]] = {}

    def scan(self) -> Listing:
        """Look at the folder now. Opens only files that neither the ledger nor an earlier scan knows."""
        for fact in self.ledger.read_new():
            try:
                self._learn(fact)
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # a line of another version or by another hand: the manifests are the witness
        files: dict[str, list[Entry]] = {}
        strangers, leftovers, taken = [], [], set()
        entries = directories.folded(self.store, self.store.list())
        below = {e.name.partition("/.holdfast/")[0] for e in entries if "/.holdfast/" in e.name}
        inside = tuple(f"{name}/" for name in below)
        for entry in entries:
            if entry.name.startswith(inside):
                continue  # another folder of checkpoints, below this one: it has its own ledger
            taken.add(entry.name)
            if entry.name.startswith(".holdfast/"):
                continue
            if temporary_owner(entry.name):
                leftovers.append(entry.name)
            elif entry.name.endswith(EXTENSION) or entry.name in self._ours:
                known = self._identify(entry)
                if isinstance(known, Stranger):
                    strangers.append(known)
                elif known is not None:
                    files.setdefault(known, []).append(entry)
        names = {id: self._names(id, entries) for id, entries in files.items()}
        for id, entries in files.items():
            strangers += [_copy(e, names[id][0]) for e in entries if e.name not in names[id]]
        found = sorted((self._record(id, names[id]) for id in files), key=lambda r: r.order)
        return Listing(
            records=tuple(found),
            strangers=tuple(sorted(strangers, key=lambda s: s.name)),
            leftovers=tuple(sorted(leftovers)),
            names=frozenset(taken),
            runs=dict(self._runs),
            ended=frozenset(self._ended),
            rules=dict(self._rules),
            saved_under=dict(self._saved_under),
            below=tuple(sorted(below)),
        )

    @contextmanager
    def exclusive(self, *, deadline: float = 60.0) -> Iterator[None]:
        """Keep other writers' hands off the names in this folder, for the moment that it takes to move some.

        Args:
            deadline: Seconds to wait for another writer.

        Raises:
            StoreError: Another process held on to it for longer (``errno.EBUSY``).
        """
        until, pause = time.monotonic() + deadline, 0.001
        while (lock := self.store.lock(".holdfast/names.lock")) is None:
            if time.monotonic() > until:
                busy = OSError(errno.EBUSY, f"another process has held it for more than {deadline:g} s")
                raise StoreError("lock", ".holdfast/names.lock", busy)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        try:
            yield
        finally:
            lock.release()

    def is_ours(self, name: str) -> bool:
        """Whether the ledger says that we made a file of that name."""
        return name in self._ours

    def _names(self, id: str, entries: list[Entry]) -> tuple[str, ...]:
        """The names of a checkpoint: those that we gave it, and others of the same file. A copy is its maker's."""
        # The alias is the shorter story: a checkpoint's own name comes first where it has one.
        entries = sorted(entries, key=lambda e: (e.name.rpartition("/")[2].startswith("last"), e.name))
        told = {e.inode for e in entries if self._ours.get(e.name) == id}
        if not told and self.store.traits.links:
            told = {entries[0].inode}
        return tuple(e.name for e in entries if not told or e.inode in told)

    def condemn(self, id: str, entries: Iterable[Entry], why: str) -> None:
        """Note that files of a checkpoint were found damaged: by them it ranks no more. They stay."""
        self.ledger.write("damaged", id=id, files=[file_fact(e) for e in entries], why=why)

    def _record(self, id: str, names: tuple[str, ...]) -> Record:
        record = self._records[id]
        return replace(
            record,
            names=names,
            scores={**record.scores, **self._late.get(id, {})},
            policies=tuple(dict.fromkeys([*record.policies, *self._claims.get(id, ())])),
            pinned=id in self._pinned,
            label=self._labels.get(id, record.label),
        )

    def _identify(self, entry: Entry) -> str | Stranger | None:
        """The id of the checkpoint behind a name, or what else it is; None if it went meanwhile."""
        key = identity(entry)
        # A torn ledger may name files of checkpoints that it never told of.
        if self._ids.get(key) in self._records:
            return self._ids[key]
        if key not in self._strangers:
            known = self._open(entry)
            if not isinstance(known, Stranger):
                if known is not None:
                    self._ids[key] = known
                return known
            self._strangers[key] = known
        stranger = self._strangers[key]
        was = self._records.get(self._ours.get(entry.name, ""))
        if stranger.verdict is Verdict.UNREADABLE:
            del self._strangers[key]  # permissions may change, and nothing of this tells: the next scan tries again
        return replace(stranger, name=entry.name, was=was)

    def _open(self, entry: Entry) -> str | Stranger | None:
        try:
            found = directories.manifest_of(self.store, entry.name)
        except Damage as damage:
            return Stranger(entry.name, entry.bytes, Verdict.CORRUPT, str(damage))
        except StoreError as error:
            if directories.entry_of(self.store, entry.name) is None:
                return None
            return Stranger(entry.name, entry.bytes, Verdict.UNREADABLE, error.what.rstrip("."))
        if found is None:
            if entry.name in self._ours:
                why = "the ledger says that Holdfast wrote it, and nothing of that is left"
                return Stranger(entry.name, entry.bytes, Verdict.CORRUPT, why)
            return Stranger(entry.name, entry.bytes, Verdict.FOREIGN, "Holdfast did not write it")
        manifest, size = found
        self._records[manifest.id] = records.project(manifest, bytes=size)
        self._know_run(manifest.run)
        return manifest.id

    def _know_run(self, run: RunRef) -> None:
        known = self._runs.get(run.id)
        if known is None or run.attempt > known.attempt:
            self._runs[run.id] = run

    def _learn(self, fact: Mapping[str, Any]) -> None:
        """Take in one line of the ledger."""
        kind = fact["fact"]
        if kind == "run":
            run = run_ref(fact["run"])
            self._know_run(run)
            self._ended.discard(run.id)
        elif kind == "rules":
            self._rules[fact["run"]] = fact["policies"]
        elif kind == "committed":
            record = records.from_json(fact["record"])
            self._records[record.id] = record
            self._saved_under[record.id] = self._rules.get(record.run, {})
            for file in fact["files"]:
                self._know_file(record.id, file)
        elif kind == "linked":
            self._know_file(fact["id"], fact["file"])
        elif kind == "evicted":
            for name in fact["names"]:
                self._ours.pop(name, None)
        elif kind == "damaged":
            for name, size, mtime_ns, inode in fact["files"]:
                key = (size, mtime_ns, inode)
                self._ids.pop(key, None)
                self._strangers[key] = Stranger(name, size, Verdict.CORRUPT, text(fact["why"]))
                self._ours[name] = text(fact["id"])
        elif kind == "scored":
            scores = {name: real(value) for name, value in fact["scores"].items()}
            self._late.setdefault(fact["id"], {}).update(scores)
        elif kind == "wanted":
            self._claims.setdefault(fact["id"], []).extend(map(text, fact["policies"]))
        elif kind == "pinned":
            self._pinned.add(fact["id"])
        elif kind == "unpinned":
            self._pinned.discard(fact["id"])
        elif kind == "labelled":
            self._labels[fact["id"]] = text(fact["label"])
        elif kind == "ended" and fact["clean"]:
            self._ended.add(fact["run"])

    def _know_file(self, id: str, file: list[Any]) -> None:
        name, size, mtime_ns, inode = file
        self._ids[(size, mtime_ns, inode)] = id
        self._ours[name] = id


def _copy(entry: Entry, of: str) -> Stranger:
    why = f"it is a copy of '{of}' that Holdfast did not make"
    return Stranger(entry.name, entry.bytes, Verdict.FOREIGN, why)


def file_fact(entry: Entry) -> list[Any]:
    """An entry as the ledger writes it."""
    return [entry.name, *identity(entry)]
