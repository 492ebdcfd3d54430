"""The verbs on checkpoints that are folders: listed, verified and converted as one thing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from holdfast.catalog import runs
from holdfast.catalog.folder import Folder
from holdfast.cli import main
from holdfast.engine.engine import Engine
from holdfast.engine.job import Captured
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress
from holdfast.policy.when import every
from holdfast.policy.where import Where
from holdfast.policy.which import last
from holdfast.store import LocalStore

NAME = "epoch=0-step=1.ckpt"
STATE = {
    "epoch": 3,
    "state_dict": {"wide": torch.arange(60_000.0).reshape(300, 200), "bits": torch.tensor([True, False])},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(300, 200)}}, "param_groups": [{"params": [0]}]}],
    "callbacks": {"one": {"memory": torch.arange(3)}},
}


@pytest.fixture
def folder(tmp_path):
    """A folder with one checkpoint that is a folder."""
    place = Folder(LocalStore(tmp_path / "runs"))
    place.store.prepare()
    policies = (
        Policy("rules", every(steps=1), last(3)),
        Policy("last", every(steps=1), last(1), where=Where(None, alias="last")),
    )
    places = {"model": ("state_dict",), "optimizer": ("optimizer_states", 0)}
    captured = Captured(STATE, places, groups={"optimizer": [["wide"]]}, divided=True)
    engine = Engine(place, runs.begin(place), policies, lambda what: captured)
    engine.consider(Moment(frozenset({Event.BATCH_END}), Progress(steps=1, batches=1)))
    engine.settle(last=True)
    engine.close(clean=True)
    return tmp_path / "runs"


def holdfast(*words):
    """A command's exit code and what it said."""
    done = CliRunner().invoke(main, [*map(str, words)])
    return done.exit_code, done.output


def test_it_is_listed_once_with_both_names(folder):
    """One row; its files are no checkpoints of their own, and listing inside it is refused."""
    code, said = holdfast("ls", folder, "--json")
    (listed,) = json.loads(said)["checkpoints"]
    assert (code, listed["names"]) == (0, [NAME, "last.ckpt"])
    assert json.loads(said)["strangers"] == []
    code, said = holdfast("ls", folder / NAME)
    assert code == 1
    assert "is one checkpoint" in said


def test_it_is_verified_through_any_name(folder):
    """By its own name, by the alias, and as one of its folder; damage names tensor and file."""
    for path in (folder, folder / NAME, folder / "last.ckpt"):
        code, said = holdfast("verify", path, "--json")
        assert code == 0, said
        assert [file["verdict"] for file in json.loads(said)["files"]] == ["whole"]
    shard = folder / NAME / "__0_0.distcp"
    raw = bytearray(shard.read_bytes())
    raw[100_000] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(raw)
    code, said = holdfast("verify", folder, "--json")
    (file,) = json.loads(said)["files"]
    assert (code, file["damaged"]) == (10, ["model.wide"])
    assert "tensor model.wide in __0_0.distcp has CRC-32" in file["why"]


def test_one_without_its_manifest_is_corrupt(folder):
    """What was written last and is gone: named, or met in its folder."""
    shutil.rmtree(folder / NAME / ".holdfast")
    for path in (folder, folder / NAME):
        code, said = holdfast("verify", path)
        assert code == 10
        assert "manifest is missing" in " ".join(said.split())


def test_it_becomes_one_file_and_a_folder_again(folder, tmp_path):
    """Both verify, stock torch opens the file, and the state is the same."""
    code, said = holdfast("convert", folder / "last.ckpt", tmp_path / "one.ckpt")
    assert code == 0, said
    assert said.startswith(f"wrote {tmp_path / 'one.ckpt'}, one file of ")
    assert said.endswith(f", and it verifies; {folder / 'last.ckpt'} is as it was\n")
    stock = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert torch.equal(stock["state_dict"]["wide"], STATE["state_dict"]["wide"])
    code, said = holdfast("convert", tmp_path / "one.ckpt", tmp_path / "many.ckpt", "--shards", 3)
    assert code == 0, said
    assert len(list((tmp_path / "many.ckpt").glob("*.distcp"))) == 3
    assert holdfast("verify", tmp_path / "one.ckpt", tmp_path / "many.ckpt")[0] == 0
    assert [*STATE] == [*stock]


WRONG = {
    "nothing there": (["missing.ckpt", "new"], 11, "There is no checkpoint"),
    "a folder of checkpoints": (["runs", "new"], 1, "a folder of checkpoints"),
    "a name that is taken": ([f"runs/{NAME}", "runs"], 1, "is there already"),
    "shards for one file": ([f"runs/{NAME}", "new", "--shards", "2"], 1, "becomes one file"),
    "another format": ([f"runs/{NAME}", "new.safetensors"], 1, "no safetensors file. Load the weights by torch.load"),
    "none of ours": (["foreign.ckpt", "new"], 12, "was not written by Holdfast"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_converted_is_said(folder, tmp_path, monkeypatch, case):
    """With the exit code for it, and nothing is written."""
    words, code, says = case
    (tmp_path / "foreign.ckpt").write_bytes(b"something else" * 100)
    monkeypatch.chdir(tmp_path)
    done, said = holdfast("convert", *words)
    assert (done, says in " ".join(said.split())) == (code, True), said
    assert list(tmp_path.glob("new*")) == []
