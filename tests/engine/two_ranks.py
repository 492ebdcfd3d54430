"""Start a script twice, as two ranks of one group, and hear what each saw."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def run_two(folder: Path, script: str, *arguments: Path, codes: Sequence[int] = (0, 0)) -> list[Any]:
    """What each rank wrote, by rank; they must end with these exit codes.

    Args:
        folder: Where they write; each gets the path of a JSON file in it, then ``arguments``.
        script: A file beside this one.
        arguments: For the script.
        codes: By rank.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    children = []
    for rank in range(2):
        with (folder / f"{rank}.log").open("wb") as log:
            command = [sys.executable, HERE / script, folder / f"{rank}.json", *arguments]
            environment = {**os.environ, **shared, "RANK": str(rank)}
            children.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        ended = [child.wait(timeout=200) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    logs = "\n".join((folder / f"{rank}.log").read_text() for rank in range(2))
    assert ended == list(codes), logs
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
