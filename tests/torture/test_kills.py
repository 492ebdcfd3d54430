"""SIGKILL at any instant of a run that saves at every step."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass

from scale import whole
from torture.aftermath import check, look
from torture.child import wanted

KILLS = 50 if whole else 12
LONGEST = 0.25  # seconds from a start, or from a save, to the kill; a save takes about a hundredth of one
SEED = 1729


@dataclass(frozen=True)
class Attempt:
    """A process that was killed.

    Args:
        began: The step that it went on from, and its weights then; None if it was killed before.
        acknowledged: The steps whose saves it said to be durable.
    """

    began: tuple[int, str] | None
    acknowledged: tuple[int, ...]


def attempt(forks, folder, *, seconds, held, saves):
    """Let a run go on in ``folder``, and kill it after so many seconds.

    One that is held has begun and has saved so often when its seconds start, however slow the disk is; nothing
    unfinished is left when it begins. Any other is hit while it begins as well.
    """
    with forks.start("torture.child:train", str(folder), int(held)) as child:
        assert child.stdout.readline() == "prepared\n"
        said = ""
        if held:
            said = child.stdout.readline()
            assert look(folder).leftovers == (), "a start sweeps what the killed run left"
            child.stdin.write("go\n")
            said += "".join(child.stdout.readline() for _ in range(saves))
        time.sleep(seconds)  # the instant of the kill is what is tested
        assert child.kill() == -9
        said += child.stdout.read()
    began = re.search(r"^began (\d+) (\w+)\n", said)
    return Attempt(
        began=(int(began[1]), began[2]) if began else None,
        acknowledged=tuple(map(int, re.findall(r"^saved epoch=0-step=(\d+)\.ckpt, last\.ckpt .*\n", said, re.M))),
    )


def test_no_kill_costs_an_acknowledged_step_or_leaves_anything_behind(forks, oracle, tmp_path):
    """Killed at random instants and resumed again and again in one folder, a run keeps every promise each time."""
    chance = random.Random(SEED)
    attempts, aftermaths = [], [look(tmp_path)]
    for number in range(KILLS):
        before = aftermaths[-1]
        seconds, held = chance.uniform(0.0, LONGEST), number % 2 == 0
        killed = attempt(forks, tmp_path, seconds=seconds, held=held, saves=number % 8)
        found = look(tmp_path)
        if killed.began:
            assert killed.began[0] == before.newest, "a run goes on from the newest checkpoint there is"
        if killed.acknowledged:
            allowed = {before.newest} | wanted(found.newest) | wanted(found.newest - 1)
            assert set(found.weights) <= allowed, "what no rule keeps goes with the first save after a kill"
        assert len(found.leftovers) <= 2, "one unfinished file, and one unfinished alias"
        attempts.append(killed)
        aftermaths.append(found)

    saves = sum(len(killed.acknowledged) for killed in attempts)
    assert saves > KILLS, "kills that hit no saving would prove nothing"
    truth = oracle(aftermaths[-1].newest)
    acknowledged = 0
    for killed, found in zip(attempts, aftermaths[1:], strict=True):
        acknowledged = max((acknowledged, *killed.acknowledged))
        check(found, acknowledged=acknowledged, oracle=truth)
        if killed.began:
            assert killed.began[1] == truth[killed.began[0]], "it began with exactly the state of that step"
    assert max(found.bytes for found in aftermaths) <= _bound(aftermaths[-1])


def _bound(found):
    """Bytes at the worst: what rules want before and after a save, what was resumed from, one unfinished file."""
    most = max(len(wanted(step) | wanted(step - 1)) for step in range(1, found.newest + 1))
    return (most + 2) * found.bytes // len(found.weights)
