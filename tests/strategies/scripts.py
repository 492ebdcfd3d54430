"""Scripts of users, as ranks run them."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path


def run_script(script: str, folder: str) -> None:
    """Run a script as a user does, in a folder."""
    os.chdir(folder)
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
