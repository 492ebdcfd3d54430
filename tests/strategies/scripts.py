"""Scripts of users, as ranks run them."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path


def run_each(scripts: str, folder: str, *names: str) -> None:
    """Run each as a user does, one after the other, in a folder of its name.

    Args:
        scripts: Where they are.
        folder: Where theirs are.
        names: Which.
    """
    sys.path.insert(0, scripts)
    for name in names:
        os.chdir(Path(folder, name))
        runpy.run_path(str(Path(scripts, f"{name}.py")), run_name="__main__")
