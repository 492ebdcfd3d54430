"""Run an example, kill it with SIGKILL in the middle of an epoch, run the same command again, and list its folder.

Usage: python examples/kill_and_resume.py examples/digits_loop.py
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

KILL_AFTER = "epoch 12 done"


def main(script: str) -> None:
    """Train, kill, train again, list."""
    folder = Path("runs") / Path(script).stem
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, script, "--dir", str(folder)]

    print(f"$ {' '.join(command)}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="")
            if line.startswith(KILL_AFTER):
                run.send_signal(signal.SIGKILL)
                break
    print(f"--- killed with SIGKILL in the next epoch (exit status {run.returncode}); the same command again ---")

    print(f"$ {' '.join(command)}")
    subprocess.run(command, check=True)
    print(f"$ holdfast ls {folder}", flush=True)
    subprocess.run([Path(sys.executable).parent / "holdfast", "ls", folder], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
