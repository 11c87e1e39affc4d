"""Ends a run after a step when SIGTERM arrives or Ctrl-C is pressed, so that its state can be saved first.

The command line imports this module for its exceptions, so that JAX is imported inside the functions.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PREEMPTED = 75  # exit status, EX_TEMPFAIL of sysexits.h: try again later


class Preempted(Exception):
    """The run received SIGTERM and has saved its state; the message says after which step."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed and the run has saved its state; the message says after which step."""


@dataclass
class Interruption:
    """The signals that a run has received.

    Attributes:
        preempted: whether SIGTERM arrived, as it does before a machine is preempted.
        interrupted: whether Ctrl-C was pressed.
    """

    preempted: bool = False
    interrupted: bool = False

    def stops_at(self, step: int) -> bool:
        """Returns whether the run must save its state after this step and end.

        Several processes all return the same, so all of them must call it at every step.
        """
        import jax
        from jax.experimental import multihost_utils

        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self.preempted or self.interrupted

    def error(self, message: str) -> Preempted | Interrupted:
        """Returns the exception to raise once the state is saved: Interrupted after Ctrl-C in this process."""
        return Interrupted(message) if self.interrupted else Preempted(message)


def _say(line: bytes) -> None:
    """Writes a line to the terminal, from within the handler of a signal."""
    try:
        terminal = sys.stderr.fileno()  # descriptor 2 is the log of native libraries while a command runs
    except (AttributeError, OSError, ValueError):
        terminal = 2
    os.write(terminal, line)  # and not print: a signal may arrive inside print, which cannot be entered twice


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Defers the first Ctrl-C or SIGTERM to the end of a step; a second one ends the process at once.

    An exception that Python raises wherever a signal happens to arrive, such as in a callback of TensorFlow or JAX, can
    end the process by a segmentation fault. Handlers that somebody else has set, and signals that a shell has set to be
    ignored, stay as they are. Outside the main thread, which alone may handle signals, nothing is changed.

    Yields:
        The signals received so far, to be asked between two steps.
    """
    import jax

    received = Interruption()
    default: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    several = jax.process_count() > 1
    if several:  # JAX handles SIGTERM then, and tells the other processes
        del default[signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    ours = [number for number, before in default.items() if signal.getsignal(number) is before]

    def receive(number: int, _: object) -> None:
        signal.signal(number, default[number])
        if number == signal.SIGTERM:
            received.preempted = True
            _say(b"\nSIGTERM: saving after this step, then ending\n")
        else:
            received.interrupted = True
            _say(b"\nInterrupted: saving after this step, then ending; press Ctrl-C again to end at once\n")
            if several:
                os.kill(os.getpid(), signal.SIGTERM)  # all processes then agree on the step to save at

    for number in ours:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, default[number])
