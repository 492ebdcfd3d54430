"""The command as a process: what it imports, what it prints where, how it ends, how a terminal shows it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from holdfast.catalog.folder import Folder
from holdfast.policy.which import best
from holdfast.store import LocalStore
from making import image, manifest, put, rules, run

RUN = "import sys; from holdfast.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three checkpoints with scores and rules, and a damaged file."""
    folder = Folder(LocalStore(tmp_path))
    rules(folder, run(), rules=best(3, "validation_loss"))
    for step in (100, 200, 300):
        put(folder, manifest(step, scores={"validation_loss": step / 7}))
    (tmp_path / "damaged-file-with-a-long-name.ckpt").write_bytes(image(manifest(400))[1][:-30])
    return tmp_path


def holdfast(*arguments: object, code: str = RUN, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a child of its own, no terminal anywhere."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def on_terminal(columns: int, *arguments: object, **environment: str) -> str:
    """What the command writes to a terminal that is so wide."""
    ours, theirs = pty.openpty()
    settings = {"COLUMNS": str(columns), "TERM": "xterm", **environment}
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-c", "from holdfast.cli import main; main()", *map(str, arguments)],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**kept, **settings},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side has closed
            break
        written += piece
    os.close(ours)
    child.wait()
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["verify"], ["verify", "--json"]])
def test_no_command_imports_torch(root: Path, arguments: list[str]) -> None:
    """Checkpoints can be looked at where torch is slow or missing; off a terminal, rich is spared too."""
    ran = holdfast(*arguments, root)
    assert ran.returncode == (10 if arguments[0] == "verify" else 0)
    modules = {name.partition(".")[0] for name in ran.stderr.split()}
    assert "holdfast" in modules
    assert modules.isdisjoint({"torch", "numpy", "rich"})


def test_help_and_version_import_little() -> None:
    """Asking what there is takes no time."""
    for asked in ("--help", "--version"):
        ran = holdfast(asked)
        assert ran.returncode == 0
        assert {name.partition(".")[0] for name in ran.stderr.split()}.isdisjoint({"torch", "numpy", "rich"})


def test_an_error_is_one_message_on_stderr(tmp_path: Path) -> None:
    """No traceback, nothing on stdout, and the documented code."""
    ran = holdfast("ls", tmp_path / "typo", code="from holdfast.cli import main; main()")
    assert (ran.returncode, ran.stdout) == (11, "")
    assert ran.stderr == f"Error: There is no folder '{tmp_path / 'typo'}'.\n"


def test_wrong_usage_is_clicks_own_code() -> None:
    """An unknown verb, a missing argument."""
    for arguments in (["list"], ["ls"], ["verify"], ["ls", "--yaml", "x"]):
        assert holdfast(*arguments).returncode == 2


def test_a_terminal_that_knows_few_letters_is_no_crash(root: Path) -> None:
    """What its encoding lacks is written as an escape."""
    (root / "5€.ckpt").write_bytes(b"x")
    ran = holdfast("ls", root, PYTHONIOENCODING="latin-1")
    assert ran.returncode == 0
    assert "5\\u20ac.ckpt" in ran.stdout
    assert "5\\u20ac.ckpt" in on_terminal(200, "ls", root, PYTHONIOENCODING="latin-1")


def test_a_closed_pipe_is_no_traceback(root: Path) -> None:
    """``holdfast ls runs | head -0`` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ran = subprocess.run(
            [sys.executable, "-c", "from holdfast.cli import main; main()", "ls", str(root)],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ran.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["verify"], ["--help"]], ids=" ".join)
def test_output_that_finds_no_space_is_one_sentence(words: list[str], unbuffered: str, root: Path) -> None:
    """``holdfast ls runs > file`` on a full disk: no traceback, and none from Python at the end either."""
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, "-c", "from holdfast.cli import main; main()", *words, str(root)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (ran.returncode, ran.stderr) == (1, "Error: The output cannot be written: No space left on device.\n")


def test_without_a_stdout_the_exit_code_is_the_answer(root: Path) -> None:
    """``holdfast verify runs >&-``"""
    ran = holdfast("verify", root, code="import sys; sys.stdout = None; from holdfast.cli import main; main()")
    assert (ran.returncode, ran.stderr) == (10, "")


def test_verbs_are_entry_points_of_the_package() -> None:
    """The installed script runs the same group."""
    script = Path(sys.executable).with_name("holdfast")
    ran = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.split(",")[0]) == (0, "holdfast")


@pytest.mark.parametrize("columns", [200, 110, 60, 24])
def test_nothing_is_cut_on_a_terminal_of_any_width(root: Path, columns: int) -> None:
    """In a table, folded or in blocks: every letter that a pipe gets is there, in lines that fit."""
    piped = holdfast("ls", root).stdout
    lines = [line.rstrip() for line in on_terminal(columns, "ls", root, NO_COLOR="1").splitlines()]
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(map(len, lines)) <= columns
    body = [line for line in piped.splitlines() if "checkpoint  " not in line]
    assert len(body) == 5
    assert Counter("".join("".join(body).split())) <= Counter("".join("".join(lines).split()))
    if columns == 200:
        assert [line.rstrip() for line in lines] == piped.splitlines()


def test_colour_is_for_terminals_that_want_it(root: Path) -> None:
    """A verdict is coloured on a terminal, and not with NO_COLOR."""
    assert "\x1b[1;31mcorrupt" in on_terminal(200, "verify", root)
    assert "\x1b[1;31m" not in on_terminal(200, "verify", root, NO_COLOR="1")


def test_python_m_holdfast_is_the_command(root):
    """Where the script is not on the path."""
    said = subprocess.run(
        [sys.executable, "-m", "holdfast", "ls", root], capture_output=True, text=True, check=True
    ).stdout
    assert "validation_loss" in said
