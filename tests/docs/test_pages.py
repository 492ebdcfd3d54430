"""What README and docs name exists, what is public is named there, and the format page says what is written."""

from __future__ import annotations

import ast
import json
import re
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

import holdfast
from holdfast.catalog.layout import FORMAT_ENTRY, MANIFEST_ENTRY, OPAQUE_ENTRY, PICKLE_ENTRY, PREFIX
from holdfast.catalog.manifest import Manifest, RunRef
from holdfast.policy.values import Progress

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FORMAT = ROOT / "docs" / "format.md"
NAMED = re.compile(r"\b((?:tests|src|examples|benchmarks)/[\w/.-]+\.py)(::(test_\w+))?")
SOURCES = sorted((ROOT / "src" / "holdfast").rglob("*.py"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, cell by cell, without its head."""
    section = page.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def quoted(cell: str) -> list[str]:
    """The words of a cell that stand between backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_tree_leads_somewhere(page):
    """Relative links name a file that is there, and anchors a heading of it."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_test_and_file_that_a_page_names_exists(page):
    """``tests/…py::test_…`` is a test there is, and ``tests/…py`` and its like a file there is."""
    missing = []
    for path, _, test in NAMED.findall(page.read_text()):
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text()):
            missing.append(f"{path}::{test}" if test else path)
    assert missing == []


def test_every_public_name_is_in_the_docs():
    """What ``import *`` gives is explained somewhere: in README or in docs, as code."""
    written = " ".join(page.read_text() for page in PAGES)
    assert [n for n in holdfast.__all__ if not re.search(rf"[`.\s(]{n}\b", written)] == []


def test_the_manifests_keys_are_those_of_the_format_page():
    """Each key of a manifest has its row, each row its key; so have the run's and the progress's."""
    rows = {quoted(key)[0]: text for key, _, text in table(FORMAT, "The manifest")}
    manifest = json.loads(Manifest(id="0" * 32, run=RunRef("1" * 32), sequence=1, progress=Progress()).to_bytes())

    assert set(manifest) == set(rows)
    assert set(manifest["run"]) == set(quoted(rows["run"]))
    assert set(manifest["progress"]) == set(quoted(rows["progress"]))


def test_a_checkpoints_entries_are_those_of_the_format_page_in_its_order(tmp_path):
    """A checkpoint with tensors and opaque state has every entry of the table, and no other."""
    state = {"opaque": holdfast.Progress(), "plain": [1.0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with holdfast.Checkpointer(tmp_path, when=holdfast.never()) as ckpt:
            ckpt.resume(extra=state)
            ckpt.step()
    with zipfile.ZipFile(tmp_path / "last.ckpt") as archive:
        found = archive.namelist()

    storages = [entry for entry in found if entry.startswith(f"{PREFIX}data/")]
    assert storages == [f"{PREFIX}data/{k}" for k in range(len(storages))]
    assert storages, "the random state holds tensors"
    once = [e for e in found if e not in storages[1:]]
    documented = [quoted(row[0])[0].replace("data/K", "data/0") for row in table(FORMAT, "The file")]
    assert once == documented
    assert {FORMAT_ENTRY, PICKLE_ENTRY, OPAQUE_ENTRY, MANIFEST_ENTRY} <= set(documented)


def test_the_ledgers_facts_are_those_of_the_format_page():
    """Each fact that the code writes or understands has its row; each row is written or understood."""
    written, understood = facts_written(), facts_understood()
    documented = {fact for row in table(FORMAT, "The ledger") for fact in quoted(row[0])}

    assert documented == set(written) | understood


def test_a_facts_keys_are_those_of_the_format_page():
    """Where the code writes a fact, it writes the keys of its row."""
    rows = {fact: set(quoted(row[1])) for row in table(FORMAT, "The ledger") for fact in quoted(row[0])}
    written = facts_written()

    assert {fact: rows[fact] for fact in written} == written


def facts_written() -> dict[str, set[str]]:
    """Fact to the keys it is written with, from every ``….ledger.write("fact", key=…)`` in the source."""
    written: dict[str, set[str]] = defaultdict(set)
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ledger.write"):
                facts = [c.value for c in ast.walk(node.args[0]) if isinstance(c, ast.Constant)]
                assert facts, f"{source}:{node.lineno}: the fact is not written out"
                for fact in facts:
                    written[fact] |= {key for keyword in node.keywords for key in keys_of(keyword, tree)}
    return dict(written)


def keys_of(keyword: ast.keyword, tree: ast.Module) -> set[str]:
    """The name of an argument; of ``**values`` the keys of the dictionary that is called so in the module."""
    if keyword.arg is not None:
        return {keyword.arg}
    name = ast.unparse(keyword.value)
    assigned = [n.value for n in ast.walk(tree) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name]
    (value,) = [v for v in assigned if isinstance(v, ast.Dict)]
    return {key.value for key in value.keys if isinstance(key, ast.Constant)}


def facts_understood() -> set[str]:
    """What the reader of the ledger compares a fact with."""
    tree = ast.parse((ROOT / "src" / "holdfast" / "catalog" / "folder.py").read_text())
    compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and ast.unparse(n.left) == "kind"]
    return {c.value for n in compared for c in ast.walk(n) if isinstance(c, ast.Constant)}
