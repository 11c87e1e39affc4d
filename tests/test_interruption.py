"""Ctrl-C waits for the end of a step, and a second one does not."""

import os
import signal
import threading

import pytest

from sscd_jax.interruption import deferred_interrupt


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
    with deferred_interrupt() as stop_if_asked:
        stop_if_asked()
        press()
        assert "once more" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_others_raise_goes_through():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), deferred_interrupt():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupt() as stop_if_asked:
        press()
        stop_if_asked()


def test_in_other_threads_nothing_is_changed():
    before, found = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with deferred_interrupt() as stop_if_asked:
            stop_if_asked()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before]
