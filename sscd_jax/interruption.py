"""Ctrl-C between two steps of a run."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Within it the first Ctrl-C waits for a call of the function that it gives; a second one interrupts at once.

    An exception that Python raises wherever a signal happens to arrive, as in a callback of TensorFlow or JAX, can
    end the process by a segmentation fault.

    Yields:
        A function that raises KeyboardInterrupt where Ctrl-C was pressed.
    """
    asked = False
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread may handle signals; and where others handle them, or a shell has them ignored, it stays so.
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield lambda: None
        return

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)
        os.write(2, b"\nstops after this step; once more to stop at once\n")  # print may be interrupted by itself

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)
