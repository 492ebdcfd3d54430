"""What a folder holds is found out from names, manifests and ledger, whichever of them are there."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import making
from holdfast.catalog.folder import Folder, file_fact
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.verify import Verdict
from holdfast.errors import StoreError
from holdfast.store import LocalStore, MemoryStore, temporary_name


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "checkpoints")


@pytest.fixture
def folder(store):
    return Folder(store)


def ids(listing):
    return [r.id for r in listing.records]


def steps(listing):
    return [r.progress.steps for r in listing.records]


def image(step=1, **more):
    """All bytes of a checkpoint."""
    return making.image(making.manifest(step, **more))[1]


# Warm, cold, lost and torn


def test_an_empty_or_missing_folder_holds_nothing(folder):
    """Looking makes nothing."""
    listing = folder.scan()
    assert (listing.records, listing.strangers, listing.names, listing.newest_run()) == ((), (), frozenset(), None)
    assert not Path(folder.store.root).exists()


def test_what_was_put_is_listed_by_the_order_of_commits(folder):
    """The order is that of runs and of saves in them, not that of names, times or numbers of steps."""
    first, second = making.run(1), making.run(2)
    for at, (step, run, name) in enumerate([(30, second, "a"), (20, first, "z"), (10, first, "b"), (5, second, "y")]):
        making.put(folder, making.manifest(step, of=run, saved_at=making.SAVED_AT - at), f"{name}.ckpt")
    listing = folder.scan()
    assert [r.names for r in listing.records] == [("b.ckpt",), ("z.ckpt",), ("y.ckpt",), ("a.ckpt",)]
    assert listing.newest_run() == second.id
    assert [r.progress.steps for r in listing.of_run(first.id)] == [10, 20]


@pytest.mark.parametrize("told", [True, False])
def test_the_record_is_the_same_whether_the_ledger_told_it_or_the_file(folder, told):
    """A warm start, a cold start and a start without a ledger see one and the same record."""
    whole = making.manifest(
        7, epoch=2, scores={"loss": 0.25, "acc": float("inf")}, policies=("rules", "best"), label="tag"
    )
    whole = replace(whole, parts={"model": ("state_dict",), "ema": ("b",), "optimizer": ("a",)})
    put = making.put(folder, whole, "a.ckpt", told=told)
    warm = folder.scan().records
    cold = Folder(folder.store).scan().records
    if told:
        folder.store.remove(LEDGER)
    lost = Folder(folder.store).scan().records
    assert warm == cold == lost == (put,)


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_ledger_costs_nothing_but_an_opened_file(folder, cut):
    """Where the line of the last commit is torn, its file tells."""
    records = [making.put(folder, making.manifest(step)) for step in (1, 2)]
    with folder.store.open(LEDGER) as reader:
        raw = reader.read_at(0, reader.bytes)
    folder.store.put(LEDGER, raw[:-cut])
    assert list(Folder(folder.store).scan().records) == records


def test_a_ledger_damaged_anywhere_never_stops_a_scan(folder):
    """Of 300 ledgers with bytes changed, every one leaves all files listed, as records or as what they are."""
    names = {n for step in (1, 2, 3) for n in making.put(folder, making.manifest(step)).names}
    folder.ledger.write("run", run=vars(making.run()), host="h", pid=1)
    folder.ledger.write("scored", id=making.manifest(1).id, scores={"loss": 1.0})
    folder.ledger.write("labelled", id=making.manifest(1).id, label="tag")
    with folder.store.open(LEDGER) as reader:
        raw = reader.read_at(0, reader.bytes)
    dice = random.Random(0)
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        folder.store.put(LEDGER, bytes(damaged))
        listing = Folder(folder.store).scan()
        listed = {n for r in listing.records for n in r.names} | {s.name for s in listing.strangers}
        assert names <= listed


WRONG = {
    "a record without its sequence": lambda f: f["record"].pop("sequence"),
    "a record whose sequence is text": lambda f: f["record"].update(sequence="1"),
    "a record whose place is null": lambda f: f["record"].update(run_ordinal=None),
    "a record whose size is true": lambda f: f["record"].update(bytes=True),
    "a record whose progress is text": lambda f: f["record"].update(progress="7"),
    "a record whose steps are negative": lambda f: f["record"]["progress"].update(steps=-7),
    "a record whose score is text": lambda f: f["record"].update(scores={"loss": "low"}),
    "a record whose score is beyond all floats": lambda f: f["record"].update(scores={"loss": 10**400}),
    "a record whose parts are text": lambda f: f["record"].update(parts="model"),
    "a record whose parts are numbers": lambda f: f["record"].update(parts=[1]),
    "a record whose label is a list": lambda f: f["record"].update(label=["x"]),
    "a record whose id is a list": lambda f: f["record"].update(id=[]),
    "no record": lambda f: f.pop("record"),
    "files that are none": lambda f: f.update(files=[1]),
    "no files": lambda f: f.pop("files"),
    "another kind of fact": lambda f: f.update(fact="later"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_line_of_nonsense_is_passed_over_and_the_file_tells(folder, change):
    """What is wrong in a line of the ledger never reaches a record."""
    put = making.put(folder, making.manifest(5, scores={"loss": 1.0}), "a.ckpt")
    making.put(folder, making.manifest(6))
    with folder.store.open(LEDGER) as reader:
        first, rest = reader.read_at(0, reader.bytes).split(b"\n", 1)
    fact = json.loads(first)
    change(fact)
    folder.store.put(LEDGER, json.dumps(fact).encode() + b"\n" + rest)
    listing = Folder(folder.store).scan()
    assert listing.records[0] == put
    assert steps(listing) == [5, 6]


@pytest.mark.parametrize(
    "run",
    [
        {},
        [],
        {**vars(making.run()), "id": "../x"},
        {**vars(making.run()), "attempt": "2"},
        {**vars(making.run()), "x": 1},
    ],
)
def test_a_run_of_nonsense_does_not_get_between_the_runs(folder, run):
    """A line about a run that is none leaves what the manifests say of it."""
    folder.ledger.write("run", run=run, host="h", pid=1)
    making.put(folder, making.manifest(1, of=making.run(attempt=3)))
    (folder.store.remove(LEDGER),)
    folder.ledger.write("run", run=run, host="h", pid=1)
    assert Folder(folder.store).scan().runs == {making.run().id: making.run(attempt=3)}


# Names


def test_two_names_of_one_file_are_one_checkpoint(folder):
    """With the ledger and without, an alias is grouped with the name it stands for, and comes after it."""
    put = making.put(folder, making.manifest(1), "epoch=0-step=1.ckpt", "last.ckpt")
    assert put.names == ("epoch=0-step=1.ckpt", "last.ckpt")
    assert folder.scan().records == (put,)
    folder.store.remove(LEDGER)
    cold = Folder(folder.store).scan()
    assert cold.records == (put,)
    assert cold.by_name("last.ckpt") == cold.by_id(put.id) == put


def test_a_link_that_was_made_by_hand_is_another_name(folder):
    """A hard link that the ledger does not know is grouped with the file that it is."""
    making.put(folder, making.manifest(1), "a.ckpt")
    os.link(Path(folder.store.root, "a.ckpt"), Path(folder.store.root, "b.ckpt"))
    assert [r.names for r in folder.scan().records] == [("a.ckpt", "b.ckpt")]


@pytest.mark.parametrize("lost", [False, True], ids=["told", "ledger lost"])
def test_a_copy_that_was_made_by_hand_is_not_the_checkpoint(folder, lost):
    """What a user copied aside within the folder is never among the names that an eviction would remove."""
    making.put(folder, making.manifest(1), "epoch=0-step=1.ckpt", "last.ckpt")
    root = Path(folder.store.root)
    shutil.copy2(root / "last.ckpt", root / "keep.ckpt")
    if lost:
        folder.store.remove(LEDGER)
    listing = (Folder(folder.store) if lost else folder).scan()
    assert [r.names for r in listing.records] == [("epoch=0-step=1.ckpt", "last.ckpt")]
    assert [(s.name, s.verdict) for s in listing.strangers] == [("keep.ckpt", Verdict.FOREIGN)]
    assert "copy of 'epoch=0-step=1.ckpt'" in listing.strangers[0].why


def test_aliases_of_a_store_without_links_are_names_all_the_same():
    """Where an alias is a copy that we made, the ledger says so."""
    store = MemoryStore()
    folder = Folder(store)
    whole, file = making.image(making.manifest(1))
    entries = [store.put(name, file) for name in ("a.ckpt", "last.ckpt")]
    assert len({e.inode for e in entries}) == 2
    record = making.records.project(whole, bytes=len(file))
    folder.ledger.write("committed", record=making.records.to_json(record), files=[file_fact(e) for e in entries])
    listing = Folder(store).scan()
    assert [r.names for r in listing.records] == [("a.ckpt", "last.ckpt")]
    assert listing.strangers == ()


def test_a_renamed_file_is_the_same_checkpoint(folder):
    """A file that was moved to another name is listed under that name, and nothing is missed."""
    put = making.put(folder, making.manifest(1), "a.ckpt")
    Path(folder.store.root, "a.ckpt").rename(Path(folder.store.root, "b.ckpt"))
    assert folder.scan().records == (replace(put, names=("b.ckpt",)),)
    assert folder.scan().strangers == ()


def test_a_name_that_moved_on_belongs_to_the_newer_one(folder):
    """``last.ckpt`` is a name of the checkpoint that it stands for now."""
    making.put(folder, making.manifest(1), "a.ckpt", "last.ckpt")
    making.put(folder, making.manifest(2), "b.ckpt", "last.ckpt")
    assert [r.names for r in folder.scan().records] == [("a.ckpt",), ("b.ckpt", "last.ckpt")]
    assert [r.names for r in Folder(folder.store).scan().records] == [("a.ckpt",), ("b.ckpt", "last.ckpt")]


@pytest.mark.parametrize("ledger", [True, False])
def test_a_copied_folder_holds_the_same_checkpoints(folder, tmp_path, ledger):
    """Copied elsewhere with other inodes and times, and even without its ledger, it is the same run."""
    for step in (1, 2):
        making.put(folder, making.manifest(step, scores={"loss": float(step)}))
    folder.ledger.write("pinned", id=making.manifest(1).id)
    shutil.copytree(folder.store.root, tmp_path / "copy")
    if not ledger:
        shutil.rmtree(tmp_path / "copy" / ".holdfast")
    listing = Folder(LocalStore(tmp_path / "copy")).scan()
    assert [replace(r, pinned=True) for r in listing.records] == [
        replace(r, pinned=True) for r in folder.scan().records
    ]
    assert [r.pinned for r in listing.records] == [ledger, False]
    assert listing.runs == {making.run().id: making.run()}


# Strangers and leftovers


def test_a_foreign_file_is_listed_as_what_it_is(folder):
    """A torch zip, a legacy pickle, an empty file: none of them ours, none in the way."""
    making.put(folder, making.manifest(1), "a.ckpt")
    for name, data in (("zip.ckpt", b"PK\x05\x06" + bytes(18)), ("pickle.ckpt", b"\x80\x02}."), ("empty.ckpt", b"")):
        folder.store.put(name, data)
    folder.store.put("notes.txt", image(9))
    listing = folder.scan()
    assert [(s.name, s.verdict) for s in listing.strangers] == [
        (name, Verdict.FOREIGN) for name in ("empty.ckpt", "pickle.ckpt", "zip.ckpt")
    ]
    assert steps(listing) == [1]
    assert "notes.txt" in listing.names


def test_a_damaged_checkpoint_is_corrupt_and_no_record(folder):
    """Cut short, or with its end overwritten, it is listed with what is wrong."""
    whole = image(1)
    folder.store.put("short.ckpt", whole[: len(whole) // 2])
    folder.store.put("end.ckpt", whole[:-30] + bytes(30))
    folder.store.put("manifest.ckpt", whole.replace(b'"sequence":1', b'"sequence":2'))
    listing = folder.scan()
    assert listing.records == ()
    assert {s.name: s.verdict for s in listing.strangers} == dict.fromkeys(
        ("short.ckpt", "end.ckpt", "manifest.ckpt"), Verdict.CORRUPT
    )
    assert all(s.why for s in listing.strangers)


@pytest.mark.parametrize("left", [b"", b"zeros instead" * 100])
def test_a_checkpoint_of_which_nothing_is_left_is_corrupt_because_the_ledger_knows_it(folder, left):
    """What was overwritten whole is no foreign file, and the record that it was is told."""
    put = making.put(folder, making.manifest(1), "a.ckpt")
    Path(folder.store.root, "a.ckpt").unlink()
    folder.store.put("a.ckpt", left)
    for seen in (folder, Folder(folder.store)):
        (stranger,) = seen.scan().strangers
        assert (stranger.name, stranger.verdict) == ("a.ckpt", Verdict.CORRUPT)
        assert stranger.was is not None
        assert stranger.was.id == put.id
        assert seen.is_ours("a.ckpt")


def test_a_checkpoint_damaged_after_it_was_listed_is_noticed_by_its_time(folder):
    """A change in place shows in the file's time, and the file is looked at again."""
    making.put(folder, making.manifest(1), "a.ckpt")
    path = Path(folder.store.root, "a.ckpt")
    assert steps(folder.scan()) == [1]
    making.overwrite(path, path.stat().st_size - 10, b"XXXXXXXXXX")
    assert [s.verdict for s in folder.scan().strangers] == [Verdict.CORRUPT]
    assert folder.scan().records == ()


class Denied(LocalStore):
    """A store with checkpoints of another user's."""

    def open(self, name):
        raise StoreError("open", f"{self.root}/{name}", PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def test_a_file_that_cannot_be_read_is_not_called_corrupt(folder):
    """It may be whole: who may read it, is to find that out."""
    making.put(folder, making.manifest(1), "a.ckpt", told=False)
    (stranger,) = Folder(Denied(folder.store.root)).scan().strangers
    assert stranger.verdict is Verdict.UNREADABLE
    assert stranger.why == f"cannot open '{folder.store.root}/a.ckpt': Permission denied"
    assert steps(folder.scan()) == [1]


def test_what_is_no_file_stops_nothing(folder):
    """A folder that bears a checkpoint's name, or a link to nowhere, does not keep others from being listed."""
    making.put(folder, making.manifest(1), "a.ckpt")
    Path(folder.store.root, "nowhere.ckpt").symlink_to("gone")
    Path(folder.store.root, "folder.ckpt").mkdir()
    assert steps(folder.scan()) == [1]


def test_unfinished_files_are_leftovers_and_nothing_else(folder):
    """A whole checkpoint under a temporary name is no checkpoint."""
    name = temporary_name("a.ckpt", making.run().id)
    folder.store.put(name, image(1))
    listing = folder.scan()
    assert listing.leftovers == (name,)
    assert (listing.records, listing.strangers) == ((), ())
    assert listing.names == {name}


# Late facts


def test_late_scores_pins_labels_and_claims_are_added_to_the_record(folder):
    """What the ledger tells of a checkpoint after its commit is part of the record; the last word counts."""
    put = making.put(folder, making.manifest(1, scores={"loss": 1.0}, policies=("rules",), label="old"))
    tell = folder.ledger.write
    tell("scored", id=put.id, scores={"acc": "nan", "f1": 0.5})
    tell("scored", id=put.id, scores={"f1": 0.75, "loss": 2.0})
    tell("pinned", id=put.id)
    tell("labelled", id=put.id, label="new")
    tell("wanted", id=put.id, policies=["best", "rules"])
    for seen in (folder, Folder(folder.store)):
        (record,) = seen.scan().records
        assert {k: repr(v) for k, v in record.scores.items()} == {"loss": "2.0", "acc": "nan", "f1": "0.75"}
        assert record.pinned
        assert record.label == "new"
        assert record.policies == ("rules", "best")
    tell("unpinned", id=put.id)
    (record,) = folder.scan().records
    assert not record.pinned


@pytest.mark.parametrize(
    "fact",
    [
        {"fact": "scored", "id": 1, "scores": {"loss": True}},
        {"fact": "scored", "scores": {"loss": 1}},
        {"fact": "labelled", "id": making.manifest(1).id, "label": 7},
        {"fact": "wanted", "id": making.manifest(1).id, "policies": [None]},
        {"fact": "wanted", "id": making.manifest(1).id, "policies": 5},
        {"fact": "pinned", "id": {}},
        {"fact": "linked", "id": making.manifest(1).id, "file": ["b.ckpt"]},
        {"fact": "evicted", "id": making.manifest(1).id},
        {"fact": "ended"},
    ],
)
def test_a_late_fact_of_nonsense_changes_nothing(folder, fact):
    """A line with a field missing or of another kind leaves the record as it was."""
    put = making.put(folder, making.manifest(1))
    folder.ledger.write(**fact)
    assert folder.scan().records == (put,)


def test_a_fact_of_a_checkpoint_that_is_gone_is_kept_for_its_return(folder):
    """A pinned checkpoint whose file was moved away and back is still pinned."""
    making.put(folder, making.manifest(1), "a.ckpt")
    folder.ledger.write("pinned", id=making.manifest(1).id)
    path = Path(folder.store.root, "a.ckpt")
    path.rename(path.with_suffix(".away"))
    assert folder.scan().records == ()
    path.with_suffix(".away").rename(path)
    assert [r.pinned for r in folder.scan().records] == [True]


# Runs


def test_runs_are_known_from_the_ledger_and_from_the_manifests(folder):
    """Each run has its latest attempt, whichever of the two told of it."""
    folder.ledger.write("run", run=vars(making.run(1, attempt=2)), host="h", pid=1)
    making.put(folder, making.manifest(1, of=making.run(1, attempt=1)))
    making.put(folder, making.manifest(1, of=making.run(2, attempt=4)), "b.ckpt", told=False)
    folder.ledger.write("run", run=vars(making.run(2, attempt=3)), host="h", pid=1)
    assert folder.scan().runs == {r.id: r for r in (making.run(1, attempt=2), making.run(2, attempt=4))}


def test_a_run_has_ended_until_its_next_attempt_begins(folder):
    """Ended clean is what the latest attempt did."""
    run = making.run()
    folder.ledger.write("run", run=vars(run), host="h", pid=1)
    assert folder.scan().ended == frozenset()
    folder.ledger.write("ended", run=run.id, attempt=1, clean=False)
    assert folder.scan().ended == frozenset()
    folder.ledger.write("ended", run=run.id, attempt=1, clean=True)
    assert folder.scan().ended == {run.id}
    folder.ledger.write("run", run=vars(making.run(attempt=2)), host="h", pid=1)
    assert folder.scan().ended == frozenset()


def test_one_writer_at_a_time_moves_names(folder):
    """While one holds the folder, another waits, and says so when it has waited long enough."""
    waiting = pytest.raises(StoreError, match="another process")
    with folder.exclusive(), waiting, Folder(folder.store).exclusive(deadline=0.05):
        pytest.fail("two writers at once")
    with Folder(folder.store).exclusive(deadline=0.0):
        pass
