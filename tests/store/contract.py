"""What every store must do: a store's own test file subclasses ``StoreContract`` with a ``store`` fixture."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from holdfast import errors
from holdfast.store import Entry, Sink, Store, temporary_name, temporary_owner

BAD_NAMES = ["", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\\b", "..\\a", "a\0b"]
PAYLOAD = bytes(range(256)) * 40

USES_OF_A_NAME = {
    "stat": lambda store, name: store.stat(name),
    "open": lambda store, name: store.open(name),
    "create": lambda store, name: store.create(name, owner="run", size=1),
    "publish": lambda store, name: store.create("fine", owner="run", size=1).publish(name, replace=True),
    "put": lambda store, name: store.put(name, b"x"),
    "append": lambda store, name: store.append(name, b"x\n"),
    "link from": lambda store, name: store.link(name, "fine", replace=True),
    "link to": lambda store, name: store.link("source", name, replace=True),
    "remove": lambda store, name: store.remove(name),
    "lock": lambda store, name: store.lock(name),
}
CHANGES_OF_A_FOLDER = {
    "open": lambda store, name: store.open(name),
    "publish": lambda store, name: store.create("fine", owner="run", size=1).publish(name, replace=True),
    "put": lambda store, name: store.put(name, b"x"),
    "append": lambda store, name: store.append(name, b"x\n"),
    "link from": lambda store, name: store.link(name, "fine", replace=True),
    "link to": lambda store, name: store.link("source", name, replace=True),
    "remove": lambda store, name: store.remove(name),
}


def read(store: Store, name: str) -> bytes:
    """All of an object."""
    with store.open(name) as reader:
        return reader.read_at(0, reader.bytes)


def names(store: Store) -> list[str]:
    """All names, sorted."""
    return sorted(entry.name for entry in store.list())


def written(store: Store, name: str, data: bytes, *, owner: str = "run") -> Sink:
    """A sink that is to become ``name``, with all of ``data`` written to it."""
    sink = store.create(name, owner=owner, size=len(data))
    sink.write_at(0, data)
    return sink


def published(store: Store, name: str, data: bytes) -> Entry:
    """Publish ``data`` as ``name``, in place of what is there."""
    return written(store, name, data).publish(name, replace=True)


def refused(code: int) -> pytest.RaisesExc:
    """A ``StoreError`` with that errno."""
    return pytest.RaisesExc(errors.StoreError, check=lambda error: error.errno == code)


class StoreContract:
    """Each test gets a fresh, empty store that ``prepare`` was not called on."""

    def test_is_a_store(self, store):
        """Every method of the protocol is there."""
        assert isinstance(store, Store)
        assert isinstance(store.root, str)

    def test_a_store_that_was_never_written_to_is_empty_and_not_an_error(self, store):
        """Listing and asking need no preparation; preparing leaves nothing behind, however often."""
        assert names(store) == []
        assert store.stat("a") is None
        store.prepare()
        store.prepare()
        assert names(store) == []

    def test_put_makes_and_replaces(self, store):
        """What is put is read back, and the entry given back is the one that is found later."""
        store.put("folder/a", b"one")
        entry = store.put("folder/a", b"second")
        assert read(store, "folder/a") == b"second"
        assert (entry.name, entry.bytes) == ("folder/a", 6)
        assert [entry] == list(store.list())
        assert store.stat("folder/a") == entry

    def test_an_empty_object_is_an_object(self, store):
        """No bytes at all are kept as well as many."""
        store.put("put", b"")
        published(store, "published", b"")
        assert read(store, "put") == read(store, "published") == b""

    def test_nothing_is_visible_under_the_name_before_it_is_published(self, store):
        """A sink is listed under its temporary name alone, at its full size, and says whose it is."""
        sink = written(store, "folder/a.ckpt", PAYLOAD, owner="run-7")
        assert store.stat("folder/a.ckpt") is None
        [entry] = store.list()
        assert entry.name == sink.temporary == temporary_name("folder/a.ckpt", "run-7")
        assert entry.bytes == len(PAYLOAD)
        assert temporary_owner(entry.name) == "run-7"

    def test_published_bytes_are_read_back(self, store):
        """After publishing, only the final name is left, with every byte in place."""
        entry = published(store, "folder/a.ckpt", PAYLOAD)
        assert read(store, "folder/a.ckpt") == PAYLOAD
        assert list(store.list()) == [entry]
        assert store.stat("folder/a.ckpt") == entry

    def test_threads_write_ranges_in_any_order(self, store):
        """Concurrent writes to ranges that do not overlap all arrive, whatever they are views of."""
        size = 4096
        sink = store.create("a", owner="run", size=8 * size)
        start = threading.Barrier(8)

        def write(part: int) -> None:
            start.wait()
            for offset in range(part * size, (part + 1) * size, 512):
                sink.write_at(offset, memoryview(bytes([part]) * 512).cast("H"))

        threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sink.publish("a", replace=False)
        assert read(store, "a") == b"".join(bytes([part]) * size for part in range(8))

    def test_an_empty_write_changes_nothing(self, store):
        """A tensor without elements has a storage of no bytes."""
        sink = written(store, "a", b"abc")
        sink.write_at(1, b"")
        sink.write_at(3, np.empty((0, 4), np.float32))
        sink.publish("a", replace=False)
        assert read(store, "a") == b"abc"

    def test_publishing_refuses_a_name_that_is_taken(self, store):
        """Without ``replace`` what is there stays, and the sink can be published under a free name."""
        published(store, "a", b"first")
        sink = written(store, "a", b"second")
        with refused(errno.EEXIST):
            sink.publish("a", replace=False)
        assert read(store, "a") == b"first"
        with refused(errno.EBADF):  # its bytes are durable by now; later ones would not be
            sink.write_at(0, b"x")
        sink.publish("folder/b", replace=False)
        assert read(store, "folder/b") == b"second"
        assert names(store) == ["a", "folder/b"]

    def test_publishing_over_an_object_replaces_it(self, store):
        """The name shows the new object; a reader of the old one goes on reading the old one."""
        published(store, "a", b"first")
        with store.open("a") as reader:
            published(store, "a", b"second")
            assert reader.read_at(0, reader.bytes) == b"first"
        assert read(store, "a") == b"second"

    def test_what_is_synced_is_still_to_be_published(self, store):
        """Syncing, once or twice, shows nothing under the name and ends the writing; publishing follows."""
        sink = written(store, "a", PAYLOAD)
        for _ in range(2):
            sink.sync()
            assert names(store) == [sink.temporary]
        with refused(errno.EBADF):
            sink.write_at(0, b"x")
        sink.publish("a", replace=False)
        assert read(store, "a") == PAYLOAD
        with refused(errno.EBADF):
            sink.sync()

    def test_a_discarded_sink_cannot_be_synced(self, store):
        """There is nothing left to make durable, synced before or not."""
        for prepare in (lambda sink: None, lambda sink: sink.sync()):
            sink = written(store, "a", b"a")
            prepare(sink)
            sink.discard()
            with refused(errno.EBADF):
                sink.sync()

    def test_discarding_leaves_nothing(self, store):
        """A discarded sink has no name left, and discarding again does nothing."""
        sink = written(store, "a", PAYLOAD)
        sink.discard()
        sink.discard()
        assert names(store) == []
        with refused(errno.EBADF):
            sink.publish("a", replace=True)

    def test_discarding_after_a_refused_name_leaves_nothing(self, store):
        """The space of a sink that could not be published is given back."""
        published(store, "a", b"first")
        sink = written(store, "a", b"second")
        with refused(errno.EEXIST):
            sink.publish("a", replace=False)
        sink.discard()
        assert names(store) == ["a"]

    def test_discarding_after_publishing_does_nothing(self, store):
        """What is published is not the sink's any more: not to discard, write to or publish again."""
        sink = written(store, "a", b"first")
        sink.publish("a", replace=False)
        sink.discard()
        with refused(errno.EBADF):
            sink.write_at(0, b"x")
        with refused(errno.EBADF):
            sink.publish("b", replace=False)
        assert read(store, "a") == b"first"
        assert names(store) == ["a"]

    def test_a_leftover_of_the_same_owner_is_replaced(self, store):
        """What an earlier life of the owner left does not show in what is published; other owners' stay."""
        written(store, "a", b"left over and long")
        other = written(store, "a", b"other", owner="other")
        published(store, "a", b"new")
        assert read(store, "a") == b"new"
        assert names(store) == sorted(["a", other.temporary])

    def test_a_sink_that_was_taken_over_cannot_be_published(self, store):
        """Of two sinks under one temporary name the elder neither publishes nor discards the younger's."""
        elder = written(store, "a", b"elder")
        younger = written(store, "a", b"younger")
        with refused(errno.ESTALE):
            elder.publish("a", replace=True)
        elder.discard()
        younger.publish("a", replace=True)
        assert read(store, "a") == b"younger"

    def test_a_sink_that_was_swept_touches_nothing_of_its_successor(self, store):
        """Once its temporary object was removed, a sink cannot be published, nor discard a later one's."""
        swept = written(store, "a", b"swept")
        store.remove(swept.temporary)
        with refused(errno.ESTALE):
            swept.publish("a", replace=True)
        successor = written(store, "a", b"successor")
        swept.discard()
        successor.publish("a", replace=False)
        assert read(store, "a") == b"successor"

    def test_put_from_many_threads_leaves_one_whole_object(self, store):
        """Concurrent puts of one name all succeed, and one of them is what is there."""
        start = threading.Barrier(6)
        failures = []

        def put(part: int) -> None:
            start.wait()
            try:
                for _ in range(5):
                    store.put("a", bytes([part]) * 1000)
            except errors.StoreError as error:
                failures.append(error)

        threads = [threading.Thread(target=put, args=(part,)) for part in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert read(store, "a") in [bytes([part]) * 1000 for part in range(6)]
        assert names(store) == ["a"]

    def test_a_link_is_a_second_name(self, store):
        """Both names show the bytes; either outlives the other."""
        first = published(store, "a", b"bytes")
        entry = store.link("a", "folder/b", replace=False)
        assert read(store, "folder/b") == b"bytes"
        assert store.stat("folder/b") == entry
        assert (entry.inode == first.inode) == store.traits.links
        store.remove("a")
        assert read(store, "folder/b") == b"bytes"
        assert names(store) == ["folder/b"]

    def test_a_link_refuses_or_replaces_a_name_that_is_taken(self, store):
        """``replace`` decides, also where both names are of one object already."""
        published(store, "a", b"a")
        published(store, "b", b"b")
        with refused(errno.EEXIST):
            store.link("a", "b", replace=False)
        assert read(store, "b") == b"b"
        for _ in range(2):  # the second time the name is of that very object
            store.link("a", "b", replace=True)
            assert read(store, "a") == read(store, "b") == b"a"
            assert names(store) == ["a", "b"]
        store.link("a", "a", replace=True)
        assert names(store) == ["a", "b"]

    def test_replacing_one_of_two_names_leaves_the_other(self, store):
        """The alias moves on; the checkpoint that it was a name of stays what it was."""
        published(store, "a", b"old")
        store.link("a", "last", replace=False)
        published(store, "b", b"new")
        store.link("b", "last", replace=True)
        assert (read(store, "a"), read(store, "b"), read(store, "last")) == (b"old", b"new", b"new")

    def test_linking_what_is_not_there_fails(self, store):
        """No source, no name."""
        with refused(errno.ENOENT):
            store.link("a", "b", replace=True)
        assert names(store) == []

    def test_lines_are_appended(self, store):
        """Appending makes the object, then adds to it."""
        store.append("folder/log", b"one\n")
        store.append("folder/log", b"two\nthree\n")
        assert read(store, "folder/log") == b"one\ntwo\nthree\n"

    def test_a_torn_line_stays_on_a_line_of_its_own(self, store):
        """What a crash left at the end does not spoil the line that is appended next."""
        store.put("log", b'one\n{"tor')
        store.append("log", b"two\n")
        assert read(store, "log") == b'one\n{"tor\ntwo\n'

    @pytest.mark.parametrize("data", [b"", b"one", b"one\ntwo"])
    def test_what_is_appended_ends_with_a_newline(self, store, data):
        """Anything else is refused before the object is touched."""
        with refused(errno.EINVAL):
            store.append("log", data)
        assert names(store) == []

    def test_what_was_published_is_never_changed_in_place(self, store):
        """Appending to a published object, and locking it, are refused: other names would show it."""
        published(store, "a", b"bytes")
        for change in (lambda: store.append("a", b"x\n"), lambda: store.lock("a")):
            with refused(errno.EACCES):
                change()
        assert read(store, "a") == b"bytes"

    def test_removing(self, store):
        """One name goes and stays gone; one that is not there is no error, nor is one in no folder."""
        store.put("folder/a", b"a")
        store.put("folder/b", b"b")
        for _ in range(2):
            store.remove("folder/a")
            assert names(store) == ["folder/b"]
            assert store.stat("folder/a") is None
        store.remove("missing/a")
        store.remove("folder/b/c")
        assert names(store) == ["folder/b"]

    def test_what_is_open_outlives_its_name(self, store):
        """A reader reads on after the name is removed."""
        published(store, "a", PAYLOAD)
        with store.open("a") as reader:
            store.remove("a")
            assert reader.read_at(5, 9) == PAYLOAD[5:14]

    def test_ranges_are_read_into_memory_of_the_caller(self, store):
        """A range goes where it was wanted, and nowhere else; an empty one reads nothing."""
        published(store, "a", PAYLOAD)
        target = bytearray(b"-" * 12)
        with store.open("a") as reader:
            assert reader.bytes == len(PAYLOAD)
            reader.read_into(3, memoryview(target)[1:11])
            reader.read_into(len(PAYLOAD), memoryview(target)[:0])
            assert reader.read_at(len(PAYLOAD), 0) == b""
        assert target == b"-" + PAYLOAD[3:13] + b"-"

    def test_reading_past_the_end_fails(self, store):
        """Missing bytes are an error that says where the object ends, before any memory is taken."""
        store.put("a", b"12345")
        with store.open("a") as reader:
            for offset, length in [(0, 6), (5, 1), (100, 1), (0, 1 << 60)]:
                with refused(errno.ENODATA) as caught:
                    reader.read_at(offset, length)
                assert "ends at byte 5" in str(caught.value)
            with refused(errno.ENODATA):
                reader.read_into(1, memoryview(bytearray(5)))
            with refused(errno.EINVAL):
                reader.read_at(-1, 1)

    def test_a_reader_sees_the_object_as_long_as_it_was(self, store):
        """What is appended while an object is open is past its end, for either way to read."""
        store.append("log", b"one\n")
        with store.open("log") as reader:
            store.append("log", b"two\n")
            assert reader.read_at(0, reader.bytes) == b"one\n"
            with refused(errno.ENODATA):
                reader.read_at(0, 8)
            with refused(errno.ENODATA):
                reader.read_into(0, memoryview(bytearray(8)))

    def test_a_closed_reader_reads_nothing(self, store):
        """Use after the ``with`` block is an error, not somebody else's bytes."""
        store.put("a", b"12345")
        with store.open("a") as reader:
            pass
        with refused(errno.EBADF):
            reader.read_at(0, 1)

    def test_opening_what_is_not_there_fails(self, store):
        """Missing, and below an object."""
        store.put("a", b"a")
        with refused(errno.ENOENT):
            store.open("b")
        with refused(errno.ENOTDIR):
            store.open("a/b")
        assert store.stat("a/b") is None

    def test_an_object_is_not_a_folder(self, store):
        """Nothing can be put below an object."""
        store.put("a", b"a")
        with refused(errno.ENOTDIR):
            store.put("a/b/c", b"x")
        assert names(store) == ["a"]

    @pytest.mark.parametrize("change", CHANGES_OF_A_FOLDER.values(), ids=CHANGES_OF_A_FOLDER)
    def test_a_folder_is_not_an_object(self, store, change):
        """A folder is neither read, replaced, linked nor removed, and has no entry."""
        store.put("folder/a", b"a")
        store.put("source", b"s")
        with refused(errno.EISDIR):
            change(store, "folder")
        with refused(errno.EISDIR):  # the temporary name is below the name itself
            written(store, "folder/b", b"b").publish("folder", replace=True)
        assert store.stat("folder") is None
        assert read(store, "folder/a") == b"a"

    @pytest.mark.parametrize("use", USES_OF_A_NAME.values(), ids=USES_OF_A_NAME)
    def test_names_stay_below_the_root(self, store, use):
        """A name that could lead outside the store is refused by every operation."""
        store.put("source", b"s")
        for name in BAD_NAMES:
            with refused(errno.EINVAL):
                use(store, name)

    def test_a_lock_is_held_once(self, store):
        """A second taker gets None, even in this process, until it is released; twice is harmless."""
        lock = store.lock("folder/lock")
        assert lock is not None
        assert read(store, "folder/lock").startswith(f"process {os.getpid()}".encode())
        assert store.lock("folder/lock") is None
        lock.release()
        again = store.lock("folder/lock")
        assert again is not None
        lock.release()
        assert store.lock("folder/lock") is None
        again.release()

    def test_a_lock_says_whether_it_is_held(self, store):
        """Until it is released, and also while somebody tries to take it."""
        lock = store.lock("folder/lock")
        assert lock.held()
        assert store.lock("folder/lock") is None
        assert lock.held()
        lock.release()
        assert not lock.held()

    def test_locks_of_two_names_are_two(self, store):
        """Holding one keeps nobody from the other."""
        held = [store.lock("a"), store.lock("b")]
        assert None not in held
        for lock in held:
            lock.release()
