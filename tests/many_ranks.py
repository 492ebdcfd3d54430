"""Run a function on several ranks, each a forked process, and end them all when time is up. Knows no trainer."""

from __future__ import annotations

import importlib
import json
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkserver import Child, ForkServer
from holdfast.strategies.launch import free_port

PATIENCE = 60.0  # seconds; only ever waited out by a test that fails


@dataclass(frozen=True)
class Rank:
    """What one rank left.

    Args:
        code: Its exit code; negative where a signal ended it.
        value: What its function returned, as JSON gives it back; None where it did not return.
        log: What it wrote to its standard streams.
    """

    code: int
    value: Any
    log: str


class Ranks:
    """Starts groups of ranks.

    Args:
        server: Forks them.
        folder: For what they write.
    """

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._runs = 0

    def begin(self, target: str, *arguments: object, size: int, patience: float = PATIENCE) -> Group:
        """Call ``target`` (``module:function``) with plain ``arguments`` on ``size`` ranks.

        Args:
            target: What each of them calls.
            arguments: With what.
            size: How many.
            patience: Seconds after which a rank that still runs is a hang.
        """
        self._runs += 1
        port = free_port()
        logs = [self._folder / f"{self._runs}-{rank}.log" for rank in range(size)]
        return Group(
            [
                self._server.start("many_ranks:become", target, rank, size, port, str(log), *arguments)
                for rank, log in enumerate(logs)
            ],
            logs,
            patience,
        )

    def run(
        self, target: str, *arguments: object, size: int, patience: float = PATIENCE, ok: bool = True
    ) -> list[Rank]:
        """``begin``, and the end of it."""
        return self.begin(target, *arguments, size=size, patience=patience).end(ok=ok)


class Group:
    """Ranks that run.

    Args:
        started: The processes, by rank.
        logs: Where each writes.
        patience: Seconds after which one that still runs is a hang.
    """

    def __init__(self, started: list[Child], logs: list[Path], patience: float) -> None:
        self.started, self._logs, self._patience = started, logs, patience
        self._began = time.monotonic()

    def end(self, *, ok: bool = True) -> list[Rank]:
        """Wait for all; where one hangs, all are killed, and the test fails.

        Args:
            ok: Whether all must end well.
        """
        started, began, size = self.started, self._began, len(self.started)
        running = {os.pidfd_open(child.pid): rank for rank, child in enumerate(started)}
        poll = select.poll()
        for fd in running:
            poll.register(fd, select.POLLIN)
        # Whoever has ended has, however late that is looked at.
        while running and (over := poll.poll(max(0.0, began + self._patience - time.monotonic()) * 1000)):
            for fd, _ in over:
                del running[fd]
                poll.unregister(fd)
                os.close(fd)
        hung = sorted(running.values())
        for fd, rank in running.items():
            started[rank].kill()
            os.close(fd)
        codes = [child.wait() for child in started]
        for child in started:
            child.stdout.close()
        said = [log.with_suffix(".json") for log in self._logs]
        values = [json.loads(path.read_text()) if path.exists() else None for path in said]
        told = [log.read_text() if log.exists() else "" for log in self._logs]
        everything = "\n".join(f"--- rank {rank}\n{text}" for rank, text in enumerate(told))
        assert hung == [], f"ranks {hung} did not end within {self._patience:g} s\n{everything}"
        assert not ok or codes == [0] * size, f"exit codes {codes}\n{everything}"
        return [Rank(*one) for one in zip(codes, values, told, strict=True)]


def become(target: str, rank: int, size: int, port: int, log: str, *arguments: object) -> None:
    """In a child: be one rank of several, as a launcher would have started it."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)  # a pipe that nobody reads would be full at some time
    os.dup2(fd, 2)
    os.close(fd)
    module, _, function = target.partition(":")
    value = getattr(importlib.import_module(module), function)(*arguments)
    Path(log).with_suffix(".json").write_text(json.dumps(value))
