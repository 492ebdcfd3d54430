"""The same checkpoint file in a second folder: the very file where that can be, else a copy that verifies. No torch."""

from __future__ import annotations

from contextlib import suppress

from holdfast.catalog import directories
from holdfast.catalog.verify import Verdict
from holdfast.errors import Corrupt, StoreError
from holdfast.store import LocalStore, Sink

_CHUNK = 8 << 20


def second(source: LocalStore, there: str, store: LocalStore, name: str, *, owner: str) -> Sink:
    """Begin a checkpoint that is to become ``name``, with the bytes of one that is durable in another folder.

    Args:
        source: That folder.
        there: Its name there.
        store: Where it is to be as well.
        name: What it is to be called.
        owner: The run that writes.

    Returns:
        It, durable but for its name: to be published or discarded.

    Raises:
        StoreError: It cannot be linked, read or written.
        Corrupt: The copy is not what was saved.
    """
    return store.linked(source, there, name, owner=owner) or _copied(source, there, store, name, owner)


def _copied(source: LocalStore, there: str, store: LocalStore, name: str, owner: str) -> Sink:
    with source.open(there) as reader:
        sink = store.create(name, owner=owner, size=reader.bytes)
        try:
            for offset in range(0, reader.bytes, _CHUNK):
                sink.write_at(offset, reader.read_at(offset, min(_CHUNK, reader.bytes - offset)))
            sink.sync()
            found, _ = directories.verify(store, sink.temporary, ours=True)
            if found.verdict is not Verdict.WHOLE:
                raise Corrupt(f"changed while it was copied: {found.why}.", checkpoint=f"{source.root}/{there}")
        except BaseException:
            with suppress(StoreError):
                sink.discard()
            raise
    return sink
