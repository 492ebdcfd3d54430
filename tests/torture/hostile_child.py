"""Look at every file of a folder as Holdfast does, and tell what came of it, what it ran and what memory it took.

One process for all files. A line of JSON for each: ``name``, ``verdict`` of verify, ``read`` (the error's class, or
``loaded``), ``why``, ``ran`` (events of the interpreter that no load may cause), ``grown`` (bytes), ``seconds``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch

from holdfast.catalog.verify import verify
from holdfast.engine.reader import CheckpointFile
from holdfast.errors import HoldfastError
from holdfast.store import LocalStore

ROOM = (
    4 * 2**30
)  # of address space, beyond what the interpreter and torch have taken: a bomb ends the test, not the host
FORBIDDEN = ("pickle.", "os.", "exec", "compile", "import", "subprocess.", "socket.", "ctypes.", "marshal.", "shutil.")
HARMLESS = ("os.listdir", "os.scandir")

heard: list[str] = []


def listen(event: str, args: tuple) -> None:
    """Note what a program does that only a program does."""
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or (event.startswith(FORBIDDEN) and event not in HARMLESS):
        heard.append(f"{event} {args!r:.100}")


def kilobytes(field: str) -> int:
    """A line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def read(store: LocalStore, name: str) -> tuple[str, str, str]:
    """The verdict of verify, and what every way to read gives."""
    with store.open(name) as reader:
        try:
            found = verify(reader)
            verdict, why = found.verdict.value, found.why
        except HoldfastError as error:
            verdict, why = type(error).__name__, str(error)
        try:
            file = CheckpointFile(reader, name=name)
            file.parts(list(file.manifest.parts))
            file.parts(list(file.manifest.parts), location=None)
            file.whole()
        except HoldfastError as error:
            return verdict, type(error).__name__, f"{why} | {error}"
    return verdict, "loaded", why


def main(folder: str) -> None:
    """Tell of every file, the harmless one that warms up what is imported late first."""
    store = LocalStore(folder)
    read(store, "harmless.ckpt")
    torch.manual_seed(0)
    limit = kilobytes("VmSize") * 1024 + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(listen)
    for name in sorted(entry.name for entry in store.list()):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = kilobytes("VmRSS")
        heard.clear()
        begun = time.perf_counter()
        try:
            verdict, outcome, why = read(store, name)
        except Exception as error:  # what no reader may raise is what the test is to see
            verdict, outcome, why = "", f"raised {type(error).__name__}", str(error)
        seconds, ran = time.perf_counter() - begun, list(heard)
        told = {"name": name, "verdict": verdict, "read": outcome, "why": why[:2000], "ran": ran}
        told |= {"grown": (kilobytes("VmHWM") - before) * 1024, "seconds": seconds}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
