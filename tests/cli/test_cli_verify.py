"""``holdfast verify`` over real files: each verdict, its exit code, and what is said of damage."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.cli_page import PAGE, keys_of
from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.cli import main
from holdfast.cli.exits import MEANINGS, Exit, of, worst
from holdfast.errors import ConfigError, Corrupt, Foreign, NotFound
from holdfast.store import LocalStore
from making import image, manifest, overwrite, put, storage_offset


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def files(*arguments: object, exit: int) -> list[dict[str, Any]]:
    """The results as JSON, after a look at the exit code."""
    result = verify(*arguments, "--json")
    found = json.loads(result.stdout)
    assert (found["exit"], result.exit_code) == (exit, exit)
    return found["files"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(LocalStore(tmp_path / "run"))


@pytest.fixture
def root(folder: Folder, tmp_path: Path) -> Path:
    """A folder of two whole checkpoints, the newer one with an alias."""
    put(folder, manifest(100))
    put(folder, manifest(200), "epoch=0-step=200.ckpt", "last.ckpt")
    return tmp_path / "run"


def test_whole_checkpoints_are_success(root: Path) -> None:
    """Each file is read once, whatever its names, and the exit code is 0."""
    first, second = files(root, exit=0)
    assert (first["path"], first["verdict"], first["why"]) == (f"{root}/epoch=0-step=100.ckpt", "whole", "")
    assert second["names"] == ["epoch=0-step=200.ckpt", "last.ckpt"]
    assert second["bytes"] == (root / "last.ckpt").stat().st_size
    assert second["seconds"] > 0
    shown = verify(root).output
    assert f"{root}/epoch=0-step=200.ckpt, {root}/last.ckpt  whole" in shown
    assert shown.endswith("\n2 whole\n")


def test_damage_is_told_by_tensor_and_both_checksums(root: Path) -> None:
    """A changed byte in a storage names the tensors that live there, and no others."""
    path, saved = root / "epoch=0-step=100.ckpt", manifest(100)
    whole, content = image(saved)
    entry = next(e for e in whole.entries if e.name == "archive/data/1")
    overwrite(path, storage_offset(saved, "1") + 3, b"\xff")
    damaged = bytearray(content[entry.offset : entry.offset + entry.length])
    damaged[3] = 0xFF
    result = files(root, exit=10)[0]
    assert result["verdict"] == "corrupt"
    assert result["damaged"] == ["model.layer1.weight", "model.layer3.weight"]
    assert f"{entry.crc:08x}" in result["why"]
    assert f"{zlib.crc32(damaged):08x}" in result["why"]
    shown = verify(path)
    assert shown.exit_code == 10
    assert "model.layer1.weight, model.layer3.weight" in shown.output


def test_every_single_changed_byte_is_found(root: Path) -> None:
    """Structure, content or manifest: whichever byte of the file differs, the command says corrupt."""
    path = root / "epoch=0-step=100.ckpt"
    content = path.read_bytes()
    for offset in range(0, len(content), 37):
        overwrite(path, offset, bytes([content[offset] ^ 1]))
        assert verify(path).exit_code == 10, f"byte {offset}"
        overwrite(path, offset, content[offset : offset + 1])
    assert verify(path).exit_code == 0


def test_what_lost_every_sign_is_corrupt_while_the_ledger_remembers(root: Path, tmp_path: Path) -> None:
    """A checkpoint that is all zeros by now is not called foreign; without a ledger nobody can know."""
    path = root / "epoch=0-step=100.ckpt"
    overwrite(path, 0, bytes(path.stat().st_size))
    assert files(path, exit=10)[0]["why"] == "the ledger says that Holdfast wrote it, and nothing of that is left"
    assert [f["verdict"] for f in files(root, exit=10)] == ["whole", "corrupt"]
    (root / LEDGER).unlink()
    assert files(path, exit=12)[0]["verdict"] == "foreign"


def test_a_name_with_folders_in_it_finds_the_ledger_above(folder: Folder, root: Path) -> None:
    """``val/loss=0.5.ckpt`` belongs to the folder that has the ledger, not to ``val``."""
    put(folder, manifest(300), "val/loss=0.5.ckpt")
    path = root / "val" / "loss=0.5.ckpt"
    overwrite(path, 0, bytes(path.stat().st_size))
    assert files(path, exit=10)[0]["names"] == ["val/loss=0.5.ckpt"]
    assert files(root / "val" / ".." / "epoch=0-step=100.ckpt", exit=0)[0]["verdict"] == "whole"


def test_foreign_files_count_only_where_they_are_named(root: Path) -> None:
    """A folder may hold other people's files; but asked to verify one, we cannot."""
    (root / "other.ckpt").write_bytes(b"not ours")
    assert [f["verdict"] for f in files(root, exit=0)] == ["whole", "whole", "foreign"]
    assert files(root / "other.ckpt", exit=12)[0]["verdict"] == "foreign"


def test_what_is_not_there_is_not_success(root: Path, tmp_path: Path) -> None:
    """Nothing verified is no proof: a missing file, an empty folder, a folder of foreign files."""
    assert files(tmp_path / "typo.ckpt", exit=11)[0]["verdict"] == "missing"
    assert files(root / "last.ckpt" / "below-a-file", exit=11)[0]["verdict"] == "missing"
    (tmp_path / "empty").mkdir()
    assert files(tmp_path / "empty", exit=11)[0]["why"] == "there is no checkpoint of Holdfast's in this folder"
    (tmp_path / "empty" / "other.ckpt").write_bytes(b"not ours")
    assert [f["verdict"] for f in files(tmp_path / "empty", exit=11)] == ["foreign", "missing"]
    assert files(root.parent, exit=11)[-1]["why"].endswith(f"in this folder, but below it are others: {root}")


def test_what_cannot_be_read_is_not_called_corrupt(tmp_path: Path) -> None:
    """A pipe by that name says nothing of any checkpoint."""
    os.mkfifo(tmp_path / "pipe.ckpt")
    (result,) = files(tmp_path / "pipe.ckpt", exit=1)
    assert result["verdict"] == "unreadable"
    assert str(tmp_path / "pipe.ckpt") in result["why"]


def test_the_worst_of_all_counts(root: Path, tmp_path: Path) -> None:
    """Every path is looked at, whatever came before it."""
    (root / "other.ckpt").write_bytes(b"not ours")
    named = [root / "last.ckpt", root / "other.ckpt"]
    assert len(files(*named, exit=12)) == 2
    named.append(tmp_path / "typo.ckpt")
    assert len(files(*named, exit=11)) == 3
    os.mkfifo(tmp_path / "pipe.ckpt")
    named.append(tmp_path / "pipe.ckpt")
    assert len(files(*named, exit=1)) == 4
    (root / "cut.ckpt").write_bytes(image(manifest(300))[1][:-1])
    named.insert(0, root / "cut.ckpt")
    assert [f["verdict"] for f in files(*named, exit=10)] == [
        "corrupt",
        "whole",
        "foreign",
        "missing",
        "unreadable",
    ]


def test_json_has_the_documented_keys(root: Path) -> None:
    """The page lists every key that is there, and no other."""
    found = json.loads(verify(root, "--json").stdout)
    assert {*found, *(f"files[].{key}" for file in found["files"] for key in file)} == keys_of(
        PAGE.read_text(), "verify"
    )


def test_exit_codes_are_what_they_were() -> None:
    """Scripts rely on the numbers, and each has a meaning."""
    assert {exit.name: int(exit) for exit in Exit} == {
        "OK": 0,
        "ERROR": 1,
        "USAGE": 2,
        "CORRUPT": 10,
        "NOT_FOUND": 11,
        "FOREIGN": 12,
    }
    assert set(MEANINGS) == set(Exit)
    assert worst([]) is Exit.OK


def test_errors_have_the_codes_of_what_they_say() -> None:
    """A verb that raises ends as one that found the same."""
    assert of(Corrupt("is corrupt.", checkpoint="x")) is Exit.CORRUPT
    assert of(NotFound("does not exist.", checkpoint="x")) is Exit.NOT_FOUND
    assert of(Foreign("is foreign.", checkpoint="x")) is Exit.FOREIGN
    assert of(ConfigError("No.")) is Exit.ERROR
