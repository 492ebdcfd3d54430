"""Ratchets: the layers of the code, and every name that users, scripts and files have come to rely on."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import holdfast
from holdfast import cli
from holdfast.catalog.manifest import Manifest, RunRef
from holdfast.policy.values import Progress
from mutations import MUTATIONS, PAGE, render

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "holdfast"
FORMAT_PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")

# A module imports from its own floor and from those below it. The command line reads folders: it stands on the catalog.
FLOORS = {
    "errors": 0, "_version": 0, "log": 0, "policy": 0,
    "store": 1,
    "catalog": 2,
    "engine": 3, "formats": 3, "cli": 3, "__main__": 3,
    "state": 4,
    "strategies": 5,
    "checks": 6, "resumed": 6, "sources": 6, "reading": 6, "checkpointer": 6, "seed": 6,
    "training": 7, "callbacks": 7, "loggers": 7, "profilers": 7,
    "compat": 8, "testing": 8,
}  # fmt: skip
NOTHING_BUT_STDLIB = {"policy", "errors", "log", "_version"}
WITHOUT_TORCH = {"policy", "store", "catalog", "cli", "errors", "log"}

PUBLIC = [
    "Checkpointer",
    "Trainer", "LightningModule", "LightningDataModule", "Callback", "seed_everything",
    "every", "at", "never",
    "best", "last", "everything", "nothing", "pinned",
    "full", "weights_only", "trainable_only",
    "Event", "Progress",
    "MemoryStore",
    "HoldfastError", "ConfigError", "CheckpointError", "NotFound", "Corrupt", "Unreadable", "Foreign", "Incompatible",
    "SaveFailed", "StoreError", "RankError", "SaveFailedWarning", "OpaqueStateWarning",
    "__version__",
]  # fmt: skip

MANIFEST_KEYS = {
    "format", "id", "run", "sequence", "progress", "metrics", "parts", "what", "policies", "reason", "label",
    "tallies", "saved_at", "tensors", "entries", "opaque", "groups", "types", "versions", "healthy",
}  # fmt: skip
RUN_KEYS = {"id", "parent", "ordinal", "attempt"}
PROGRESS_KEYS = {"epoch", "batch", "complete", "batches", "steps", "samples"}

FACTS = {
    "run": {"run", "host", "pid"},
    "rules": {"run", "policies"},
    "resumed": {"run", "attempt", "id", "name"},
    "committed": {"record", "files"},
    "damaged": {"id", "files", "why"},
    "linked": {"id", "file"},
    "wanted": {"id", "policies"},
    "scored": {"id", "scores"},
    "labelled": {"id", "label"},
    "failed": {"run", "sequence", "error"},
    "evicted": {"id", "names", "reason"},
    "ended": {"run", "attempt", "clean"},
}
FACTS_OF_USERS = {"pinned": {"id"}, "unpinned": {"id"}}  # read; written by hand, until a verb does

VERBS = {
    "ls": {"DIR", "--json"},
    "verify": {"PATH...", "--json"},
    "convert": {"SRC", "DST", "--shards"},
    "run": {"SCRIPT|-m MODULE [ARGUMENT]..."},
}


def modules():
    """Each module's dotted name below ``holdfast``, and its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Every module that is imported anywhere in a tree, in functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home(module):
    """The part of the package that a module is in."""
    return module.split(".")[0]


def within(name):
    """The part of the package that an import is of; None for another package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "holdfast" and len(parts) > 1 else None


def test_imports_point_down():
    """No module imports from a floor above its own; every module has a floor."""
    upward = [
        f"{module} imports {name}"
        for module, tree in modules()
        if module != "__init__"
        for name in imported(tree)
        if (part := within(name)) is not None and FLOORS.get(part, 99) > FLOORS[home(module)]
    ]
    assert upward == []


def test_deciding_needs_nothing_but_the_standard_library():
    """Policies import no other package, and nothing of ours but values and errors."""
    foreign = [
        f"{module} imports {name}"
        for module, tree in modules()
        if home(module) in NOTHING_BUT_STDLIB
        for name in imported(tree)
        if name.split(".")[0] not in sys.stdlib_module_names and within(name) not in ("policy", "errors")
    ]
    assert foreign == []


def test_what_reads_folders_never_imports_torch():
    """Not in a function either: listing and verifying work where there is no torch."""
    heavy = [
        f"{module} imports {name}"
        for module, tree in modules()
        if home(module) in WITHOUT_TORCH
        for name in imported(tree)
        if name.split(".")[0] in ("torch", "numpy", "lightning")
    ]
    assert heavy == []


def test_only_stores_meet_the_operating_systems_errors():
    """There is one place of translation: nobody else catches OSError, but for what is not a store's."""
    catching = [
        module
        for module, tree in modules()
        if home(module) in ("policy", "catalog", "engine", "strategies", "sources", "checks", "reading", "checkpointer")
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        for name in ast.walk(node.type)
        if isinstance(name, ast.Name) and name.id in ("OSError", "IOError", "EnvironmentError")
    ]
    assert catching == []


def test_importing_holdfast_imports_no_other_package():
    """It is quick, and works where torch does not; the command line's verbs need no torch either."""
    program = (
        "import sys, importlib\n"
        "import holdfast\n"
        "heavy = {'torch', 'numpy', 'rich', 'click', 'yaml', 'lightning'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from holdfast import cli\n"
        "for verb in cli.VERBS: cli.main.get_command(None, verb)\n"
        "print(sorted({'torch', 'numpy', 'lightning'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_public_names_are_these():
    """Taking one away breaks programs; a new one is a promise. Each can be had."""
    assert holdfast.__all__ == PUBLIC
    assert [name for name in PUBLIC if getattr(holdfast, name, None) is None] == []


def table(heading):
    """The rows of the first table below a heading of the format page, as lists of cells."""
    section = FORMAT_PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def words(cell):
    """The words in backquotes of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def test_the_keys_of_a_manifest_are_these():
    """In the code, in this list and on the page: files that exist have them."""
    written = json.loads(Manifest(id="0" * 32, run=RunRef("1" * 32), sequence=1, progress=Progress()).to_bytes())
    assert set(written) == MANIFEST_KEYS
    assert set(written["run"]) == RUN_KEYS
    assert set(written["progress"]) == PROGRESS_KEYS
    rows = {words(row[0])[0]: row[2] for row in table("The manifest")}
    assert set(rows) == MANIFEST_KEYS
    assert set(words(rows["run"])) >= RUN_KEYS
    assert set(words(rows["progress"])) == PROGRESS_KEYS


def facts_written():
    """The facts that the code writes into ledgers, and the keys that it gives them by name."""
    found: dict[str, set[str]] = {}
    for _, tree in modules():
        for node in ast.walk(tree):
            is_write = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write"
            if is_write and isinstance(node.func.value, ast.Attribute) and node.func.value.attr == "ledger":
                keys = {keyword.arg for keyword in node.keywords if keyword.arg}
                found.setdefault(node.args[0].value, set()).update(keys)
    return found


def test_the_facts_of_a_ledger_are_these():
    """In the code, in this list and on the page: ledgers that exist have them."""
    written = facts_written()
    assert set(written) == set(FACTS)
    assert all(written[fact] <= keys for fact, keys in FACTS.items())
    told = {fact: set(words(row[1])) for row in table("The ledger") for fact in words(row[0])}
    assert told == {**FACTS, **FACTS_OF_USERS}


def test_verbs_and_flags_are_these():
    """Scripts call them."""
    assert set(cli.VERBS) == set(VERBS)
    for verb, expected in VERBS.items():
        command = cli.main.get_command(click.Context(cli.main), verb)
        taken = {
            name
            for parameter in command.params
            for name in ([parameter.metavar] if isinstance(parameter, click.Argument) else parameter.opts)
        }
        assert taken == expected


@pytest.mark.parametrize("folder", [f for f in FLOORS if (SOURCE / f).is_dir()])
def test_rooms_stay_small(folder):
    """A file of more than 400 lines wants to be two things; at 450 it has to."""
    long = {p.name: n for p in (SOURCE / folder).rglob("*.py") if (n := len(p.read_text().splitlines())) > 450}
    assert long == {}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.invariant} {mutation.broken}")
def test_the_line_that_keeps_an_invariant_and_its_test_are_there(mutation):
    """Each where mutations.md says, once; ``make torture`` shows that the test fails without the line."""
    assert (SOURCE / mutation.file).read_text().count(mutation.line) == 1
    path, _, name = mutation.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()


def test_the_page_of_mutations_is_written_anew():
    """mutations.md says what ``python tests/mutations.py --write`` would write."""
    assert PAGE.read_text() == render()


def test_every_invariant_has_a_mutation():
    """I1 to I10."""
    assert {mutation.invariant for mutation in MUTATIONS} == {f"I{number}" for number in range(1, 11)}
