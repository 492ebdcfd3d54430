"""The page on the command line says what the program says."""

from __future__ import annotations

from cli.cli_page import PAGE, filled, help_of
from holdfast.cli import VERBS


def test_the_page_shows_the_help_and_the_exit_codes_of_now() -> None:
    """Run ``python tests/cli/cli_page.py`` after a change to the commands."""
    page = PAGE.read_text()
    assert filled(page) == page


def test_every_verb_is_on_the_page() -> None:
    """With its help, and a section of its own."""
    page = PAGE.read_text()
    for verb in VERBS:
        assert f"\n## `holdfast {verb}`\n" in page
        assert help_of([verb]) in page
