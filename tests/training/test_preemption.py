"""Ctrl-C waits for the end of a step, and a second one does not."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from sscd_jax.training.preemption import deferred_interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def default():
    """As in a terminal; a shell's background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_waits_and_the_second_does_not(capfd):
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interruption:
        interruption.stop_if_asked()
        press()
        assert "once more" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            interruption.stop_if_asked()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_noted_and_a_second_one_ends_the_process():
    code = (
        "import os, signal\n"
        "from sscd_jax.training.preemption import deferred_interrupt\n"
        "with deferred_interrupt() as interruption:\n"
        "    assert not interruption.preempted\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert interruption.preempted\n"
        "    interruption.stop_if_asked()\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("still here\n", -signal.SIGTERM)
    assert done.stderr.count("saves after this step") == 1
    with deferred_interrupt():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_others_raise_goes_through():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), deferred_interrupt():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupt() as interruption:
        press()
        interruption.stop_if_asked()


def test_in_other_threads_nothing_is_changed():
    before, found = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with deferred_interrupt() as interruption:
            interruption.stop_if_asked()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before]
