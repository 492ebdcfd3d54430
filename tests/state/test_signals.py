"""What Signals promises, with real signals: the first sets a flag, the second acts as without us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from holdfast.errors import ConfigError
from holdfast.state.signals import Signals, exit_code

NOTICE = "holdfast: {}: saving after this step, then stopping; send it again to stop at once\n"


@contextmanager
def started(scene):
    """A child process that plays ``scene`` of signals_child.py; killed at the end with what it has forked."""
    command = [sys.executable, str(Path(__file__).with_name("signals_child.py")), scene]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def said(child):
    """The next line of the child, without its end."""
    return child.stdout.readline().rstrip("\n")


def test_sigterm_is_served_after_the_step_and_then_kills_as_ever():
    """The flag, the save, then death by SIGTERM; stderr holds the one line and nothing else."""
    with started("redeliver") as child:
        assert said(child) == "ready"
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    assert (out, err, child.returncode) == (
        "saved after SIGTERM\n",
        NOTICE.format("SIGTERM"),
        -signal.SIGTERM,
    )


def test_sigint_is_served_after_the_step_and_then_is_a_keyboard_interrupt():
    """After the save the process ends by an uncaught KeyboardInterrupt, by SIGINT as a shell expects."""
    with started("redeliver") as child:
        assert said(child) == "ready"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (out, child.returncode) == ("saved after SIGINT\n", -signal.SIGINT)
    assert err.startswith(NOTICE.format("SIGINT"))
    assert err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_run_can_leave_with_the_code_that_a_shell_gives_for_the_signal(sig):
    """128 + the signal's number, as an exit code."""
    with started("leave_with_code") as child:
        assert said(child) == "ready"
        child.send_signal(sig)
        assert child.wait(timeout=60) == exit_code(sig) == 128 + sig


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_kills_at_once_whatever_the_first_was(first):
    """The process dies of the second signal within a step that never ends."""
    with started("never_notice") as child:
        assert said(child) == "ready"
        child.send_signal(first)
        assert said(child) == "pending"
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    assert (out, err, child.returncode) == ("", NOTICE.format(first.name), -signal.SIGTERM)


def test_a_second_sigint_interrupts_at_once():
    """The second SIGINT is a KeyboardInterrupt at the line where the process stands."""
    with started("never_notice") as child:
        assert said(child) == "ready"
        child.send_signal(signal.SIGINT)
        assert said(child) == "pending"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    assert (out, child.returncode) == ("interrupted\n", -signal.SIGINT)


def test_a_users_own_handler_gets_the_signal_that_is_delivered_again():
    """The handler of before is back and called once; the process lives on where that handler lets it."""
    with started("own_handler") as child:
        assert said(child) == "ready"
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=60)
    assert (out, child.returncode) == ("user's handler got 15\ninstalled False\n", 0)


def test_a_second_signal_ends_a_process_whose_handler_was_put_above_ours():
    """A handler that calls ours does not make an endless round of it."""
    with started("chained") as child:
        assert said(child) == "ready"
        child.send_signal(signal.SIGTERM)
        assert said(child) == "pending"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == -signal.SIGTERM


def test_a_closed_stderr_does_not_raise_out_of_the_handler():
    """The flag is set where the line cannot be written."""
    with started("closed_stderr") as child:
        assert said(child) == "ready"
        child.send_signal(signal.SIGTERM)
        assert (said(child), child.wait(timeout=60)) == ("SIGTERM", 0)


def test_a_forked_child_passes_over_sigint_once_and_dies_of_sigterm():
    """A data loader's worker outlives the first Ctrl-C in silence, and can be terminated."""
    with started("forked") as child:
        worker = int(said(child))
        os.kill(worker, signal.SIGINT)
        assert said(child) == "child passed over SIGINT"
        os.kill(worker, signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    assert (out, err) == ("child ended by 15, parent's pending None\n", "")


def test_a_forked_child_dies_of_its_first_sigterm():
    """What terminates worker processes still does, without a word of saving."""
    with started("forked") as child:
        os.kill(int(said(child)), signal.SIGTERM)
        assert said(child) == "child ended by 15, parent's pending None"
        assert child.communicate(timeout=60) == ("", "")


@pytest.fixture
def caught():
    """A handler for SIGUSR1, in place during the test, that notes what it gets."""
    notes = []

    def note(number, frame):
        notes.append(number)

    before = signal.signal(signal.SIGUSR1, note)
    yield notes, note
    signal.signal(signal.SIGUSR1, before)


def test_the_signals_are_the_callers_choice_and_the_flag_is_one_of_signal_signals(caught, capfd):
    """Only the chosen signals are answered; the pending one stays readable after the context."""
    notes, note = caught
    with Signals((signal.SIGUSR1,)) as flags:
        assert flags.installed
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert flags.pending is None
        signal.raise_signal(signal.SIGUSR1)
        assert flags.pending is signal.SIGUSR1
    assert (flags.installed, flags.pending, notes) == (False, signal.SIGUSR1, [])
    assert signal.getsignal(signal.SIGUSR1) is note
    assert capfd.readouterr().err == NOTICE.format("SIGUSR1")


def test_a_handler_that_someone_else_has_set_meanwhile_is_left_alone(caught):
    """On exit only our own handlers are taken away."""

    def theirs(number, frame):
        raise AssertionError

    with Signals((signal.SIGUSR1,)):
        signal.signal(signal.SIGUSR1, theirs)
    assert signal.getsignal(signal.SIGUSR1) is theirs


def test_a_signal_that_is_ignored_stays_ignored(caught):
    """A background job whose SIGINT the shell ignores is not stopped by a Ctrl-C meant for another."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Signals((signal.SIGUSR1,)) as flags:
        signal.raise_signal(signal.SIGUSR1)
        assert (flags.installed, flags.pending) == (False, None)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def test_nested_contexts_hand_a_redelivered_signal_outwards(caught, capfd):
    """The inner one's previous handler is the outer one's: it sets the outer flag."""
    with Signals((signal.SIGUSR1,)) as outer:
        with Signals((signal.SIGUSR1,)) as inner:
            signal.raise_signal(signal.SIGUSR1)
            assert (inner.pending, outer.pending) == (signal.SIGUSR1, None)
            inner.redeliver()
        assert outer.pending is signal.SIGUSR1
    assert capfd.readouterr().err == NOTICE.format("SIGUSR1") * 2


def test_redeliver_without_a_signal_does_nothing(caught):
    """Nothing pending: nothing is delivered, and the handlers stay."""
    with Signals((signal.SIGUSR1,)) as flags:
        flags.redeliver()
        assert flags.installed
    assert caught[0] == []


def test_outside_the_main_thread_nothing_is_installed(caught):
    """A thread's context is allowed and does nothing."""
    seen = []

    def run():
        with Signals((signal.SIGUSR1,)) as flags:
            seen.append((flags.installed, signal.getsignal(signal.SIGUSR1)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, caught[1])]


def test_one_object_serves_one_context_at_a_time_and_can_be_used_again(caught, capfd):
    """Entering twice is refused; entering again later starts without a pending signal."""
    flags = Signals((signal.SIGUSR1,))
    with flags:
        with pytest.raises(RuntimeError, match="in use"), flags:
            pass
        signal.raise_signal(signal.SIGUSR1)
    with flags:
        assert flags.pending is None


def test_signals_that_nobody_can_catch_are_refused():
    """SIGKILL is a ConfigError when the object is made, not an OSError in the middle of a start."""
    with pytest.raises(ConfigError, match="SIGKILL"):
        Signals((signal.SIGTERM, signal.SIGKILL))
