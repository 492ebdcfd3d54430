"""Fill in what docs/cli.md takes from the program: run this file after a change to the commands."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from holdfast.cli import main
from holdfast.cli.exits import MEANINGS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
_HELP = re.compile(r"(```text\n\$ holdfast([^\n]*) --help\n).*?(```\n)", re.DOTALL)
_CODES = re.compile(r"(\| code \| means \|\n\|---\|---\|\n)(\|[^\n]*\n)*")


def filled(page: str) -> str:
    """The page with the help texts and exit codes of the program as it is."""
    page = _HELP.sub(lambda m: f"{m[1]}{help_of(m[2].split())}{m[3]}", page)
    rows = "".join(f"| {int(code)} | {meaning} |\n" for code, meaning in MEANINGS.items())
    return _CODES.sub(lambda m: m[1] + rows, page)


def help_of(verb: list[str]) -> str:
    """What ``--help`` prints."""
    return CliRunner().invoke(main, [*verb, "--help"], prog_name="holdfast", terminal_width=80).output


def keys_of(page: str, section: str) -> set[str]:
    """The JSON keys in the tables of a section."""
    text = page.split(f"## `holdfast {section}`")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_.\[\]]+)` \|[^|]*\|$", text, re.MULTILINE))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
