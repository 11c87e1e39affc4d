"""Ctrl-C and SIGTERM between two steps of a run."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PREEMPTED = 75  # exit status, EX_TEMPFAIL of sysexits.h: try again later


class Preempted(Exception):
    """A run was told to end, by SIGTERM, and has saved its state."""


@dataclass
class Interruption:
    """What was asked of a run from outside.

    Attributes:
        preempted: whether SIGTERM came, as machines send it that are about to be taken away.
    """

    preempted: bool = False
    _asked: bool = False

    def preempted_at(self, step: int) -> bool:
        """Whether the run is to save at this step and end; of several processes all say so at the same step.

        It must then be called at every step, by all of them.
        """
        import jax
        from jax.experimental import multihost_utils

        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self.preempted

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt where Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Within it the first Ctrl-C, or SIGTERM, waits for the end of a step; a second one ends the process at once.

    An exception that Python raises wherever a signal happens to arrive, as in a callback of TensorFlow or JAX, can
    end the process by a segmentation fault.

    Yields:
        What to ask between two steps.
    """
    asked = Interruption()
    # Only the main thread may handle signals; and where others handle them, or a shell has them ignored, it stays so.
    default: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    import jax

    if jax.process_count() > 1:  # JAX handles SIGTERM, and tells the others
        del default[signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    ours = [number for number, before in default.items() if signal.getsignal(number) is before]

    def ask(number: int, _: object) -> None:
        signal.signal(number, default[number])
        # Not print, which may be interrupted by itself.
        if number == signal.SIGTERM:
            asked.preempted = True
            os.write(2, b"\nSIGTERM: saves after this step, and ends\n")
        else:
            asked._asked = True
            os.write(2, b"\nstops after this step; once more to stop at once\n")

    for number in ours:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number in ours:
            signal.signal(number, default[number])
