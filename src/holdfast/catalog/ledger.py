"""The ledger: an append-only diary beside the checkpoints, one synced line a fact. Never the only witness."""

from __future__ import annotations

import json
import time
from typing import Any

from holdfast.store import Store

LEDGER = ".holdfast/ledger.jsonl"


class Ledger:
    """The diary of one folder.

    Args:
        store: The folder's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read = 0
        self._torn = b""

    def write(self, fact: str, **values: Any) -> None:
        """Append one fact (docs/format.md, "The ledger"), durably.

        Raises:
            StoreError: It could not be written; what was there stands.
        """
        line = json.dumps({"fact": fact, "at": round(time.time(), 3), **values}, separators=(",", ":"))
        self._store.append(LEDGER, line.encode() + b"\n")

    def read_new(self) -> list[dict[str, Any]]:
        """The facts that were appended since the last call, by whichever process.

        A line that is not JSON (torn by a crash) is passed over: what it told is found in the manifests.
        """
        entry = self._store.stat(LEDGER)
        if entry is None or entry.bytes == self._read:
            return []
        if entry.bytes < self._read:  # somebody replaced it: begin again
            self._read, self._torn = 0, b""
        with self._store.open(LEDGER) as reader:
            new = reader.read_at(self._read, entry.bytes - self._read)
        self._read = entry.bytes
        *lines, self._torn = (self._torn + new).split(b"\n")
        facts = []
        for line in lines:
            try:
                fact = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(fact, dict) and isinstance(fact.get("fact"), str):
                facts.append(fact)
        return facts
