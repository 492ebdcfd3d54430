"""Keep bytes under names: what a store is, and the stores there are. Bytes and names only, no checkpoint."""

from holdfast.store.base import (
    LINKER,
    PROBE,
    REMOVER,
    Entry,
    FolderStore,
    Lock,
    Reader,
    Sink,
    Store,
    Traits,
    temporary_name,
    temporary_owner,
)
from holdfast.store.local import LocalStore
from holdfast.store.memory import MemoryStore

__all__ = [
    "Store",
    "FolderStore",
    "Traits",
    "Entry",
    "Reader",
    "Sink",
    "Lock",
    "LocalStore",
    "MemoryStore",
    "LINKER",
    "PROBE",
    "REMOVER",
    "temporary_name",
    "temporary_owner",
]
