"""``holdfast ls`` over real folders: what is shown, in which order, and as which JSON."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.cli_page import PAGE, keys_of
from holdfast import log
from holdfast.catalog import records
from holdfast.catalog.folder import Folder
from holdfast.cli import main, text
from holdfast.policy.which import best, last
from holdfast.store import LocalStore
from making import SAVED_AT, image, manifest, put, rules, run

UNFINISHED = f".epoch=3-step=300.ckpt.{run().id}.tmp"


def ls(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ls", *map(str, arguments)])


def document(directory: Path) -> dict[str, Any]:
    result = ls(directory, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(LocalStore(tmp_path))


@pytest.fixture
def full(folder: Folder, tmp_path: Path) -> Path:
    """Two runs, an alias, a foreign and a corrupt file, and an unfinished one."""
    put(folder, manifest(100, of=run(1), scores={"val_loss": 0.9}))
    rules(folder, run(2), rules=best(2, "val_loss"), last=last(1))
    put(folder, manifest(100, of=run(2), scores={"val_loss": 0.5}), "b.ckpt")
    newest = manifest(1200, of=run(2), epoch=1, scores={"val_loss": 0.25}, policies=("rules", "last"))
    put(folder, newest, "a.ckpt", "last.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"not ours")
    (tmp_path / "cut.ckpt").write_bytes(image(manifest(1300))[1][:-30])
    (tmp_path / UNFINISHED).write_bytes(b"half")
    return tmp_path


def test_a_row_says_all_of_a_checkpoint(full: Path) -> None:
    """One line each, oldest run first; own name before the alias; strangers and the unfinished below."""
    lines = ls(full).output.splitlines()
    assert re.split("  +", lines[0]) == [
        *("checkpoint", "run", "step", "epoch", "scores", "age", "size", "kept because", "goes")
    ]
    first, second, third = (re.split("  +", line) for line in lines[1:4])
    assert first[:2] == ["epoch=0-step=100.ckpt", "11111111"]
    assert "of an earlier run" in lines[1]
    assert second[:2] == ["b.ckpt", "22222222"]
    assert lines[2].endswith("2nd of 2 best by val_loss (min): 0.5         next")
    assert third[:5] == [
        "a.ckpt, last.ckpt",
        "22222222",
        "1,200",
        "1",
        "val_loss 0.25",
    ]
    assert "1st of 2 best by val_loss (min): 0.25; last" in lines[3]
    assert not lines[3].endswith("next")
    below = [line.split(maxsplit=4) for line in lines[6:8]]
    assert below[0][:2] == ["cut.ckpt", "corrupt"]
    assert below[1][:2] == ["other.ckpt", "foreign"]
    assert lines[-2].startswith("unfinished")
    assert lines[-1] == UNFINISHED


def test_columns_that_would_say_nothing_are_left_out(folder: Folder, tmp_path: Path) -> None:
    """One run, no scores, whole states, nothing to go: no column for any of that."""
    put(folder, manifest(100))
    assert ls(tmp_path).output.splitlines()[0].split() == [
        "checkpoint",
        "step",
        "epoch",
        "age",
        "size",
        "kept",
        "because",
    ]


def test_a_checkpoint_that_does_not_hold_everything_says_so(folder: Folder, tmp_path: Path) -> None:
    """Nobody takes weights alone for something to resume from."""
    put(folder, manifest(100))
    put(folder, manifest(200, what="weights only"))
    assert "  weights only  " in ls(tmp_path).output


def test_json_has_the_documented_keys(full: Path) -> None:
    """The page lists every key that is there, and no other."""
    found = document(full)
    keys = {*found}
    for name in ("checkpoints", "strangers"):
        keys |= {f"{name}[].{key}" for item in found[name] for key in item}
    assert keys == keys_of(PAGE.read_text(), "ls")


def test_json_says_what_the_table_says(full: Path) -> None:
    """The same order, names, reasons and strangers, in units for programs."""
    found = document(full)
    assert found["directory"] == str(full)
    assert [c["names"] for c in found["checkpoints"]] == [
        ["epoch=0-step=100.ckpt"],
        ["b.ckpt"],
        ["a.ckpt", "last.ckpt"],
    ]
    newest = found["checkpoints"][2]
    age = newest.pop("age")
    assert age > 0
    assert newest == {
        "id": manifest(1200, of=run(2)).id,
        "names": ["a.ckpt", "last.ckpt"],
        "run": run(2).id,
        "sequence": 1200,
        "step": 1200,
        "epoch": 1,
        "scores": {"val_loss": 0.25},
        "saved_at": "2023-11-14T22:13:20.000Z",
        "bytes": (full / "a.ckpt").stat().st_size,
        "what": "full",
        "healthy": True,
        "parts": ["model"],
        "policies": ["rules", "last"],
        "label": None,
        "pinned": False,
        "reason": "every 100 steps",
        "kept_because": "1st of 2 best by val_loss (min): 0.25; last",
        "next_to_go": False,
    }
    assert [c["next_to_go"] for c in found["checkpoints"]] == [False, True, False]
    assert [(s["name"], s["verdict"], s["bytes"]) for s in found["strangers"]] == [
        ("cut.ckpt", "corrupt", (full / "cut.ckpt").stat().st_size),
        ("other.ckpt", "foreign", 8),
    ]
    assert found["unfinished"] == [UNFINISHED]


def test_numbers_that_json_lacks_are_strings(folder: Folder, tmp_path: Path) -> None:
    """NaN and infinities do not make the document something that other readers refuse."""
    put(folder, manifest(1, scores={"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1}))
    assert document(tmp_path)["checkpoints"][0]["scores"] == {"a": "nan", "b": "inf", "c": "-inf", "d": 1}
    assert "a nan, b inf, c -inf, d 1" in ls(tmp_path).output


@pytest.mark.parametrize("saved_at", [math.nan, math.inf, 1e300, -1e300])
def test_a_time_that_is_none_is_not_known(folder: Folder, tmp_path: Path, saved_at: float) -> None:
    """What a ledger or a file says of its time is not to be trusted to be one."""
    told = records.to_json(put(folder, manifest(1)))
    folder.ledger.write("committed", record={**told, "saved_at": saved_at}, files=[])
    found = document(tmp_path)["checkpoints"][0]
    assert (found["saved_at"], found["age"]) == (None, None)
    assert "  unknown  " in ls(tmp_path).output


def test_a_name_cannot_play_with_the_terminal(folder: Folder, tmp_path: Path) -> None:
    """Escape sequences and bytes that are no text are shown as escapes; in JSON, as JSON has it."""
    (tmp_path / "red\x1b[31m\n.ckpt").write_bytes(b"x")
    (tmp_path / "bytes\udcff.ckpt").write_bytes(b"x")
    put(folder, manifest(1, reason="be\x07ll \x1b]0;title\x07"))
    shown = ls(tmp_path)
    assert shown.exit_code == 0
    assert "red\\x1b[31m\\n.ckpt" in shown.output
    assert "bytes\\udcff.ckpt" in shown.output
    assert "be\\x07ll \\x1b]0;title\\x07 (when saved)" in shown.output
    assert "\x1b" not in shown.output
    names = [s["name"] for s in document(tmp_path)["strangers"]]
    assert names == ["bytes\udcff.ckpt", "red\x1b[31m\n.ckpt"]


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    """A run that has not saved yet has a folder without checkpoints."""
    result = ls(tmp_path)
    assert (result.exit_code, result.output) == (0, f"no checkpoints in {tmp_path}\n")
    assert document(tmp_path) == {
        "directory": str(tmp_path),
        "checkpoints": [],
        "strangers": [],
        "unfinished": [],
        "below": [],
    }


def test_folders_of_checkpoints_within_it_are_named(tmp_path: Path) -> None:
    """Who gives the folder above their runs hears where they are."""
    for name in ("b", "a/1"):
        put(Folder(LocalStore(tmp_path / name)), manifest(100))
    heading = "folders of checkpoints below it, each with a list of its own"
    assert ls(tmp_path).output == f"no checkpoints in {tmp_path}\n\n{heading}\n{tmp_path}/a/1\n{tmp_path}/b\n"
    assert document(tmp_path)["below"] == ["a/1", "b"]
    assert heading not in ls(tmp_path / "b").output


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A mistyped path is not an empty folder; a script that reads JSON gets none."""
    result = ls(tmp_path / "typo", "--json")
    assert (result.exit_code, result.stdout) == (11, "")
    assert result.stderr == f"Error: There is no folder '{tmp_path / 'typo'}'.\n"


def test_a_file_is_for_verify(full: Path) -> None:
    """Who gives the path of a checkpoint hears which verb is for that."""
    result = ls(full / "a.ckpt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"`holdfast verify {full / 'a.ckpt'}`" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (47.9 * 3600, "47 h"),
        (48 * 3600, "2 d"),
        (5000 * 86400, "5,000 d"),
        (-0.5, "0 s"),
        (-90, "-1 min"),
        (None, "unknown"),
    ],
)
def test_ages_for_people(seconds: float | None, shown: str) -> None:
    """Rounded down; a clock that was ahead shows as such."""
    assert text.age(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_449_000_000, "1.4 GB"),
        (2 * 10**12, "2.0 TB"),
        (10**19, "10000.0 PB"),
    ],
)
def test_sizes_for_people(size: int, shown: str) -> None:
    """Powers of 1,000, never '1000.0 kB'."""
    assert log.size(size) == shown


def test_times_for_programs() -> None:
    """ISO 8601, in UTC and saying so."""
    assert text.utc(SAVED_AT + 0.25) == "2023-11-14T22:13:20.250Z"
