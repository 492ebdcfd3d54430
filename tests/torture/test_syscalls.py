"""SIGKILL before each single system call of one save, and EINTR from each that may give it. Needs strace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from contextlib import contextmanager

import pytest

from scale import sample
from torture.aftermath import check, look
from torture.child import wanted

BEFORE = 5  # steps before the one that is hit: it moves the alias and evicts
FOREVER = 10**6  # steps that wait for a line
# All that changes a disk, or makes it certain; strace passes over the names that this machine lacks.
CHANGING = (
    *("open", "openat", "creat", "fallocate", "ftruncate", "write", "pwrite64", "fchmod", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat"),
)
# Not open: Python does not try an opendir again, which no local file system interrupts.
INTERRUPTIBLE = ("fallocate", "ftruncate", "write", "pwrite64", "fchmod", "fsync")
_CALL = re.compile(r"(\d+) +(\w+)\((.*)")  # thread, name, arguments

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@contextmanager
def at_rest(forks, folder):
    """A child that has made its checkpoints up to ``BEFORE``, and waits for a line to make the next."""
    with forks.start("torture.child:train_traced", str(folder), FOREVER) as child:
        said = [child.stdout.readline(), child.stdout.readline()]
        for _ in range(BEFORE):
            child.stdin.write("step\n")
            said.append(child.stdout.readline())
        assert all(said)
        yield child


def traced(child, log, *options):
    """One more step of a child under strace; what it says of it, and its exit code."""
    command = ["strace", "-f", "-p", str(child.pid), "-o", str(log), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        attached = strace.stderr.readline()
        if "attached" not in attached:
            pytest.skip(f"this machine does not let strace attach: {attached.strip()}")
        child.stdin.write("step\n")
        said = child.stdout.readline()
        code = child.wait()
        strace.stderr.read()
    return said, code


def calls_of_one_save(forks, tmp_path):
    """Every call of one undisturbed save, as (name, its number among the calls of that name), in order."""
    log = tmp_path / "calls"
    with at_rest(forks, tmp_path / "counted") as child:
        # Stopping the run closes it, which is another matter: what is counted ends with the acknowledgement.
        said, _ = traced(child, log, "-e", f"trace={','.join('?' + name for name in CHANGING)}")
    assert said.startswith(f"saved epoch=0-step={BEFORE + 1}.ckpt, last.ckpt ")
    made = [_CALL.match(line).groups() for line in log.read_text().splitlines() if _CALL.match(line)]
    end = next(place for place, call in enumerate(made) if call[1] == "write" and '"saved epoch' in call[2])
    writer = made[end][0]
    counted, calls = Counter(), []
    for _, name, _ in (call for call in made[: end + 1] if call[0] == writer):
        counted[name] += 1
        calls.append((name, counted[name]))
    return calls


@pytest.mark.timeout(900)
def test_a_kill_before_any_system_call_of_a_save_leaves_a_whole_folder(forks, oracle, tmp_path):
    """Killed before its n-th write, sync, rename or unlink, a save is there whole or not at all."""
    truth = oracle(BEFORE + 3)
    calls = calls_of_one_save(forks, tmp_path)
    assert {"pwrite64", "fsync", "rename", "link", "unlink"} <= {name.removesuffix("at") for name, _ in calls}
    newest = []
    for name, number in sample(calls, 8):
        folder = tmp_path / f"{name}-{number}"
        with at_rest(forks, folder) as child:
            hit = f"inject={name}:signal=KILL:when={number}"
            said, code = traced(child, tmp_path / "log", "-e", f"trace={name}", "-e", hit)
        assert (said, code) == ("", -9), "killed before it could say that it was done"
        found = look(folder)
        check(found, acknowledged=BEFORE, oracle=truth)
        assert set(found.weights) <= wanted(BEFORE) | wanted(BEFORE + 1)
        newest.append(found.newest)

        with forks.start("torture.child:train", str(folder), 2) as child:
            assert child.stdout.readline() == "prepared\n"
            assert child.stdout.readline() == f"began {found.newest} {truth[found.newest]}\n"
            assert look(folder).leftovers == (), "the next start sweeps what was left"
            child.stdin.write("step\n")
            assert child.stdout.readline().startswith(f"saved epoch=0-step={found.newest + 1}.ckpt, last.ckpt ")
        settled = look(folder)
        check(settled, acknowledged=found.newest + 1, oracle=truth)
        assert set(settled.weights) == wanted(settled.newest) | ({found.newest})
        shutil.rmtree(folder)
    assert newest[0] == BEFORE, "before the first call the save has not begun"
    assert newest[-1] == BEFORE + 1, "before the last call it is complete"
    assert newest == sorted(newest), "there is one instant at which it comes into being"


@pytest.mark.timeout(900)
def test_a_save_survives_interrupted_system_calls(forks, oracle, tmp_path):
    """EINTR from the n-th call costs nothing: the save ends, and verifies."""
    truth = oracle(BEFORE + 1)
    calls = [call for call in calls_of_one_save(forks, tmp_path) if call[0] in INTERRUPTIBLE]
    for name, number in sample(calls, 4):
        folder = tmp_path / f"{name}-{number}"
        log = tmp_path / "log"
        with at_rest(forks, folder) as child:
            hit = f"inject={name}:error=EINTR:when={number}"
            said, _ = traced(child, log, "-e", f"trace={name}", "-e", hit)
        assert "EINTR (Interrupted system call) (INJECTED)" in log.read_text()
        assert said.startswith(f"saved epoch=0-step={BEFORE + 1}.ckpt, last.ckpt ")
        check(look(folder), acknowledged=BEFORE + 1, oracle=truth)
        shutil.rmtree(folder)
