"""Scripts of users, one after the other in one process: what takes longest is to load what they need."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import traceback
from pathlib import Path


def run_each(scripts: str, folder: str, *names: str) -> None:
    """Run each as a user does, in a folder of its name.

    Args:
        scripts: Where they are.
        folder: Where theirs are made; ``NAME.out`` is there too, with what it printed, and its traceback.
        names: Which.
    """
    sys.path.insert(0, scripts)
    for name in names:
        home = Path(folder, name)
        home.mkdir()
        os.chdir(home)
        with Path(folder, f"{name}.out").open("w") as out, contextlib.redirect_stdout(out):
            try:
                runpy.run_path(str(Path(scripts, f"{name}.py")), run_name="__main__")
            except Exception:
                traceback.print_exc(file=out)
