"""A job's processes are started in every way there is, know each other, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from holdfast.errors import ConfigError
from holdfast.strategies.launch import describe, own_command
from scale import whole

SCRIPT = Path(__file__).with_name("launched.py")
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
only_whole = pytest.mark.skipif(not whole, reason="an import of torch for each rank: run by make torture")


def module(name):
    """A main module that was started as ``python -m name``; None as a script."""
    main = types.ModuleType("__main__")
    main.__spec__ = None if name is None else types.SimpleNamespace(name=name)
    return main


@pytest.mark.parametrize(
    ("name", "argv", "rest"),
    [
        (None, [str(SCRIPT), "--lr", "0.1"], [str(SCRIPT), "--lr", "0.1"]),
        ("train", ["/somewhere/train.py", "x"], ["-m", "train", "x"]),
        ("package.__main__", ["/somewhere/package/__main__.py", "x"], ["-m", "package", "x"]),
    ],
)
def test_the_program_is_run_again_as_it_was_run(name, argv, rest):
    """A script by its path, a module by its name, with its arguments and the interpreter's flags."""
    assert own_command(module(name), argv, ["-X", "dev"]) == [sys.executable, "-X", "dev", *rest]


@pytest.mark.parametrize("argv", [[""], ["-c"], []])
def test_what_is_no_script_is_refused(argv):
    """A notebook, ``python -c``, an interactive session: the sentence says what works there."""
    with pytest.raises(ConfigError, match="strategy='ddp_notebook'"):
        own_command(module(None), argv, [])


@pytest.mark.parametrize(("code", "says"), [(-9, "SIGKILL"), (3, "exit code 3"), (-250, "signal 250")])
def test_exit_codes_are_said_in_words(code, says):
    """A signal by its name."""
    assert describe(code) == says


def start(folder, strategy, does="trains", *before):
    """The script in a process of its own: its exit code, what it wrote, what each rank said, by rank."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    tests = os.pathsep.join([str(SCRIPT.parents[1]), environment.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, *before, str(SCRIPT), strategy, str(folder), does, str(folder / "said")],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        timeout=200,
    )
    said = [json.loads(path.read_text()) for path in sorted(folder.glob("said.*"))]
    return ended.returncode, ended.stderr, said


def check(said):
    """What a fit of two epochs on two ranks has come to."""
    assert (said["epoch"], said["step"], said["version"]) == (2, 8, 0)
    assert said["best"] == "lightning_logs/version_0/checkpoints/epoch=1-step=8.ckpt"
    assert said["top"] == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]
    assert said["last"] == "lightning_logs/version_0/checkpoints/last.ckpt"
    assert said["score"] == said["stopper"] == said["metrics"]["val"]
    assert said["logged"] == ["lightning_logs/version_0/metrics.csv"]


def test_a_script_starts_its_other_ranks(tmp_path):
    """``strategy="ddp"``: both ranks run it, and know the same at its end."""
    code, log, (zero, one) = start(tmp_path, "ddp")
    assert code == 0, log
    check(zero)
    assert {**one, "rank": 0} == zero
    assert log.count("holdfast: saved ") == 2  # rank 0 alone writes, and says so


def test_forked_ranks_bring_home_what_they_have_done(ranks, tmp_path):
    """Weights, metrics, callbacks, the logger's version; then the caller validates, and a second fit goes on."""
    (one,) = ranks.run("launched:spawned", "ddp_fork", str(tmp_path), "trains", size=1)
    check(one.value)
    assert one.value["best val"] == one.value["val"] == pytest.approx(one.value["score"])
    assert one.value["went on to"] == [3, 12]
    assert "epoch=2-step=12.ckpt" in one.value["names"]


def test_a_notebooks_ranks_are_forked_too(ranks, tmp_path):
    """``strategy="ddp_notebook"``: there is no script that could be run again."""
    (one,) = ranks.run("launched:spawned", "ddp_notebook", str(tmp_path), "trains", size=1)
    check(one.value)


def test_a_script_that_is_started_on_two_hosts_is_one_job(ranks, tmp_path):
    """``num_nodes=2``: each host says which it is; both know the same in the end, and one writes."""
    zero, one = (rank.value for rank in ranks.run("launched:on_host", str(tmp_path), size=2))
    check(zero)
    assert {**one, "rank": 0} == zero


def test_what_is_not_prepared_for_each_host_is_prepared_once(ranks, tmp_path):
    """``prepare_data_per_node = False``, of a datamodule and of a module: the second host leaves it to the first."""
    zero, one = (rank.value for rank in ranks.run("launched:preparing", str(tmp_path), size=2))
    assert zero == [["data", "module"]] * 2
    assert one == [["data"], ["module"]]


def test_spawned_ranks_bring_home_what_they_have_done(ranks, tmp_path):
    """The same of processes that begin anew."""
    (one,) = ranks.run("launched:spawned", "ddp_spawn", str(tmp_path), "trains", size=1, patience=150)
    check(one.value)


def test_a_signal_to_a_forked_rank_ends_the_caller_as_it_ends_a_process(ranks, tmp_path):
    """SIGTERM to rank 1: all save, and the process that called ends with 143."""
    (one,) = ranks.run("launched:spawned", "ddp_fork", str(tmp_path), "signalled", size=1, ok=False)
    assert one.code == 128 + signal.SIGTERM, one.log
    assert "saved at step" in one.log
    assert list((tmp_path / "lightning_logs/version_0/checkpoints").glob("*.ckpt"))


def test_an_error_of_a_forked_rank_is_raised_in_the_caller(ranks, tmp_path):
    """With its traceback; no rank is left."""
    (one,) = ranks.run("launched:spawned", "ddp_fork", str(tmp_path), "raises", size=1, ok=False)
    assert one.code == 1
    assert "ValueError: on purpose" in one.log


@only_whole
def test_torchrun_starts_the_ranks(tmp_path):
    """Its variables are understood; no rank starts another."""
    before = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    code, log, (zero, one) = start(tmp_path, "ddp", "trains", *before)
    assert code == 0, log
    check(zero)
    assert {**one, "rank": 0} == zero


@only_whole
def test_a_signal_to_one_rank_of_a_script_ends_all_with_143(tmp_path):
    """Rank 1 gets SIGTERM; both save the same step and the script's exit code is the signal's."""
    code, log, _ = start(tmp_path, "ddp", "signalled")
    assert code == 143, log
    assert "saved at step" in log


@only_whole
def test_an_error_of_one_rank_of_a_script_ends_all(tmp_path):
    """Promptly, with that rank's traceback, and rank 0 says whose error it was."""
    code, log, _ = start(tmp_path, "ddp", "raises")
    assert code == 1
    assert "ValueError: on purpose" in log
    assert "rank 1" in log
