"""The ledger gives back the facts that were written, and passes over what a crash or another hand left in it."""

from __future__ import annotations

import json

import pytest

from holdfast.catalog.ledger import LEDGER, Ledger
from holdfast.store import LocalStore, MemoryStore


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path)


def kinds(facts):
    return [fact["fact"] for fact in facts]


def test_what_was_written_is_read_once_and_in_order(store):
    """Each call gives what is new since the one before, whoever wrote it."""
    ledger, other = Ledger(store), Ledger(store)
    assert ledger.read_new() == []
    ledger.write("pinned", id="a")
    other.write("scored", id="b", scores={"loss": 0.5})
    first = ledger.read_new()
    assert [{k: v for k, v in f.items() if k != "at"} for f in first] == [
        {"fact": "pinned", "id": "a"},
        {"fact": "scored", "id": "b", "scores": {"loss": 0.5}},
    ]
    assert ledger.read_new() == []
    other.write("unpinned", id="a")
    assert kinds(ledger.read_new()) == ["unpinned"]
    assert kinds(other.read_new()) == ["pinned", "scored", "unpinned"]


def test_each_fact_is_one_line_with_a_time(store):
    """Line breaks in values do not break lines; ``at`` is in seconds since 1970."""
    Ledger(store).write("labelled", id="a", label="two\nlines \u2028 and \x85 more")
    with store.open(LEDGER) as reader:
        raw = reader.read_at(0, reader.bytes)
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert json.loads(raw)["at"] > 1_700_000_000
    assert Ledger(store).read_new()[0]["label"] == "two\nlines \u2028 and \x85 more"


@pytest.mark.parametrize("keep", [1, 10, -2, -1])
def test_a_torn_last_line_is_passed_over_and_the_next_one_is_not(store, keep):
    """After a crash in the middle of a line, whole lines before and after it are read."""
    ledger = Ledger(store)
    ledger.write("pinned", id="a")
    with store.open(LEDGER) as reader:
        line = reader.read_at(0, reader.bytes)
    store.put(LEDGER, line + line[:keep])
    torn = Ledger(store)
    assert kinds(torn.read_new()) == ["pinned"]
    Ledger(store).write("unpinned", id="a")
    assert kinds(torn.read_new())[-1:] == ["unpinned"]
    assert kinds(Ledger(store).read_new())[-1:] == ["unpinned"]


def test_a_line_that_is_read_while_it_is_written_is_read_whole_later(store):
    """Half a line is no fact yet; when the other half is there, it is one."""
    line = b'{"fact":"pinned","id":"a","at":1}\n'
    store.put(LEDGER, line + line[:12])
    reader = Ledger(store)
    assert kinds(reader.read_new()) == ["pinned"]
    store.put(LEDGER, line + line)
    assert kinds(reader.read_new()) == ["pinned"]


def test_a_ledger_that_was_replaced_by_a_shorter_one_is_read_from_the_beginning(store):
    """A place in the old one means nothing in the new one."""
    ledger = Ledger(store)
    for _ in range(3):
        ledger.write("pinned", id="a")
    assert len(ledger.read_new()) == 3
    store.put(LEDGER, b'{"fact":"unpinned","id":"a"}\n')
    assert kinds(ledger.read_new()) == ["unpinned"]


NONSENSE = {
    "binary": bytes(range(256)).replace(b"\n", b""),
    "no JSON": b"hello",
    "a list": b'["fact"]',
    "a number": b"17",
    "no fact": b'{"id":"a"}',
    "a fact that is no text": b'{"fact":1}',
    "deep": b"[" * 200_000,
    "deep that ends": b'{"fact":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "many digits": b'{"fact":"pinned","id":' + b"9" * 5000 + b"}",
    "cut UTF-8": b'{"fact":"pinned","id":"\xc3"}',
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("line", NONSENSE.values(), ids=NONSENSE.keys())
def test_a_line_that_is_no_fact_hides_no_other(store, line):
    """Whatever stands in a line, those before and after it are read."""
    good = b'{"fact":"pinned","id":"a"}\n'
    store.put(LEDGER, good + line + b"\n" + good)
    facts = Ledger(store).read_new()
    assert [f["id"] for f in facts if f.get("id") == "a"] == ["a", "a"]
    assert len(facts) == 2
