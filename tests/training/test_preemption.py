"""The first Ctrl-C or SIGTERM waits for the end of a step, and a second one does not."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers.processes import two_processes

from sscd_jax.training.preemption import Interrupted, deferred_interrupt


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
        assert not interruption.stops_at(1)
        press()
        assert "press Ctrl-C again to end at once" in capfd.readouterr().err
        assert interruption.stops_at(2)
        error = interruption.error("saved after step 2")
        assert isinstance(error, Interrupted)
        assert isinstance(error, KeyboardInterrupt), "as whoever calls train expects it of Ctrl-C"
        assert str(error) == "saved after step 2"
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_noted_and_a_second_one_ends_the_process():
    code = (
        "import os, signal\n"
        "from sscd_jax.training.preemption import Preempted, deferred_interrupt\n"
        "with deferred_interrupt() as interruption:\n"
        "    assert not interruption.preempted\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert interruption.preempted\n"
        "    assert interruption.stops_at(1)\n"
        "    assert isinstance(interruption.error('saved'), Preempted)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("still here\n", -signal.SIGTERM)
    assert done.stderr.count("SIGTERM: saving after this step") == 1
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
        assert not interruption.stops_at(1)


def test_in_other_threads_nothing_is_changed():
    before, found = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with deferred_interrupt() as interruption:
            assert not interruption.stops_at(1)
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before]


STEPS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from sscd_jax import distributed
from sscd_jax.training.preemption import Interrupted, Preempted, deferred_interrupt
distributed.start()
distributed.join_processes_if_any(sys.argv[1], 2, int(sys.argv[2]))
try:
    with deferred_interrupt() as interruption:
        for step in range(1, 100_000):
            time.sleep(0.01)
            if step == 5 and sys.argv[2] in sys.argv[3]:
                os.kill(os.getpid(), signal.SIGINT)
            if interruption.stops_at(step):
                raise interruption.error(f"step {step}")
except (Preempted, Interrupted) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pressed", ["1", "01"])
def test_of_several_processes_all_stop_at_the_same_step(pressed):
    """Whether Ctrl-C is pressed in one of them, or in a terminal that has both."""
    results = two_processes(STEPS, pressed)
    assert [status for status, _, _ in results] == [0, 0], results
    names, steps = zip(*(output.split(" ", 1) for _, output, _ in results), strict=True)
    assert names == tuple("Interrupted" if str(number) in pressed else "Preempted" for number in range(2))
    assert steps[0] == steps[1]
