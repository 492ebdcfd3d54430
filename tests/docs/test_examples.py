"""Every fenced python example in README and docs runs and prints what its page says; commands run too.

The blocks of one page share a namespace and an empty working folder, in the order of the page. An ``output``
block is what the python block before it prints. In ``sh`` blocks the lines that begin with holdfast are run.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "output", "sh", "text"}
FENCE = re.compile(r"^(\s*)```(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its info string, the number of its first line of code, and its text."""

    info: str
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    info, start, lines = None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = FENCE.match(line)
        if fence is None:
            lines.append(line)
        elif info is None:
            assert fence[1] == "", f"{page}:{number}: a fenced block begins in the first column"
            info, start, lines = fence[2], number + 1, []
        else:
            yield Block(info, start, "\n".join(lines) + "\n")
            info = None
    assert info is None, f"{page}: the block at line {start} is not closed"


def run_python(page: Path, block: Block, namespace: dict[str, object]) -> str:
    """What the block prints. The empty lines before the code make a traceback's line the page's."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_commands(block: Block) -> None:
    """Run the lines of a shell block that begin with ``holdfast``."""
    holdfast = Path(sys.executable).with_name("holdfast")
    for line in block.text.splitlines():
        if line.startswith("holdfast "):
            arguments = shlex.split(line, comments=True)[1:]
            done = subprocess.run([holdfast, *arguments], capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_kind_that_is_run_or_is_plain_text(page):
    """No example escapes by an info string of its own, such as ``python no-run``."""
    strange = [f"{name(page)}:{b.line}: {b.info!r}" for b in blocks(page) if b.info not in LANGUAGES]
    assert strange == []


WITH_EXAMPLES = [page for page in PAGES if any(b.info in ("python", "sh") for b in blocks(page))]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_examples_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    """The page's python blocks run, their output is the page's, and its holdfast commands succeed."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    printed = None
    for block in blocks(page):
        place = f"{name(page)}:{block.line}"
        if block.info == "output":
            assert printed is not None, f"{place}: no python block stands right before this output"
            assert printed == block.text, place
        printed = run_python(page, block, namespace) if block.info == "python" else None
        if block.info == "sh":
            run_commands(block)
