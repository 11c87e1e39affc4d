"""Workarounds for Orbax on a full disk, needed with orbax-checkpoint 0.12.8; look again at the next version.

tests/training/test_orbax_workarounds.py shows the need for each and fails once it is gone.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future

from sscd_jax.distributed import has_other_processes

IsExpected = Callable[[BaseException], bool]


class _KeepsFirst(logging.Filter):
    """Drops the records of expected errors, which Orbax's threads log with tracebacks, and keeps the first error."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.is_expected: IsExpected = lambda error: False

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not self.is_expected(error):
            return True
        self.error = self.error or error
        return False


_FILTER = _KeepsFirst()


@contextlib.contextmanager
def quiet(is_expected: IsExpected) -> Iterator[None]:
    """Keeps errors that the caller reports itself out of Orbax's log and off standard error.

    Two sources print them: Orbax's threads log each with a traceback, and once the first array of a save has failed,
    TensorStore reports the errors of the others to an event loop that Orbax has closed by then.

    Args:
        is_expected: a function that says whether the caller reports an error.
    """
    _FILTER.error, _FILTER.is_expected = None, is_expected
    logging.getLogger("absl").addFilter(_FILTER)  # it stays, as threads may be late
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before  # after an error the hook stays, as threads may be late


def raise_noticed() -> None:
    """Raises the first expected error that a thread of Orbax has logged within `quiet`; Orbax raises it later."""
    if _FILTER.error:
        raise _FILTER.error


def wait(for_threads: Callable[[], None]) -> None:
    """Calls a function that waits for Orbax's threads; with several processes, only until an expected error is logged.

    Orbax itself raises such an error 20 minutes later: its threads wait for the other processes, which wait for the
    part that this process could not write.

    Raises:
        Exception: the error that `for_threads` raises, or an expected error within `quiet`.
    """
    if not has_other_processes():
        for_threads()
        return
    done: Future[None] = Future()

    def run() -> None:
        try:
            for_threads()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # a daemon thread does not keep the process from ending
    while not futures.wait([done], timeout=0.1).done:
        raise_noticed()
    done.result()
