"""Pains of users with other trainers' pages: words that are not told apart, and text that nobody has run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def rows(page, heading):
    """The rows of the first table under a heading, cell by cell, without its head."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[2:]]


def test_pain_66_one_table_tells_the_words_apart():
    """What a user wants, then the word for it; all of those that are mixed up elsewhere."""
    words = " ".join(word for _, word, _ in rows("trainer.md", "Which of these words do I need"))
    wanted = ["ckpt_path", "load_from_checkpoint", "resume_from_checkpoint", "save_weights_only", "weights_only=False"]
    assert [word for word in wanted if word not in words] == []


@pytest.mark.parametrize("page", ["trainer.md", "compatibility.md"])
def test_pain_67_what_a_page_promises_names_the_test_that_holds_it(page):
    """No row of a table with that column is without one; that each exists is another test's matter."""
    text = (DOCS / page).read_text()
    held, columns, checked = [], 0, 0
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[-1] == "held by":
            columns = len(cells)
        elif not cells:
            columns = 0
        elif columns and not set(line) <= set("|- "):
            checked += 1
            held += [] if len(cells) == columns and re.search(r"`tests/[\w/]+\.py::test_", cells[-1]) else [line]
    assert held == []
    assert checked >= 8
