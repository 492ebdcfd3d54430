"""Signals to real training processes: the step at hand is saved, then the process ends as the signal would end it."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
import torch

from checkpointer.loop import batches, build, everything, kept, learn, listing, train
from holdfast import Checkpointer, MemoryStore, every, last, never
from sameness import same

EPOCHS = 2
TARGET = "checkpointer.test_signals_loop:child"


def child(folder, place, step, times, each_step):
    """Train; at one place wait for so many lines: with each comes a signal. Everything it says goes to one pipe."""
    torch.set_num_threads(1)
    os.dup2(1, 2)
    state = build()
    try:
        with Checkpointer(folder, when=every(steps=1) if each_step else never(), which=last(1)) as ckpt:

            def wait_at(here):
                for _ in range(times if here == (place, step) else 0):
                    print("waiting", flush=True)
                    input()

            ckpt.resume(**state.objects())
            for epoch in range(EPOCHS):
                for batch in batches(epoch):
                    wait_at(("step", ckpt.progress.steps + 1))
                    state.history.append(learn(state, batch))
                    state.notes["newest"] = {"loss": state.history[-1], "epoch": epoch}
                    ckpt.step(samples=len(batch))
                wait_at(("validation", ckpt.progress.steps))
                ckpt.validated({"val_loss": state.history[-1]})
                state.scheduler.step()
                ckpt.epoch_end()
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
        raise SystemExit(130) from None
    finally:
        print("finally", flush=True)


def signalled(forks, folder, place, step, *signals, each_step=False):
    """What a child did that got these signals at that place: its exit code, and what it said after the last."""
    with forks.start(TARGET, str(folder), place, step, len(signals), each_step) as process:
        for sig in signals:
            while process.stdout.readline() != "waiting\n":
                pass
            os.kill(process.pid, sig)
            # One that came just before the child began to read is not seen until it has read.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("go\n")
        code = process.wait()
        return code, process.stdout.read().splitlines()


@pytest.fixture(scope="module")
def uninterrupted():
    """The end of a run that no signal stopped."""
    state = build()
    with Checkpointer(MemoryStore(), when=never()) as ckpt:
        train(ckpt, state, epochs=EPOCHS)
    return everything(state)


ENDS = {signal.SIGTERM: (143, ["finally"]), signal.SIGINT: (130, ["KeyboardInterrupt", "finally"])}


@pytest.mark.parametrize("sig", list(ENDS), ids=lambda sig: sig.name)
@pytest.mark.parametrize(("place", "step"), [("step", 1), ("step", 6), ("validation", 4)])
def test_a_signal_saves_the_very_step_then_ends_the_process(sig, place, step, forks, uninterrupted, tmp_path):
    """In the middle of a step or a validation: that step is durable, `finally` runs, and a resume goes on exactly."""
    code, said = signalled(forks, tmp_path, place, step, sig)
    assert said[0] == f"holdfast: {sig.name}: saving after this step, then stopping; send it again to stop at once"
    assert (code, said[-len(ENDS[sig][1]) :]) == ENDS[sig]
    (record,) = listing(tmp_path).records
    assert (record.names, record.progress.steps, record.reason) == (("last.ckpt",), step, sig.name)
    assert listing(tmp_path).ended == frozenset()
    state = build(seed=7)
    with Checkpointer(tmp_path, when=never()) as ckpt:
        train(ckpt, state, epochs=EPOCHS)
    assert same(everything(state), uninterrupted)


def test_a_signal_at_a_step_that_a_rule_saves_too_makes_one_checkpoint(forks, tmp_path):
    """The rule and the signal want the same step: one file, with the names of both."""
    code, _ = signalled(forks, tmp_path, "step", 3, signal.SIGTERM, each_step=True)
    assert code == 143
    assert kept(tmp_path) == [("epoch=0-step=3.ckpt", "last.ckpt")]


@pytest.mark.parametrize(
    ("signals", "code", "end"),
    [
        ((signal.SIGTERM, signal.SIGTERM), -signal.SIGTERM, []),
        ((signal.SIGINT, signal.SIGTERM), -signal.SIGTERM, []),
        ((signal.SIGTERM, signal.SIGINT), 130, ["KeyboardInterrupt", "finally"]),
        ((signal.SIGINT, signal.SIGINT), 130, ["KeyboardInterrupt", "finally"]),
    ],
    ids=lambda value: "+".join(s.name for s in value) if isinstance(value, tuple) else "",
)
def test_a_second_signal_ends_the_process_at_once(signals, code, end, forks, tmp_path):
    """Nobody waits for the step: the old handlers act, nothing is saved, and what was saved before stands."""
    with Checkpointer(tmp_path, when=never()) as ckpt:
        ckpt.resume(**build().objects())
        ckpt.step()
    before = kept(tmp_path)
    ended, said = signalled(forks, tmp_path, "step", 4, *signals)
    assert (ended, said) == (code, end)
    assert kept(tmp_path) == before
