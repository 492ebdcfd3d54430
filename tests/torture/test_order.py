"""I2: nothing is deleted before its replacement is durable, and a failed save runs none of its evictions. I7."""

from __future__ import annotations

import errno
import warnings

import pytest

from faults import CHANGING, Call, failing_at, short_writes, watching
from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.engine.engine import Engine, SaveFailedWarning
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress
from holdfast.policy.when import every
from holdfast.policy.which import last
from holdfast.store import LocalStore
from scale import sample
from torture.saver import Saver


@pytest.fixture
def saver(tmp_path):
    """A run whose next save evicts one checkpoint and moves the alias."""
    with Saver(tmp_path) as saver:
        yield saver


def removals(saver, calls):
    """Where in the calls the name of another checkpoint was removed."""
    own = {"last.ckpt", saver.name}
    return [
        place
        for place, call in enumerate(calls.done)
        if call.function == "unlink" and call.target.endswith(".ckpt") and call.target.split("/")[-1] not in own
    ]


def test_what_goes_goes_after_its_replacement_is_durable(saver, tmp_path):
    """Bytes, sync, name, sync of the folder, alias, sync of the folder, ledger, sync: then the first removal."""
    with watching() as calls:
        saver.save()
    opened = [call.target for call in calls.done if call.function == "open"]
    assert not [path for path in opened if path.endswith(".ckpt")], "bytes are written under no checkpoint's name"
    new = tmp_path / saver.name
    file, folder = new.stat().st_ino, tmp_path.stat().st_ino
    diary, evicted = (tmp_path / ".holdfast/ledger.jsonl").stat().st_ino, removals(saver, calls)
    assert len(evicted) == 1

    synced = calls.done.index(Call("fsync", file))
    assert all(place < synced for place, call in enumerate(calls.done) if call == Call("pwrite", file))
    gone = calls.done[evicted[0]]
    assert calls.in_order(
        Call("pwrite", file),
        Call("fsync", file),
        Call("link", str(new)),  # refuses an existing name, as rename does not
        Call("fsync", folder),
        Call("rename", str(tmp_path / "last.ckpt")),
        Call("fsync", folder),
        Call("write", diary),
        Call("fsync", diary),
        gone,
        Call("fsync", folder),
        Call("write", diary),
        Call("fsync", diary),
    )
    assert calls.done.index(Call("link", str(new))) < calls.done.index(Call("fsync", folder))
    assert Call("unlink", str(tmp_path / "last.ckpt")) not in calls.done, "the alias is there at every instant"


def test_a_failed_save_evicts_nothing(saver, tmp_path):
    """Whichever call fails up to the ledger's sync, no other checkpoint's name is removed."""
    with watching() as calls:
        saver.save()
    before = removals(saver, calls)[0]
    assert before > 20
    for number in sample(range(1, before + 1), 20):
        saver.advance()
        there = {path.name for path in tmp_path.glob("*.ckpt")}
        with failing_at(number, errno.EIO, functions=CHANGING) as calls:
            saver.attempt()
        assert calls.failed is not None
        assert removals(saver, calls) == []
        assert there <= {path.name for path in tmp_path.glob("*.ckpt")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SaveFailedWarning)  # test_faults.py looks at what is told
            saver.engine.settle()
        saver.save()


def test_one_save_is_in_flight(saver):
    """I7: a trigger that finds the writer busy waits, so that no second copy of the state piles up."""
    with short_writes(16):  # thousands of writes
        first = saver.begin()
        second = saver.begin()
        assert first.durable
        assert second.record is not None


def test_one_save_is_in_flight_whichever_folder_it_is_of(saver, tmp_path):
    """I7: a run that saves in several folders has one writer, and memory for one save."""
    folder = Folder(LocalStore(tmp_path / "other"))
    folder.store.prepare()
    rules = [Policy("other", every(steps=1), last(1))]
    beside = Engine(folder, runs.begin(folder), rules, saver.engine.mover.state, beside=saver.engine)
    with short_writes(16):  # thousands of writes
        first = saver.begin()
        second = beside.consider(Moment(frozenset({Event.BATCH_END}), Progress(steps=1, batches=1)))
        assert first.durable
        assert second.record is not None
    beside.close(clean=True)
