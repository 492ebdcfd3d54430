"""Processes that test_signals.py sends signals to. Each prints a line when it is ready for the next one."""

from __future__ import annotations

import os
import signal
import sys
import threading

from holdfast.state.signals import Signals, exit_code


def say(word):
    print(word, flush=True)


def wait_for(flags):
    """The loop of a training: looks at the flag at each step, here every millisecond."""
    step = threading.Event()
    while flags.pending is None:
        step.wait(0.001)


def redeliver():
    """Step, notice, save, end as without us."""
    with Signals() as flags:
        say("ready")
        wait_for(flags)
        say(f"saved after {flags.pending.name}")
        flags.redeliver()
    say("lives on")


def leave_with_code():
    """Notice, save, leave with the code that a shell would report."""
    with Signals() as flags:
        say("ready")
        wait_for(flags)
        sys.exit(exit_code(flags.pending))


def never_notice():
    """A step that does not end: only a second signal can stop it."""
    try:
        with Signals() as flags:
            say("ready")
            wait_for(flags)
            say("pending")
            threading.Event().wait()
    except KeyboardInterrupt:
        say("interrupted")
        raise


def own_handler():
    """A user's own handler is put back, and gets the signal that is delivered again."""
    signal.signal(signal.SIGTERM, lambda number, frame: say(f"user's handler got {number}"))
    with Signals() as flags:
        say("ready")
        wait_for(flags)
        flags.redeliver()
        say(f"installed {flags.installed}")


def chained():
    """A handler that was put above ours and calls it: the second signal still ends the process."""
    with Signals() as flags:
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        say("ready")
        wait_for(flags)
        say("pending")
        threading.Event().wait()


def closed_stderr():
    """The line has nowhere to go: the flag is set all the same."""
    os.close(2)
    with Signals() as flags:
        say("ready")
        wait_for(flags)
        say(flags.pending.name)
    os._exit(0)


def forked():
    """A forked child inherits the handlers; it prints its id, its parent prints how it ended."""
    with Signals() as flags:
        child = os.fork()
        if child == 0:
            # Said by the child itself: what comes before Python has come back from the fork is forgotten.
            say(os.getpid())
            wait_for(flags)
            say("child passed over SIGINT")
            threading.Event().wait()
        _, status = os.waitpid(child, 0)
        say(f"child ended by {os.WTERMSIG(status)}, parent's pending {flags.pending}")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    assert "torch" not in sys.modules
